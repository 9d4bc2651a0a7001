/* The innermost product: ROWS x PANEL partial sums in registers, then in a small tile in cache. */

#if defined(__AVX512F__) || defined(__aarch64__)
enum { ROWS = 8 };
#elif defined(__AVX2__)
enum { ROWS = 6 };
#else
enum { ROWS = 4 };
#endif
enum { VECTORS = 2, PANEL = VECTORS * LANES };

typedef float tile[ROWS + 1][PANEL]; /* one to spare: readers of a part of a row load whole vectors */

/* out[i][j] (+)= sum over p of row[i][p * step] * b[p][j], p in order; where `where` is given, row[i][where[p]]; where
 * `from` is, b[from[p]][j]. */
INLINE void tile_of(int rows, float *out, const float *const *row, size step, const int32_t *where, const int32_t *from,
                    const float *b, size count, int add) {
  vf c[ROWS][VECTORS];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int v = 0; v < VECTORS; v++) c[i][v] = add ? load(out + i * PANEL + v * LANES) : (vf){0};
  for (size p = 0; p < count; p++) {
    size at = where ? where[p] : p * step;
    const float *line = b + (from ? from[p] : p) * PANEL;
    vf bp[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) bp[v] = load(line + v * LANES);
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int v = 0; v < VECTORS; v++) c[i][v] += row[i][at] * bp[v];
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(out + i * PANEL + v * LANES, c[i][v]);
}

/* Separate functions: if they are inlined into a larger one, GCC keeps accumulators in memory and halves the speed. */
#define TILES(name, step, where, from)                                                                                 \
  static __attribute__((noinline)) void name(int rows, float *out, const float *const *row, size stride,               \
                                             const int32_t *offsets, const int32_t *lines, const float *b, size count, \
                                             int add) {                                                                \
    (void)stride, (void)offsets, (void)lines;                                                                          \
    switch (rows) {                                                                                                    \
      case 1: tile_of(1, out, row, step, where, from, b, count, add); break;                                           \
      case 2: tile_of(2, out, row, step, where, from, b, count, add); break;                                           \
      case 3: tile_of(3, out, row, step, where, from, b, count, add); break;                                           \
      case 4: tile_of(4, out, row, step, where, from, b, count, add); break;                                           \
      case 5: tile_of(ROWS < 5 ? ROWS : 5, out, row, step, where, from, b, count, add); break;                         \
      case 6: tile_of(ROWS < 6 ? ROWS : 6, out, row, step, where, from, b, count, add); break;                         \
      case 7: tile_of(ROWS < 7 ? ROWS : 7, out, row, step, where, from, b, count, add); break;                         \
      default: tile_of(ROWS, out, row, step, where, from, b, count, add);                                              \
    }                                                                                                                  \
  }

TILES(tile_contiguous, 1, NULL, NULL)   /* row[i][p], b[p] */
TILES(tile_strided, stride, NULL, NULL) /* row[i][p * stride], b[p] */
TILES(tile_gathered, 0, offsets, NULL)  /* row[i][offsets[p]], b[p] */
TILES(tile_spread, 0, offsets, lines)   /* row[i][offsets[p]], b[lines[p]] */

/* Rows of a matrix, for the four above. */
INLINE void point(const float **row, int rows, const float *first, size stride) {
  for (int i = 0; i < rows; i++) row[i] = first + i * stride;
}

enum { ROWS_TOGETHER = TOGETHER / VECTORS };

/* z[i]: the normals from `column` on of the row that has word[i]; up to ROWS_TOGETHER more rows are written. */
INLINE void normals_of_tile(int rows, const uint64_t *word, uint32_t column, vf (*z)[VECTORS]) {
  for (int i = 0; i < rows; i += ROWS_TOGETHER) {
    vu bits[TOGETHER];
    UNROLL for (int v = 0; v < TOGETHER; v++)
      bits[v] = random_bits(word[least(i + v / VECTORS, rows - 1)], column + (uint32_t)(v % VECTORS * LANES));
    normals_of(TOGETHER, bits, z[i]);
  }
}

/* LANES x LANES, in registers. */
INLINE void transpose(vf r[LANES]) {
  UNROLL for (int s = 1; s < LANES; s *= 2) {
    vi low, high;
    UNROLL for (int l = 0; l < LANES; l++) {
      low[l] = l & s ? LANES + l - s : l;
      high[l] = l & s ? LANES + l : l + s;
    }
    UNROLL for (int i = 0; i < LANES; i++) {
      if (i & s) continue;
      vf a = r[i], b = r[i + s];
      r[i] = __builtin_shuffle(a, b, low);
      r[i + s] = __builtin_shuffle(a, b, high);
    }
  }
}
