/* Weights in training: scales of the blocks, and noise by position. */

/* The noise of the weights of one matrix; kinds 1 and 2 in units of the block's scale. */
typedef struct {
  const int64_t *key; /* NULL: no noise */
  float std;
  int64_t shaped; /* whether the deviation depends on the weight: ops/plan.py's Spread */
  float base, step, c[4], dip, rate;
  int64_t pieces, first_output, first_row;
} weight_noise;

enum { EXACT, UNIFORM, SHAPED };

INLINE int kind_of(const weight_noise *q) { return !q->key || q->std == 0 ? EXACT : q->shaped ? SHAPED : UNIFORM; }

INLINE vf spread_of(const weight_noise *q, vf w, float inverse) {
  vf t = (vf)((vi)w & 0x7FFFFFFF) * inverse;
  t = select_(t > 1.0f, same(1.0f), t) * (float)q->pieces;
  vf variance = same(q->base), f = t;
  if (q->pieces > 1) {
    vi piece = __builtin_convertvector(t, vi);
    piece = (vi)select_(piece > (int32_t)q->pieces - 1, (vf)((vi){0} + (int32_t)q->pieces - 1), (vf)piece);
    vf i = __builtin_convertvector(piece, vf);
    f = t - i;
    variance += i * q->step;
  }
  vf p = ((q->c[3] * f + q->c[2]) * f + q->c[1]) * f + q->c[0];
  p = select_(p < 0.0f, (vf){0}, p);
  vf u = p - q->rate * f; /* near 0 a device varies less, as it is clamped there */
  u = select_(u < 0.0f, (vf){0}, u);
  variance += p * p - q->dip * u * u;
  return root(select_(variance < 0.0f, (vf){0}, variance));
}

/* The weight w of scale `full` with noise of a normal z. */
INLINE vf with_noise(int kind, const weight_noise *q, vf w, float full, vf z) {
  if (kind == EXACT) return w;
  if (kind == UNIFORM) return w + full * q->std * z;
  return w + full * q->std * spread_of(q, w, 1.0f / (full > LEAST_SCALE ? full : LEAST_SCALE)) * z;
}

INLINE uint64_t word_of(int kind, const weight_noise *q, size output) {
  return kind == EXACT ? 0 : fold((uint64_t)*q->key, (uint64_t)(q->first_output + output));
}

/* out: the weights w of one output with their noise. kind: UNIFORM or SHAPED; scale: of each block, `apart` floats apart;
 * first: number of row 0. */
INLINE void noisy_row(int kind, const weight_noise *q, float *out, const float *w, const float *scale, size apart,
                      const int64_t *bounds, size blocks, uint64_t word, size first) {
  for (size b = 0; b < blocks; b++)
    for (size k0 = bounds[b]; k0 < bounds[b + 1]; k0 += TOGETHER * LANES) {
      vf z[TOGETHER];
      normals(word, (uint32_t)(q->first_row + first + k0), z);
      for (size v = 0, k = k0; v < TOGETHER && k < bounds[b + 1]; v++, k += LANES) {
        size count = bounds[b + 1] - k;
        store_some(out + k, with_noise(kind, q, load_some(w + k, count), scale[b * apart], z[v]), count);
      }
    }
}

/* The same of all outputs; each: those of a group, as each group has other rows. Called by all threads of a parallel
 * region. */
static void noisy_weights(const weight_noise *q, float *out, const float *w, const float *scale, size outputs, size each,
                          const int64_t *bounds, size blocks) {
  int kind = kind_of(q);
  size rows = bounds[blocks];
#pragma omp for schedule(static)
  for (size n = 0; n < outputs; n++) {
    uint64_t word = word_of(kind, q, n);
    float *to = out + n * rows;
    const float *from = w + n * rows;
    if (kind == UNIFORM) noisy_row(UNIFORM, q, to, from, scale + n, outputs, bounds, blocks, word, n / each * rows);
    else noisy_row(SHAPED, q, to, from, scale + n, outputs, bounds, blocks, word, n / each * rows);
  }
}

/* Rows of the largest block, in whole vectors. */
INLINE size widest(const int64_t *bounds, size blocks) {
  size most = 0;
  for (size b = 0; b < blocks; b++) most = bounds[b + 1] - bounds[b] > most ? bounds[b + 1] - bounds[b] : most;
  return (most + LANES - 1) / LANES * LANES;
}

/* Magnitudes compare like their bits do, and those of NaN above all others. */
INLINE float absmax(const float *x, size count) {
  vi most = {0};
  for (size j = 0; j < count; j += LANES) {
    vi bits = (vi)load_some(x + j, count - j) & 0x7FFFFFFF;
    most = (vi)select_(bits > most, (vf)bits, (vf)most);
  }
  int32_t all = 0;
  for (int i = 0; i < LANES; i++) all = most[i] > all ? most[i] : all;
  float largest;
  memcpy(&largest, &all, 4);
  return largest;
}

/* scale[b * outputs + n] = largest |w[n][bounds[b] .. bounds[b + 1]]|, then the largest of each group of columns.
 * Called by all threads of a parallel region. */
static void block_scales(float *scale, const float *w, size outputs, const int64_t *bounds, size blocks,
                         const int64_t *columns, size n_columns) {
  size rows = bounds[blocks];
#pragma omp for schedule(static)
  for (size n = 0; n < outputs; n++)
    for (size b = 0; b < blocks; b++)
      scale[b * outputs + n] = absmax(w + n * rows + bounds[b], bounds[b + 1] - bounds[b]);
  if (!n_columns) return;
#pragma omp single
  for (size b = 0; b < blocks; b++)
    for (size c = 0; c < n_columns; c++) {
      float *group = scale + b * outputs + columns[c], largest = absmax(group, columns[c + 1] - columns[c]);
      for (size n = 0; n < columns[c + 1] - columns[c]; n++) group[n] = largest;
    }
}
