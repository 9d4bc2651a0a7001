/* Vectors of the machine's width, in GCC's vector extension; the few operations that it lacks. One source is compiled
 * once per instruction set (see build.py): AVX-512, AVX2, and the compiler's default, 128 bits.
 *
 * Floating point may be contracted, never approximated or reordered: what one element of a result adds up, and in which
 * order, depends on its position alone, so batch splits and threads do not change a bit.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef ptrdiff_t size;
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* anywhere in memory */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vf same(float x) { return x - (vf){0}; }
INLINE vf select_(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

INLINE vf magnitude(vf x) { return (vf)((vi)x & 0x7FFFFFFF); }

/* NaN in x stays NaN, as min and max return their second operand then. */
INLINE vf within(vf x, vf low, vf high) {
#if defined(__AVX512F__)
  return _mm512_max_ps(low, _mm512_min_ps(high, x));
#elif defined(__AVX2__)
  return _mm256_max_ps(low, _mm256_min_ps(high, x));
#else
  return select_(x > high, high, select_(x < low, low, x));
#endif
}

INLINE vf clip(vf x, vf bound) { return within(x, -bound, bound); }

/* To the nearest integer, half to even. */
INLINE vf nearest(vf x) {
#if defined(__AVX512F__)
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  UNROLL for (int i = 0; i < LANES; i++) x[i] = rintf(x[i]);
  return x;
#endif
}

INLINE vf root(vf x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  UNROLL for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
  return x;
#endif
}

/* exp(x), to 2 ulp: cephes' expf without its special cases. It is 0 where it would be below the normal numbers. */
INLINE vf exp_of(vf x) {
  vf in = within(x, same(-87.0f), same(88.0f)), n = nearest(in * 1.44269504088896341f);
  vf f = in - n * 0.693359375f + n * 2.12194440e-4f, y = 1.9875691500E-4f * f + 1.3981999507E-3f;
  y = y * f + 8.3334519073E-3f;
  y = y * f + 4.1665795894E-2f;
  y = y * f + 1.6666665459E-1f;
  y = y * f + 5.0000001201E-1f;
  y = y * (f * f) + f + 1.0f;
  y = (vf)((vi)y + (__builtin_convertvector(n, vi) << 23));
  return select_(x < -87.0f, (vf){0}, y);
}

/* table[i] of each lane. */
INLINE vf from_table(const float *table, vi i) {
#if defined(__AVX512F__)
  return _mm512_i32gather_ps((__m512i)i, table, 4);
#elif defined(__AVX2__)
  return _mm256_i32gather_ps(table, (__m256i)i, 4);
#else
  vf x;
  UNROLL for (int l = 0; l < LANES; l++) x[l] = table[i[l]];
  return x;
#endif
}

INLINE int any(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  int32_t all = 0;
  UNROLL for (int i = 0; i < LANES; i++) all |= mask[i];
  return all != 0;
#endif
}

INLINE uint32_t bits_of(vi mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return (uint32_t)_mm256_movemask_ps((__m256)mask);
#else
  uint32_t bits = 0;
  UNROLL for (int i = 0; i < LANES; i++) bits |= (uint32_t)(mask[i] & 1) << i;
  return bits;
#endif
}

INLINE vu lane_numbers(void) {
  vu x;
  UNROLL for (int i = 0; i < LANES; i++) x[i] = (uint32_t)i;
  return x;
}

/* x where the bits of the row are clear at `at`, a multiple of LANES, and behind; 0 elsewhere. A row is 32-bit words. */
INLINE vf where_clear(vf x, const uint32_t *row, size at) {
  vu bits = (vu){0} + (row[at / 32] >> at % 32);
  return (vf)((vi)x & (vi)((bits & (((vu){0} + 1u) << lane_numbers())) == 0));
}

/* The first count lanes set. */
INLINE vi first_lanes(size count) { return (vi)(lane_numbers() < (uint32_t)(count < 0 ? 0 : count)); }

INLINE size least(size a, size b) { return a < b ? a : b; }

/* Up to LANES numbers, zeros behind; nothing is read behind the last, and nothing at all where count <= 0. */
INLINE vf load_some(const float *p, size count) {
  if (count >= LANES) return load(p);
  if (count <= 0) return (vf){0};
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#else
  float all[LANES] = {0};
  memcpy(all, p, (size_t)count * 4);
  return load(all);
#endif
}

INLINE void store_some(float *p, vf x, size count) {
  if (count >= LANES) { store(p, x); return; }
  if (count <= 0) return;
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), x);
#else
  float all[LANES];
  store(all, x);
  memcpy(p, all, (size_t)count * 4);
#endif
}

/* What a kernel returns. Memory is asked for before anything is written, and by one thread: none can leave a parallel
 * region that the others are in. */
enum { DONE, NO_MEMORY };

/* In whole cache lines, so that each thread's part of an allocation begins on one. */
INLINE size lines(size floats) { return (floats + 15) / 16 * 16; }

static inline float *scratch(size count) { return aligned_alloc(64, (size_t)lines(count > 0 ? count : 1) * 4); }

/* Threads that a product of so many multiply-adds is worth: each has 10 to 20 us to do, so that waiting for one that the
 * system has put aside is rare. */
static inline int threads_for(double multiplies) {
  double most = omp_get_max_threads(), worth = multiplies / (1 << 19);
  return worth < 1 ? 1 : worth < most ? (int)worth : (int)most;
}

/* Sum of the columns from j of a matrix of `stride` floats a row, at most LANES; short sums, added up. */
INLINE vf sum_rows(const float *x, size rows, size stride, size count) {
  vf total = {0};
  for (size i0 = 0; i0 < rows; i0 += 64) {
    vf sum = {0};
    for (size i = i0; i < least(i0 + 64, rows); i++) sum += load_some(x + i * stride, count);
    total += sum;
  }
  return total;
}
