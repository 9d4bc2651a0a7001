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

/* ln(x) for 2^-32 <= x <= 1, to 1 ulp: cephes' logf without its special cases. */
INLINE vf log_unit(vf x) {
  vi exponent = ((vi)x - 0x3F3504F3) >> 23;
  vf e = __builtin_convertvector(exponent, vf), m = (vf)((vi)x - (exponent << 23)) - 1.0f, z = m * m;
  vf y = 7.0376836292E-2f * m - 1.1514610310E-1f;
  y = y * m + 1.1676998740E-1f;
  y = y * m - 1.2420140846E-1f;
  y = y * m + 1.4249322787E-1f;
  y = y * m - 1.6668057665E-1f;
  y = y * m + 2.0000714765E-1f;
  y = y * m - 2.4999993993E-1f;
  y = y * m + 3.3333331174E-1f;
  y = y * m * z - 2.12194440e-4f * e - 0.5f * z;
  return m + y + 0.693359375f * e;
}

static const float inverse[] = {INVERSE};
enum { TERMS = sizeof inverse / sizeof *inverse };

/* The inverse normal distribution, as ops/generator.py defines it. */
INLINE vf normal_of(vu bits) {
  vf twice_tail = (__builtin_convertvector((vi)(bits & 0x7FFFFFFFu), vf) + 0.5f) * 0x1p-31f;
  vf t = root(LOG_OFFSET - log_unit(twice_tail)) * SLOPE + OFFSET, z = same(inverse[TERMS - 1]);
  UNROLL for (int i = TERMS - 2; i >= 0; i--) z = z * t + inverse[i];
  return (vf)((vu)z ^ (bits & 0x80000000u));
}

INLINE vf normal(uint64_t word, uint32_t column) { return normal_of(random_bits(word, column)); }
