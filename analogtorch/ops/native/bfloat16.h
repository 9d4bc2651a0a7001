/* Sums of variances times squared inputs, both in bfloat16. A processor that multiplies pairs of those adds up two products
 * in the time of one of floats; others widen them.
 *
 * A pair lies in 32 bits, the first of both in the lower half; behind an odd end is a zero. Each row block has its own
 * pairs, so that a sum is added up in the same order whatever else is computed.
 */
typedef uint32_t pair __attribute__((aligned(2), may_alias)); /* both anywhere in memory */
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#if defined(__AVX512F__)
INLINE int multiplies_pairs(void) { return __builtin_cpu_supports("avx512bf16"); }
#else
INLINE int multiplies_pairs(void) { return 0; }
#endif

/* Where the pairs of block b begin in those of all blocks, and how many there are. */
INLINE size first_pair(const int64_t *bounds, size b) { return (bounds[b] + b) / 2; }
INLINE size pairs_of(const int64_t *bounds, size b) { return (bounds[b + 1] - bounds[b] + 1) / 2; }

/* The nearest bfloat16, half to even, in the upper half of each lane: as a float. */
INLINE vf rounded(vf x) { return (vf)(((vu)x + 0x7FFFu + (((vu)x >> 16) & 1u)) & 0xFFFF0000u); }

INLINE vf pair_of(vf first, vf second) { return (vf)((vu)first >> 16 | (vu)second); }
INLINE vf first_of(vf pairs) { return (vf)((vu)pairs << 16); }
INLINE vf second_of(vf pairs) { return (vf)((vu)pairs & 0xFFFF0000u); }

INLINE halves halves_of(vf x) { return __builtin_convertvector((vu)rounded(x) >> 16, halves); }

/* out[p][j]: pairs of the squares of x[2p][j] and x[2p + 1][j], of lines of PANEL; out may be x. */
INLINE void pair_squares_of_lines(float *out, const float *x, size count) {
  for (size k = 0; k < count; k += 2)
    for (size v = 0; v < PANEL; v += LANES) {
      vf a = load(x + k * PANEL + v), b = {0};
      if (k + 1 < count) b = load(x + (k + 1) * PANEL + v);
      store(out + k / 2 * PANEL + v, pair_of(rounded(a * a), rounded(b * b)));
    }
}

/* out[p]: pairs of the squares of x[2p] and x[2p + 1]; up to half a vector more is written. */
INLINE void pair_squares(float *out, const float *x, size count) {
  for (size k = 0; k < count; k += LANES) {
    vf part = load_some(x + k, count - k);
    *(halves *)((uint16_t *)out + k) = halves_of(part * part);
  }
}

/* LANES pairs of `count` numbers. */
INLINE vf load_pairs(const uint16_t *x, size count) {
  uint16_t all[2 * LANES] = {0};
  vf found;
  if (count > 0 && count < 2 * LANES) x = memcpy(all, x, (size_t)count * 2);
  memcpy(&found, count > 0 ? x : all, sizeof found);
  return found;
}

/* The first `count` of x. */
INLINE void store_halves(uint16_t *out, vf x, size count) {
  halves all = halves_of(x);
  if (count >= LANES) *(halves *)out = all;
  else memcpy(out, &all, (size_t)count * 2);
}

/* out[k]: x[k] as a float. */
INLINE void widen(float *out, const uint16_t *x, size count) {
  for (size k = 0; k < count; k += LANES) {
    halves part = {0};
    if (count - k >= LANES) part = *(const halves *)(x + k);
    else memcpy(&part, x + k, (size_t)(count - k) * 2);
    store_some(out + k, (vf)(__builtin_convertvector(part, vu) << 16), count - k);
  }
}

/* out[i][j]: sum over k of row[i][k] times number k of column j of the pairs in `lines`, for ROWS rows. */
#if defined(__AVX512F__)
#define PAIRS __attribute__((target("avx512bf16")))
INLINE PAIRS void add_pairs(__m512 c[VECTORS], uint32_t both, const float *line) {
  UNROLL for (int v = 0; v < VECTORS; v++)
    c[v] = _mm512_dpbf16_ps(c[v], (__m512bh)_mm512_set1_epi32((int)both), (__m512bh)_mm512_loadu_ps(line + v * LANES));
}

static __attribute__((noinline)) PAIRS void tile_pairs(float *out, const uint16_t *const *row, const float *lines,
                                                       size count) {
  __m512 c[ROWS][VECTORS];
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int v = 0; v < VECTORS; v++) c[i][v] = _mm512_setzero_ps();
  for (size p = 0; p < count / 2; p++)
    UNROLL for (int i = 0; i < ROWS; i++) add_pairs(c[i], *(const pair *)(row[i] + 2 * p), lines + p * PANEL);
  if (count % 2)
    UNROLL for (int i = 0; i < ROWS; i++) add_pairs(c[i], row[i][count - 1], lines + count / 2 * PANEL);
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(out + i * PANEL + v * LANES, c[i][v]);
}
#else
INLINE void tile_pairs(float *out, const uint16_t *const *row, const float *lines, size count) {}
#endif

/* The same for up to ROWS rows, from `first` on and `stride` numbers apart. */
INLINE void sum_pairs(float *out, int rows, const uint16_t *first, size stride, const float *lines, size count) {
  const uint16_t *row[ROWS];
  for (int i = 0; i < ROWS; i++) row[i] = first + least(i, rows - 1) * stride;
  tile_pairs(out, row, lines, count);
}
