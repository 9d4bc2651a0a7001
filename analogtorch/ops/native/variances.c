/* Variances of weights by a table: ops/variances.py. */
#include "vec.h"
#include "noise.h"
#include "weights.h"
#include "tile.h"
#include "bfloat16.h"

/* out[n][k] = the table at w[n][k] / scale, in straight lines between `intervals` + 1 points from -1 to 1.
 * scale: of each block and output, found here. */
void at_variances(uint16_t *out, float *scale, const float *w, size outputs, const int64_t *bounds, size blocks,
                  const int64_t *columns, size n_columns, const float *table, size intervals) {
  size rows = bounds[blocks];
#pragma omp parallel num_threads(threads_for(16.0 * outputs * rows))
  {
    block_scales(scale, w, outputs, bounds, blocks, columns, n_columns);
#pragma omp for schedule(static)
    for (size n = 0; n < outputs; n++)
      for (size b = 0; b < blocks; b++) {
        float full = scale[b * outputs + n], half = 0.5f * (float)intervals;
        float up = half / (full > LEAST_SCALE ? full : LEAST_SCALE);
        for (size k = bounds[b]; k < bounds[b + 1]; k += LANES) {
          size count = bounds[b + 1] - k;
          vf t = load_some(w + n * rows + k, count) * up + half;
          t = select_(t > 0.0f, t, (vf){0}); /* NaN too: the partial sums are NaN in any case */
          t = select_(t < (float)intervals, t, same((float)intervals));
          vi i = __builtin_convertvector(t, vi);
          i = (vi)select_(i < (int32_t)intervals, (vf)i, (vf)((vi){0} + ((int32_t)intervals - 1)));
          vf low = from_table(table, i), high = from_table(table + 1, i);
          store_halves(out + n * rows + k, low + (t - __builtin_convertvector(i, vf)) * (high - low), count);
        }
      }
  }
}
