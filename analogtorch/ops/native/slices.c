/* The columns that hold the digits of weights: ops/slices.py. */
#include "vec.h"

/* out[n][c][k] = scale x table[c][integer of w[n][k]], for each block's scale of the output; `steps` integers lie on
 * each side of zero, and a table begins with the smallest. w: [outputs][rows]; out: [outputs][columns][rows]. */
void at_slices(float *out, const float *w, const float *scale, const float *table, size outputs, const int64_t *bounds,
               size blocks, size columns, size steps) {
  size rows = bounds[blocks], entries = 2 * steps + 1;
  vf most = same((float)steps);
#pragma omp parallel for schedule(static) num_threads(threads_for(4.0 * outputs * rows * columns))
  for (size n = 0; n < outputs; n++)
    for (size b = 0; b < blocks; b++) {
      float own = scale[b * outputs + n];
      vf full = same(own > 0 ? own : INFINITY); /* of a block of zeros: its weights stay 0 */
      for (size k = bounds[b]; k < bounds[b + 1]; k += LANES) {
        size count = bounds[b + 1] - k;
        vf q = nearest(load_some(w + n * rows + k, count) / full * most);
        q = select_(q > -most, q, -most); /* NaN too: its scale is NaN */
        q = select_(q < most, q, most);
        vi i = __builtin_convertvector(q, vi) + (int32_t)steps;
        float *to = out + n * columns * rows + k;
        for (size c = 0; c < columns; c++) store_some(to + c * rows, from_table(table + c * entries, i) * own, count);
      }
    }
}
