/* y[m][n] = sum over blocks of ADC(sum over the block's rows of DAC(x[m][k]) noisy(w[n][k])), and its gradients.
 *
 * Panels of PANEL outputs (forward) or rows (backward) are shared among threads. A panel's weights get their noise on
 * the way into cache, where all vectors of the batch use them: neither noise nor partial sums go through memory.
 * Products of the same weights, as in the steps of a recurrent layer, may share the panels: see `packed`.
 * A forward of few vectors and exact weights turns the inputs instead: PANEL vectors are then the lanes, and weights are
 * read where they lie. Each sum is added up in the same order.
 */
#include "vec.h"
#include "noise.h"
#include "tile.h"
#include "weights.h"
#include "converters.h"
#include "bfloat16.h"

typedef struct {
  const float *x, *w, *input_range, *bias, *gain, *g;
  const uint16_t *read_variances;
  const float *drops; /* IR drop of each partial sum: (blocks, vectors, outputs); or NULL */
  float *scale, *y, *gx, *gw, *g_bias;
  uint32_t *mask;     /* a bit for each partial sum: (blocks, vectors, mask_words(outputs)) */
  uint8_t *saturated; /* whether any did, of each block */
  double *g_range;    /* a sum per panel of rows, those of each block in turn */
  float *packed;      /* the weights in panels, at_linear_packed floats, or NULL: each call packs its own */
  const int64_t *samples, *bounds, *columns;
  int64_t vectors, rows, outputs, blocks, n_columns, range_by, find_scale, first_only;
  int64_t is_packed; /* whether an earlier call has filled `packed` */
  float input_levels;
  weight_noise noise;
  adc adc;
} linear;

enum { AT_ONCE = LANES < TOGETHER ? LANES : TOGETHER };
enum { SCRATCH = 1 << 23, DEPTH = 1024 }; /* floats of quantised input at a time; terms of a sum in cache at a time */

INLINE float range_of(const linear *p, size m, size b) { return range_at(p->input_range, p->range_by, m, b); }

/* panel[k - bounds[b]][n - n0]: the block's weights, transposed. */
INLINE void pack_outputs(int kind, const linear *p, const float *w, size b, size n0, float *panel) {
  size from = p->bounds[b], to = p->bounds[b + 1];
  uint64_t word[PANEL] = {0};
  float full[PANEL] = {0};
  for (size i = 0; i < PANEL && n0 + i < p->outputs; i++) {
    word[i] = word_of(kind, &p->noise, n0 + i);
    full[i] = p->scale[b * p->outputs + n0 + i];
  }
  for (size k = from; k < to; k += LANES)
    for (size half = 0; half < PANEL; half += LANES) {
      vf r[LANES], z[LANES];
      for (size i = 0; kind != EXACT && i < LANES; i += AT_ONCE)
        normals_in_column(AT_ONCE, word + half + i, (uint32_t)(p->noise.first_row + k), z + i);
      for (size i = 0; i < LANES; i++) {
        size n = n0 + half + i;
        r[i] = (vf){0};
        if (n < p->outputs) r[i] = with_noise(kind, &p->noise, load_some(w + n * p->rows + k, to - k), full[half + i], z[i]);
      }
      transpose(r);
      UNROLL for (size i = 0; i < LANES; i++) store(panel + (k - from + i) * PANEL + half, r[i]);
    }
}

/* panel[p][n - n0]: the block's variances in pairs; or, if not `pairs`, panel[k - bounds[b]][n - n0]: as floats. */
INLINE void pack_variances(const linear *p, int pairs, size b, size n0, float *panel) {
  size count = p->bounds[b + 1] - p->bounds[b];
  for (size half = 0; half < PANEL; half += LANES)
    for (size k = 0; k < count; k += 2 * LANES) {
      vf r[LANES];
      for (size i = 0; i < LANES; i++) {
        size n = n0 + half + i;
        r[i] = n < p->outputs ? load_pairs(p->read_variances + n * p->rows + p->bounds[b] + k, count - k) : (vf){0};
      }
      transpose(r);
      for (size i = 0; i < LANES && k + 2 * i < count; i++) {
        float *line = panel + (pairs ? k / 2 + i : k + 2 * i) * PANEL + half;
        store(line, pairs ? r[i] : first_of(r[i]));
        if (!pairs && k + 2 * i + 1 < count) store(line + PANEL, second_of(r[i]));
      }
    }
}

/* panel[n - n0][k - k0]: the weights of up to PANEL rows of block b, as they lie. */
INLINE void pack_rows(int kind, const linear *p, size b, size k0, size k1, size n0, size n1, float *panel) {
  for (size n = n0; n < n1; n++) {
    const float *w = p->w + n * p->rows + k0;
    uint64_t word = word_of(kind, &p->noise, n);
    float full = p->scale[b * p->outputs + n];
    __builtin_prefetch(w + 8 * p->rows);
    __builtin_prefetch(w + 8 * p->rows + LANES);
    UNROLL for (size v = 0; v < PANEL; v += LANES) {
      vf z = {0};
      if (kind != EXACT) z = normal(word, (uint32_t)(p->noise.first_row + k0 + v));
      store(panel + (n - n0) * PANEL + v, with_noise(kind, &p->noise, load_some(w + v, k1 - k0 - v), full, z));
    }
  }
}

#define BY_KIND(call, ...)                                                                                             \
  switch (kind_of(&p->noise)) {                                                                                        \
    case EXACT: call(EXACT, __VA_ARGS__); break;                                                                       \
    case UNIFORM: call(UNIFORM, __VA_ARGS__); break;                                                                   \
    default: call(SHAPED, __VA_ARGS__);                                                                                \
  }

/* Convert a tile of partial sums of block b and add the ADC outputs to y; return whether any saturated. variances: sums
 * of the variances of the weights times squared inputs, if there is read noise. */
static int convert_tile(const linear *p, const float *sums, const float *variances, size b, size m0, int rows, size n0,
                        column_adc *r) {
  vi ever = {0};
  vf z[ROWS + ROWS_TOGETHER][VECTORS];
  if (noisy(&p->adc)) {
    uint64_t word[ROWS];
    for (int i = 0; i < rows; i++)
      word[i] = fold((uint64_t)p->adc.output_keys[b], number_of(p->samples, p->first_only, m0 + i));
    normals_of_tile(rows, word, (uint32_t)(p->adc.first_output + n0), z);
  }
  for (int i = 0; i < rows; i++) {
    size m = m0 + i, row = m * p->outputs + n0;
    vi outside[VECTORS] = {0};
    for (size v = 0; v < VECTORS; v++) {
      size j = v * LANES, count = p->outputs - n0 - j;
      if (count <= 0) break;
      size at = b * p->outputs + n0 + j;
      if (p->range_by == BY_VECTOR)
        r[v] = column_adc_of(&p->adc, range_of(p, m, b) * load_some(p->scale + at, count), at, count);
      vf y = load(sums + i * PANEL + j);
      if (p->drops) y -= load_some(p->drops + (b * p->vectors + m) * p->outputs + n0 + j, count);
      if (noisy(&p->adc)) {
        vf std = r[v].std;
        if (variances) std = read_std(&p->adc, &r[v], load_some(p->scale + at, count), load(variances + i * PANEL + j));
        y += std * z[i][v];
      }
      y = adc_output(&p->adc, &r[v], y, &outside[v]);
      if (p->gain) y *= load_some(p->gain + at, count);
      y = unit_output(&p->adc, &r[v], y, &outside[v]);
      outside[v] &= first_lanes(count);
      ever |= outside[v];
      if (b) y += load_some(p->y + row + j, count);
      if (p->bias && b == p->blocks - 1) y += load_some(p->bias + n0 + j, count);
      store_some(p->y + row + j, y, count);
    }
    if (p->mask) store_mask(p->mask + (b * p->vectors + m) * mask_words(p->outputs), n0, p->outputs, outside);
  }
  return any(ever);
}

/* The ADCs of block b of the outputs from n0, unless each vector has others. */
INLINE void panel_adcs(const linear *p, size b, size n0, column_adc r[VECTORS]) {
  for (size v = 0; p->range_by != BY_VECTOR && v < VECTORS; v++) {
    size j = n0 + v * LANES, left = p->outputs - j, at = b * p->outputs + j;
    if (left > 0) r[v] = column_adc_of(&p->adc, range_of(p, 0, b) * load_some(p->scale + at, left), at, left);
  }
}

/* squares: of xq, or NULL; pairs of each block, or as floats. */
static void quantise(const linear *p, int pairs, float *xq, float *squares, size ld, size m0, size m1) {
#pragma omp for schedule(static)
  for (size m = m0; m < m1; m++) {
    int by_block = p->range_by == BY_BLOCK;
    for (size b = 0; b < (by_block ? p->blocks : 1); b++) {
      dac d = dac_of(range_of(p, m, b), p->input_levels);
      size to = by_block ? p->bounds[b + 1] : p->rows; /* the next block overwrites what is written behind its end */
      for (size k = by_block ? p->bounds[b] : 0; k < to; k += LANES) {
        vf x = dac_output(load_some(p->x + m * p->rows + k, to - k), d, p->input_levels);
        store(xq + (m - m0) * ld + k, x);
        if (squares && !pairs) store(squares + (m - m0) * ld + k, rounded(x * x));
      }
    }
    for (size b = 0; squares && pairs && b < p->blocks; b++) {
      float *to = squares + (m - m0) * ld + first_pair(p->bounds, b);
      pair_squares(to, xq + (m - m0) * ld + p->bounds[b], p->bounds[b + 1] - p->bounds[b]);
    }
  }
}

/* Rows of a panel of `packed` in the forward: packing writes whole vectors. */
INLINE size panel_rows_of(const linear *p) { return p->rows + LANES; }

INLINE int threads_of(const linear *p) { return threads_for((double)p->vectors * p->rows * p->outputs); }

/* The sums of a tile: of the rows from m0 of xq times the panel of block b. */
INLINE void sum_tile(const linear *p, tile sums, const float *xq, size ld, size b, size m0, int rows, const float *panel) {
  const float *row[ROWS];
  point(row, rows, xq + m0 * ld + p->bounds[b], ld);
  tile_contiguous(rows, sums[0], row, 1, NULL, NULL, panel, p->bounds[b + 1] - p->bounds[b], 0);
}

/* The sums of variances of the same tile. */
INLINE void sum_variances(const linear *p, int pairs, tile sums, const float *squares, size ld, size b, size m0, int rows,
                          const float *panel) {
  if (!pairs) { sum_tile(p, sums, squares, ld, b, m0, rows, panel); return; }
  const uint16_t *first = (const uint16_t *)(squares + m0 * ld + first_pair(p->bounds, b));
  sum_pairs(sums[0], rows, first, 2 * ld, panel, 2 * pairs_of(p->bounds, b));
}

/* xq, and squares if there is read noise: chunk vectors of ld floats; panels: `each` floats for each thread, twice as
 * many with read noise. */
static void forward(const linear *p, int threads, float *xq, float *squares, size ld, size chunk, float *panels,
                    size each) {
  int pairs = multiplies_pairs();
  memset(p->saturated, 0, (size_t)p->blocks);
#pragma omp parallel num_threads(threads)
  {
    float *panel = panels + omp_get_thread_num() * (squares ? 2 : 1) * each, *variances = squares ? panel + each : NULL;
    if (p->find_scale) block_scales(p->scale, p->w, p->outputs, p->bounds, p->blocks, p->columns, p->n_columns);
    for (size m0 = 0; m0 < p->vectors; m0 += chunk) {
      size m1 = least(m0 + chunk, p->vectors);
      quantise(p, pairs, xq, squares, ld, m0, m1);
#pragma omp for schedule(static)
      for (size n0 = 0; n0 < p->outputs; n0 += PANEL)
        for (size b = 0; b < p->blocks; b++) {
          column_adc r[VECTORS];
          panel_adcs(p, b, n0, r);
          if (p->packed) panel = p->packed + n0 * panel_rows_of(p) + p->bounds[b] * PANEL;
          if (!p->is_packed) BY_KIND(pack_outputs, p, p->w, b, n0, panel)
          if (squares) pack_variances(p, pairs, b, n0, variances);
          int saturated = 0;
          for (size m = m0; m < m1; m += ROWS) {
            tile sums, spread;
            int rows = (int)least(ROWS, m1 - m);
            sum_tile(p, sums, xq, ld, b, m - m0, rows, panel);
            if (squares) sum_variances(p, pairs, spread, squares, ld, b, m - m0, rows, variances);
            saturated |= convert_tile(p, sums[0], squares ? spread[0] : NULL, b, m, rows, n0, r);
          }
          if (saturated) {
#pragma omp atomic write
            p->saturated[b] = 1;
          }
        }
    }
  }
}

/* ---- forward with vectors in the lanes --------------------------------------------------------------------------- */

/* Whether the forward is faster so: fewer inputs than weights are turned, and vectors fill the lanes. */
static int worth_vectors(const linear *p) {
  size lanes = (p->vectors + PANEL - 1) / PANEL * PANEL;
  return kind_of(&p->noise) == EXACT && 2 * p->vectors <= p->outputs && 4 * lanes <= 5 * p->vectors;
}

/* xq[panel of vectors][row][vector], and squares of the same, or NULL; pairs of each block, or as floats. */
static void quantise_by_vectors(const linear *p, int pairs, float *xq, float *squares) {
  size parts = (p->rows + LANES - 1) / LANES, halves = (p->vectors + LANES - 1) / LANES;
#pragma omp for schedule(static)
  for (size i = 0; i < halves * parts; i++) {
    size m = i / parts * LANES, k0 = i % parts * LANES, to = m / PANEL * p->rows * PANEL + m % PANEL, b = 0;
    vf r[LANES];
    for (size s = 0; s < LANES; s++)
      r[s] = m + s < p->vectors ? load_some(p->x + (m + s) * p->rows + k0, p->rows - k0) : (vf){0};
    transpose(r);
    while (p->bounds[b + 1] <= k0) b++;
    dac d = dacs_at(p->input_range, p->range_by, m, p->vectors - m, b, p->input_levels);
    for (size k = k0; k < least(k0 + LANES, p->rows); k++) {
      if (k == p->bounds[b + 1]) d = dacs_at(p->input_range, p->range_by, m, p->vectors - m, ++b, p->input_levels);
      vf x = dac_output(r[k - k0], d, p->input_levels);
      store(xq + to + k * PANEL, x);
      if (squares && !pairs) store(squares + to + k * PANEL, rounded(x * x));
    }
  }
  if (!squares || !pairs) return;
#pragma omp for schedule(static)
  for (size i = 0; i < (p->vectors + PANEL - 1) / PANEL * p->blocks; i++) {
    size b = i % p->blocks, panel = i / p->blocks * p->rows, from = p->bounds[b];
    float *to = squares + (panel + first_pair(p->bounds, b)) * PANEL;
    pair_squares_of_lines(to, xq + (panel + from) * PANEL, p->bounds[b + 1] - from);
  }
}

/* Partial sums [output][vector], then [vector][output]; one row to spare, as in a tile. */
typedef struct { float sums[PANEL][PANEL], turned[PANEL + 1][PANEL]; } panel_sums;

/* A block of up to PANEL outputs, for the two functions below: numbers `stride` apart. */
typedef struct { const float *w; const uint16_t *pairs; size stride, outputs, count; } panel_rows;

/* Those of one panel of outputs in one block, for a panel of vectors: lines of their inputs, or of pairs of squares. */
static void sum_vectors(const panel_rows *w, const float *lines, panel_sums *s) {
  for (size i = 0; i < w->outputs; i += ROWS) {
    const float *row[ROWS];
    int rows = (int)least(ROWS, w->outputs - i);
    if (w->pairs) {
      sum_pairs(s->sums[i], rows, w->pairs + i * w->stride, w->stride, lines, w->count);
    } else {
      point(row, rows, w->w + i * w->stride, w->stride);
      tile_contiguous(rows, s->sums[i], row, 1, NULL, NULL, lines, w->count, 0);
    }
  }
  for (size i = 0; i < PANEL; i += LANES)
    for (size v = 0; v < PANEL; v += LANES) {
      vf r[LANES];
      for (size j = 0; j < LANES; j++) r[j] = load(s->sums[i + j] + v); /* behind the last output: any number */
      transpose(r);
      for (size j = 0; j < LANES; j++) store(s->turned[v + j] + i, r[j]);
    }
}

/* room: of each thread, two of each with read noise; wide: PANEL rows of `ld` variances of each thread, or NULL, if
 * they are multiplied in pairs. */
static void forward_by_vectors(const linear *p, int threads, float *xq, float *squares, panel_sums *room, float *wide,
                               size ld) {
  memset(p->saturated, 0, (size_t)p->blocks);
#pragma omp parallel num_threads(threads)
  {
    panel_sums *s = room + omp_get_thread_num() * (squares ? 2 : 1);
    float *own = wide ? wide + omp_get_thread_num() * PANEL * ld : NULL;
    if (p->find_scale) block_scales(p->scale, p->w, p->outputs, p->bounds, p->blocks, p->columns, p->n_columns);
    quantise_by_vectors(p, !wide, xq, squares);
#pragma omp for schedule(static)
    for (size n0 = 0; n0 < p->outputs; n0 += PANEL)
      for (size b = 0; b < p->blocks; b++) {
        column_adc r[VECTORS];
        int saturated = 0;
        panel_adcs(p, b, n0, r);
        size first = p->bounds[b], count = p->bounds[b + 1] - first, outputs = least(PANEL, p->outputs - n0);
        size at = n0 * p->rows + first, line = (squares && !wide ? first_pair(p->bounds, b) : first) * PANEL;
        panel_rows w = {p->w + at, NULL, p->rows, outputs, count}, variances = {own, NULL, ld, outputs, count};
        if (squares && !wide) variances = (panel_rows){NULL, p->read_variances + at, p->rows, outputs, count};
        for (size i = 0; wide && i < outputs; i++) widen(own + i * ld, p->read_variances + at + i * p->rows, count);
        for (size m0 = 0; m0 < p->vectors; m0 += PANEL) {
          sum_vectors(&w, xq + m0 * p->rows + first * PANEL, s);
          if (squares) sum_vectors(&variances, squares + m0 * p->rows + line, s + 1);
          for (size m = 0; m < PANEL && m0 + m < p->vectors; m += ROWS) {
            int rows = (int)least(ROWS, least(PANEL - m, p->vectors - m0 - m));
            saturated |= convert_tile(p, s->turned[m], squares ? s[1].turned[m] : NULL, b, m0 + m, rows, n0, r);
          }
        }
        if (saturated) {
#pragma omp atomic write
          p->saturated[b] = 1;
        }
      }
  }
}

static int multiply_by_vectors(const linear *p) {
  int kinds = 1 + (p->adc.read_noise > 0), threads = threads_of(p), widens = kinds > 1 && !multiplies_pairs();
  size each = (p->vectors + PANEL - 1) / PANEL * PANEL * p->rows, ld = widest(p->bounds, p->blocks) + LANES;
  float *xq = scratch(kinds * each), *room = scratch(threads * kinds * (size)(sizeof(panel_sums) / 4));
  float *wide = widens ? scratch(threads * PANEL * ld) : NULL;
  int found = xq && room && (wide || !widens);
  if (found) forward_by_vectors(p, threads, xq, kinds > 1 ? xq + each : NULL, (panel_sums *)room, wide, ld);
  free(xq), free(room), free(wide);
  return found ? DONE : NO_MEMORY;
}

int at_linear(const linear *p) {
  if (!p->packed && worth_vectors(p)) return multiply_by_vectors(p);
  size ld = p->rows + 2 * LANES - p->rows % LANES, chunk = SCRATCH / ld, each = lines(widest(p->bounds, p->blocks) * PANEL);
  chunk = least(p->vectors, chunk < 256 ? 256 : chunk);
  int threads = threads_of(p);
  int reads = p->adc.read_noise > 0;
  float *xq = scratch(chunk * ld), *squares = reads ? scratch(chunk * ld) : NULL;
  float *panels = scratch(threads * (1 + reads) * each);
  int found = xq && panels && (squares || !reads);
  if (found) forward(p, threads, xq, squares, ld, chunk, panels, each);
  free(xq), free(squares), free(panels);
  return found ? DONE : NO_MEMORY;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* The gradient of block b's partial sums: through the ADC outputs that did not saturate, times the gain. */
static void block_gradient(const linear *p, float *gb, size b) {
  const float *gain = p->gain ? p->gain + b * p->outputs : NULL;
#pragma omp for schedule(static)
  for (size m = 0; m < p->vectors; m++)
    for (size n = 0; n < p->outputs; n += LANES) {
      size at = m * p->outputs + n, count = p->outputs - n;
      vf g = load_some(p->g + at, count);
      if (p->saturated[b]) g = where_clear(g, p->mask + (b * p->vectors + m) * mask_words(p->outputs), n);
      if (gain) g *= load_some(gain + n, count);
      store_some(gb + at, g, count);
    }
}

enum { WIDE = 2 * ROWS }; /* outputs whose gradients are packed together: the rows of g may lie a power of two apart */

static void weight_gradient(const linear *p, const float *gb, size b, size k0, size k1, float *panel) {
  float packed[DEPTH * WIDE + LANES];
  for (size m0 = 0; m0 < p->vectors; m0 += DEPTH) {
    size m1 = least(m0 + DEPTH, p->vectors);
    for (size m = m0; m < m1; m++) {
      dac d = dac_of(range_of(p, m, b), p->input_levels);
      __builtin_prefetch(p->x + (m + 8) * p->rows + k0);
      UNROLL for (size v = 0; v < PANEL; v += LANES)
        store(panel + (m - m0) * PANEL + v, dac_output(load_some(p->x + m * p->rows + k0 + v, k1 - k0 - v), d, p->input_levels));
    }
    for (size n0 = 0; n0 < p->outputs; n0 += WIDE) {
      size n1 = least(n0 + WIDE, p->outputs);
      for (size m = m0; m < m1; m++) {
        const float *from = gb + m * p->outputs + n0;
        __builtin_prefetch(from + 8 * p->outputs);
        for (size v = 0; v < n1 - n0; v += LANES) store(packed + (m - m0) * WIDE + v, load_some(from + v, n1 - n0 - v));
      }
      for (size n = n0; n < n1; n += ROWS) {
        const float *row[ROWS];
        tile sums;
        int rows = (int)least(ROWS, n1 - n);
        point(row, rows, packed + n - n0, 1);
        tile_strided(rows, sums[0], row, WIDE, NULL, NULL, panel, m1 - m0, 0);
        for (int i = 0; i < rows; i++)
          for (size v = 0; v < PANEL && k0 + v < k1; v += LANES) {
            float *gw = p->gw + (n + i) * p->rows + k0 + v;
            vf sum = load(sums[i] + v);
            store_some(gw, m0 ? load_some(gw, k1 - k0 - v) + sum : sum, k1 - k0 - v); /* short sums, added up */
          }
      }
    }
  }
}

/* The DAC stops the gradient of what it clips; the range learns from it. Returns the part of the range. */
static double clip_gradient(const linear *p, float *sums, size b, size m0, int rows, size k0, size k1) {
  double of_range = 0.0;
  for (int i = 0; i < rows; i++)
    for (size v = 0; v < PANEL && k0 + v < k1; v += LANES) {
      vf x = load_some(p->x + (m0 + i) * p->rows + k0 + v, k1 - k0 - v), g = load(sums + i * PANEL + v);
      float range = range_of(p, m0 + i, b);
      vi above = x > range, below = x < -range;
      if (!any(above | below)) continue;
      for (int l = 0; l < LANES; l++) of_range += above[l] ? (double)g[l] : below[l] ? -(double)g[l] : 0.0;
      store(sums + i * PANEL + v, select_(above | below, (vf){0}, g));
    }
  return of_range;
}

/* first: panels of the blocks before b. */
static double input_gradient(const linear *p, const float *gb, size b, size first, size k0, size k1, float *panel) {
  double of_range = 0.0;
  for (size n0 = 0; n0 < p->outputs; n0 += 2 * DEPTH) {
    size n1 = least(n0 + 2 * DEPTH, p->outputs);
    if (p->packed) panel = p->packed + ((first + (k0 - p->bounds[b]) / PANEL) * p->outputs + n0) * PANEL;
    if (!p->is_packed) BY_KIND(pack_rows, p, b, k0, k1, n0, n1, panel)
    for (size m = 0; m < p->vectors; m += ROWS) {
      const float *row[ROWS];
      tile sums;
      int rows = (int)least(ROWS, p->vectors - m);
      for (int i = 0; n0 && i < rows; i++)
        for (size v = 0; v < PANEL; v += LANES)
          store(sums[i] + v, load_some(p->gx + (m + i) * p->rows + k0 + v, k1 - k0 - v));
      point(row, rows, gb + m * p->outputs + n0, p->outputs);
      tile_contiguous(rows, sums[0], row, 1, NULL, NULL, panel, n1 - n0, n0 > 0);
      if (n1 == p->outputs && p->input_levels > 0) of_range += clip_gradient(p, sums[0], b, m, rows, k0, k1);
      for (int i = 0; i < rows; i++)
        for (size v = 0; v < PANEL && k0 + v < k1; v += LANES)
          store_some(p->gx + (m + i) * p->rows + k0 + v, load(sums[i] + v), k1 - k0 - v);
    }
  }
  return of_range;
}

/* Panels, and so sums of g_range, of a block of so many rows. */
int64_t at_linear_panels(int64_t rows) { return (rows + PANEL - 1) / PANEL; }

/* Floats of `packed`: panels of outputs for the forward, or of rows, `panels` of all blocks, for the backward. */
int64_t at_linear_packed(int64_t outputs, int64_t rows, int64_t panels, int64_t backward) {
  return backward ? panels * outputs * PANEL : at_linear_panels(outputs) * PANEL * (rows + LANES);
}

/* block_g: the gradients of a block's partial sums, if they differ from g; panels: `each` floats for each thread. */
static void backward(const linear *p, int threads, float *block_g, float *panels, size each) {
#pragma omp parallel num_threads(threads)
  {
    float *panel = panels + omp_get_thread_num() * each;
    size first = 0;
    if (p->g_bias) {
#pragma omp for schedule(static) nowait
      for (size n = 0; n < p->outputs; n += LANES)
        store_some(p->g_bias + n, sum_rows(p->g + n, p->vectors, p->outputs, p->outputs - n), p->outputs - n);
    }
    for (size b = 0; b < p->blocks; b++) {
      const float *gb = p->g;
      if (p->gain || p->saturated[b]) {
        block_gradient(p, block_g, b);
        gb = block_g;
      }
      size from = p->bounds[b], to = p->bounds[b + 1], count = at_linear_panels(to - from);
#pragma omp for schedule(static)
      for (size i = 0; i < count; i++) {
        size k0 = from + i * PANEL, k1 = least(k0 + PANEL, to);
        if (p->gw) weight_gradient(p, gb, b, k0, k1, panel);
        if (p->gx) p->g_range[first + i] = input_gradient(p, gb, b, first, k0, k1, panel);
      }
      first += count;
    }
  }
}

/* gx (needed for g_range too), gw and g_bias if they are not NULL; g_range: one sum per panel of at_linear_panels. */
int at_linear_backward(const linear *p) {
  int copied = p->gain != NULL, threads = threads_of(p);
  for (size b = 0; b < p->blocks; b++) copied |= p->saturated[b];
  size depth = p->outputs > p->vectors ? p->outputs : p->vectors, each = least(depth, 2 * DEPTH) * PANEL;
  float *block_g = copied ? scratch(p->vectors * p->outputs) : NULL, *panels = scratch(threads * each);
  int found = panels && (block_g || !copied);
  if (found) backward(p, threads, block_g, panels, each);
  free(block_g), free(panels);
  return found ? DONE : NO_MEMORY;
}
