/* Normals at given positions, and keys: ops/generator.py. */
#include "vec.h"
#include "noise.h"

const char at_sources[] = AT_SOURCES; /* the fingerprint that build.py looks for */

/* out[r][j] = normal at row rows[r], column first[r] + j. */
void at_normal(float *out, int64_t key, const int64_t *rows, const int64_t *first, size n_rows, size count) {
#pragma omp parallel for schedule(static) num_threads(n_rows * count > 1 << 14 ? omp_get_max_threads() : 1)
  for (size r = 0; r < n_rows; r++) {
    uint64_t word = fold((uint64_t)key, (uint64_t)rows[r]);
    for (size j = 0; j < count; j += TOGETHER * LANES) {
      vf z[TOGETHER];
      normals(word, (uint32_t)first[r] + (uint32_t)j, z);
      UNROLL for (int v = 0; v < TOGETHER; v++) store_some(out + r * count + j + v * LANES, z[v], count - j - v * LANES);
    }
  }
}

/* keys[i] = fold(seed, streams[i]). */
void at_keys(int64_t *keys, int64_t seed, const int64_t *streams, size count) {
  for (size i = 0; i < count; i++) keys[i] = (int64_t)fold((uint64_t)seed, (uint64_t)streams[i]);
}
