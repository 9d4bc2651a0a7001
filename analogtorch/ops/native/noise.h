/* The generator of ops/generator.py, LANES columns at a time; its numbers are those of ops/constants.py. */
#include "constants.h"

INLINE uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * MIX64_1;
  x = (x ^ (x >> 27)) * MIX64_2;
  return x ^ (x >> 31);
}

INLINE uint64_t fold(uint64_t key, uint64_t word) {
  return mix64(mix64(key + word * GOLDEN) + key);
}

/* column + 0, 1, 2, ... of the row that has this word. */
INLINE vu random_bits(uint64_t word, uint32_t column) {
  uint32_t a = (uint32_t)word, b = (uint32_t)(word >> 32);
  vu x = (lane_numbers() + column) * (b | 1u) + a;
  x = (x ^ (x >> 16)) * MIX32_1;
  x = (x ^ (x >> 15) ^ b) * MIX32_2;
  return x ^ (x >> 15);
}

static const float logarithm[] = {7.0376836292E-2f, -1.1514610310E-1f, 1.1676998740E-1f, -1.2420140846E-1f,
                                  1.4249322787E-1f, -1.6668057665E-1f, 2.0000714765E-1f, -2.4999993993E-1f,
                                  3.3333331174E-1f};
static const float inverse[] = {INVERSE};
enum { LOG_TERMS = sizeof logarithm / sizeof *logarithm, TERMS = sizeof inverse / sizeof *inverse };

/* What follows takes `n` vectors at a time, step by step: each step waits for the one before it, and the vectors fill the
 * time. Their number changes no result. */
#define ALL UNROLL for (int v = 0; v < n; v++)
enum { TOGETHER = 8 };

/* ln(x) for normal x > 0, to 1 ulp: cephes' logf without its special cases. */
INLINE void logs(int n, vf *x) {
  vf e[TOGETHER], m[TOGETHER], y[TOGETHER];
  ALL {
    vi exponent = (vi)((vu)x[v] - 0x3F3504F3u) >> 23;
    e[v] = __builtin_convertvector(exponent, vf), m[v] = (vf)((vu)x[v] - ((vu)exponent << 23)) - 1.0f;
    y[v] = same(logarithm[0]);
  }
  UNROLL for (int i = 1; i < LOG_TERMS; i++) ALL y[v] = y[v] * m[v] + logarithm[i];
  ALL {
    vf z = m[v] * m[v];
    y[v] = y[v] * m[v] * z - 2.12194440e-4f * e[v] - 0.5f * z;
    x[v] = m[v] + y[v] + 0.693359375f * e[v];
  }
}

/* The inverse normal distribution, as ops/generator.py defines it. */
INLINE void normals_of(int n, const vu *bits, vf *z) {
  vf t[TOGETHER];
  ALL t[v] = (__builtin_convertvector((vi)(bits[v] & 0x7FFFFFFFu), vf) + 0.5f) * 0x1p-31f;
  logs(n, t);
  ALL t[v] = root(LOG_OFFSET - t[v]) * SLOPE + OFFSET;
  ALL z[v] = same(inverse[TERMS - 1]);
  UNROLL for (int i = TERMS - 2; i >= 0; i--) ALL z[v] = z[v] * t[v] + inverse[i];
  ALL z[v] = (vf)((vu)z[v] ^ (bits[v] & 0x80000000u));
}

#undef ALL

INLINE vf log_normal(vf x) {
  logs(1, &x);
  return x;
}

INLINE vf normal(uint64_t word, uint32_t column) {
  vu bits = random_bits(word, column);
  vf z;
  normals_of(1, &bits, &z);
  return z;
}

/* TOGETHER vectors of normals. */
INLINE void normals(uint64_t word, uint32_t column, vf z[TOGETHER]) {
  vu bits[TOGETHER];
  UNROLL for (int v = 0; v < TOGETHER; v++) bits[v] = random_bits(word, column + (uint32_t)(v * LANES));
  normals_of(TOGETHER, bits, z);
}

/* `count` vectors of normals, up to TOGETHER, in one column of the rows that have these words. */
INLINE void normals_in_column(int count, const uint64_t *word, uint32_t column, vf *z) {
  vu bits[TOGETHER];
  UNROLL for (int v = 0; v < count; v++) bits[v] = random_bits(word[v], column);
  normals_of(count, bits, z);
}
