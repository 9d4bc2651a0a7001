/* CPU kernels of analogtorch.ops: the same definitions as the torch reference, in one pass over memory each.
 *
 * Plain C without torch's headers: one library serves every torch and Python version. OpenMP's runtime is torch's own
 * (see native/__init__.py), so that torch.set_num_threads holds here too. Floating point may be contracted and
 * reordered, never approximated: results differ from the reference in the last bits only.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef ptrdiff_t size;

/* A chunk of work is at least this many elements: below it, waking a thread costs more than it saves. */
enum { GRAIN = 16384 };

/* ---- noise ------------------------------------------------------------------------------------------------------ */

static inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

static inline uint64_t fold(uint64_t key, uint64_t word) {
  return mix64(mix64(key + word * 0x9E3779B97F4A7C15ull) + key);
}

static inline float as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

static inline uint32_t random_bits(uint32_t a, uint32_t b, uint32_t column) {
  uint32_t x = column * (b | 1u) + a;
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15) ^ b) * 0xD35A2D97u;
  return x ^ (x >> 15);
}

/* ln(x) for 2^-32 <= x <= 1, to 1 ulp: cephes' logf without its special cases. */
static inline float log_unit(float x) {
  uint32_t bits = as_bits(x);
  int32_t exponent = (int32_t)(bits - 0x3F3504F3u) >> 23;
  float e = (float)exponent, m = as_float(bits - ((uint32_t)exponent << 23)) - 1.0f, z = m * m;
  float y = 7.0376836292E-2f;
  y = y * m - 1.1514610310E-1f;
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

/* The inverse normal distribution, as ops/noise.py defines it. */
static inline float normal_of(uint32_t bits) {
  float twice_tail = ((float)(int32_t)(bits & 0x7FFFFFFFu) + 0.5f) * 0x1p-31f;
  float t = sqrtf(0.35f - log_unit(twice_tail)) * 0.48134261825033337f - 1.2847661332575033f;
  float z = -0.0058131859330376f;
  z = z * t + 0.01220873053820021f;
  z = z * t - 0.0012035649516857097f;
  z = z * t - 0.007485803035211494f;
  z = z * t - 0.0070280356173169235f;
  z = z * t + 0.015962522114434146f;
  z = z * t - 0.008338730114421817f;
  z = z * t + 0.0033763807057692365f;
  z = z * t - 0.00020092541953523925f;
  z = z * t - 0.012258648700909227f;
  z = z * t + 0.0399969977611134f;
  z = z * t - 0.09560426252296807f;
  z = z * t + 3.151566082644621f;
  z = z * t + 3.2527800132026092f;
  return as_float(as_bits(z) ^ (bits & 0x80000000u));
}

CLONES static void normal_row(float *out, uint64_t word, uint32_t first, size count) {
  uint32_t a = (uint32_t)word, b = (uint32_t)(word >> 32);
  for (size j = 0; j < count; j++) out[j] = normal_of(random_bits(a, b, first + (uint32_t)j));
}

CLONES static void add_normal_row(float *out, const float *w, float std, uint64_t word, uint32_t first, size count) {
  uint32_t a = (uint32_t)word, b = (uint32_t)(word >> 32);
  for (size j = 0; j < count; j++) out[j] = w[j] + std * normal_of(random_bits(a, b, first + (uint32_t)j));
}

/* out[r, j] = normal at row rows[r], column first[r] + j. */
void at_normal(float *out, int64_t key, const int64_t *rows, const int64_t *first, size n_rows, size count) {
#pragma omp parallel for schedule(static) if (n_rows * count > GRAIN)
  for (size r = 0; r < n_rows; r++)
    normal_row(out + r * count, fold((uint64_t)key, (uint64_t)rows[r]), (uint32_t)first[r], count);
}

/* out[r, j] = w[r, j] + std * scale[block of j, r] * normal. Block i covers the columns bounds[i] .. bounds[i + 1]. */
void at_noisy_weight(float *out, const float *w, const float *scale, float std, int64_t key, const int64_t *rows,
                     const int64_t *first, const int64_t *bounds, size n_rows, size count, size n_blocks) {
#pragma omp parallel for schedule(static) if (n_rows * count > GRAIN)
  for (size r = 0; r < n_rows; r++) {
    uint64_t word = fold((uint64_t)key, (uint64_t)rows[r]);
    for (size i = 0; i < n_blocks; i++) {
      size j = bounds[i];
      add_normal_row(out + r * count + j, w + r * count + j, std * scale[i * n_rows + r], word,
                     (uint32_t)(first[r] + j), bounds[i + 1] - j);
    }
  }
}

/* ---- scales ------------------------------------------------------------------------------------------------------ */

/* Magnitudes compare like their bits do, and those of NaN above all others: integers keep the loop free of branches. */
CLONES static float absmax_of(const float *x, size count) {
  int32_t largest = 0;
  for (size j = 0; j < count; j++) {
    int32_t bits;
    memcpy(&bits, x + j, 4);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  return as_float((uint32_t)largest);
}

/* out[i, r] = largest |w[r, bounds[i] .. bounds[i + 1]]|. */
void at_absmax(float *out, const float *w, const int64_t *bounds, size n_rows, size count, size n_blocks) {
#pragma omp parallel for schedule(static) if (n_rows * count > GRAIN)
  for (size r = 0; r < n_rows; r++)
    for (size i = 0; i < n_blocks; i++)
      out[i * n_rows + r] = absmax_of(w + r * count + bounds[i], bounds[i + 1] - bounds[i]);
}

/* ---- converters -------------------------------------------------------------------------------------------------- */

/* A bound of 0 (an input or a block of zeros) quantises to 0 instead of 0 / 0. */
static inline float safe(float bound) { return bound > 1e-30f ? bound : 1e-30f; }

static inline float clip(float x, float bound) { return x > bound ? bound : (x < -bound ? -bound : x); }

CLONES static void dac_row(float *out, const float *x, float bound, float steps, size count) {
  bound = safe(bound);
  float up = steps / bound, down = bound / steps;
  for (size j = 0; j < count; j++) out[j] = rintf(clip(x[j], bound) * up) * down;
}

CLONES static double dac_backward_row(float *gx, const float *g, const float *x, float bound, size count) {
  double range = 0.0;
  for (size j = 0; j < count; j += 256) {  /* short float sums, added up in double */
    size end = j + 256 < count ? j + 256 : count;
    float sum = 0.0f;
    for (size k = j; k < end; k++) {
      int above = x[k] > bound, below = x[k] < -bound;
      gx[k] = above | below ? 0.0f : g[k];
      sum += (above ? g[k] : 0.0f) - (below ? g[k] : 0.0f);
    }
    range += sum;
  }
  return range;
}

/* out = x clipped at +-bound and rounded to 2 * steps + 1 levels; bound[r * per_row]. */
void at_dac(float *out, const float *x, const float *bound, int64_t per_row, float steps, size n_rows, size count) {
#pragma omp parallel for schedule(static) if (n_rows * count > GRAIN)
  for (size r = 0; r < n_rows; r++) dac_row(out + r * count, x + r * count, bound[r * per_row], steps, count);
}

/* gx = g where x is inside the bound, 0 where it is clipped; g_bound[r] = sum of g clipped above - below. */
void at_dac_backward(float *gx, double *g_bound, const float *g, const float *x, const float *bound, int64_t per_row,
                     size n_rows, size count) {
#pragma omp parallel for schedule(static) if (n_rows * count > GRAIN)
  for (size r = 0; r < n_rows; r++)
    g_bound[r] = dac_backward_row(gx + r * count, g + r * count, x + r * count, bound[r * per_row], count);
}

/* What a column needs to be read: bound, its reciprocal in steps, the step, the noise, the correction. */
typedef struct { float *bound, *up, *down, *std; const float *gain; } columns;

static void scale_columns(columns c, const float *scale, float unit, float limit, float std, float steps, size count) {
  for (size j = 0; j < count; j++) {
    float full = unit * scale[j], bound = safe(full * limit);
    c.bound[j] = bound;
    c.up[j] = steps / bound;
    c.down[j] = bound / steps;
    c.std[j] = full * std;
  }
}

/* One reading, in the same order of operations as the reference. */
static inline float read_one(float y, float bound, float up, float down) { return rintf(clip(y, bound) * up) * down; }

#define SATURATED(y, bound) ((uint8_t)((y) > (bound)) | (uint8_t)((y) < -(bound)))

/* A row of outputs that each have their own full scale (linear layers). */
CLONES static int adc_columns(float *acc, uint8_t *mask, const float *part, const float *z, columns c, int first,
                              size count) {
  uint8_t any = 0;
  for (size j0 = 0; j0 < count; j0 += 256) { /* in pieces that stay in registers' reach: noise, reading, sum */
    size n = count - j0 < 256 ? count - j0 : 256;
    float y[256];
    const float *bound = c.bound + j0, *up = c.up + j0, *down = c.down + j0;
    for (size j = 0; j < n; j++) y[j] = part[j0 + j];
    if (z)
      for (size j = 0; j < n; j++) y[j] += c.std[j0 + j] * z[j0 + j];
    for (size j = 0; j < n; j++) any |= SATURATED(y[j], bound[j]);
    if (mask)
      for (size j = 0; j < n; j++) mask[j0 + j] = SATURATED(y[j], bound[j]);
    for (size j = 0; j < n; j++) y[j] = read_one(y[j], bound[j], up[j], down[j]);
    if (c.gain)
      for (size j = 0; j < n; j++) y[j] *= c.gain[j0 + j];
    if (first)
      for (size j = 0; j < n; j++) acc[j0 + j] = y[j];
    else
      for (size j = 0; j < n; j++) acc[j0 + j] += y[j];
  }
  return any;
}

/* The places of one output, which share a full scale (convolutions). */
CLONES static int adc_places(float *acc, uint8_t *mask, const float *part, const float *z, columns c, size at, int first,
                             size count) {
  uint8_t any = 0;
  const float bound = c.bound[at], up = c.up[at], down = c.down[at], std = c.std[at], gain = c.gain ? c.gain[at] : 1.0f;
  for (size j0 = 0; j0 < count; j0 += 256) {
    size n = count - j0 < 256 ? count - j0 : 256;
    float y[256];
    for (size j = 0; j < n; j++) y[j] = part[j0 + j];
    if (z)
      for (size j = 0; j < n; j++) y[j] += std * z[j0 + j];
    for (size j = 0; j < n; j++) any |= SATURATED(y[j], bound);
    if (mask)
      for (size j = 0; j < n; j++) mask[j0 + j] = SATURATED(y[j], bound);
    for (size j = 0; j < n; j++) y[j] = read_one(y[j], bound, up, down) * gain;
    if (first)
      for (size j = 0; j < n; j++) acc[j0 + j] = y[j];
    else
      for (size j = 0; j < n; j++) acc[j0 + j] += y[j];
  }
  return any;
}

/* Read the partial sums of one row block, shape (n, channels, places), through the ADC and add them to acc.
 *
 * full scale of sample i and channel c: unit[i * per_sample] * scale[c]; limit, std: bound and noise in that unit;
 * z: normals of part's shape, or NULL; gain: (channels,), or NULL; mask: of part's shape, or NULL; first: acc is
 * written, not added to; scratch: 4 * channels floats for each thread that torch runs. Returns whether any reading
 * saturated.
 */
int at_adc(float *acc, uint8_t *mask, const float *part, const float *z, const float *unit, int64_t per_sample,
           const float *scale, const float *gain, float limit, float std, float steps, int first, float *scratch, size n,
           size channels, size places) {
  int any = 0;
  size row = channels * places;
#pragma omp parallel reduction(| : any) if (n * row > GRAIN)
  {
    float *own = scratch + (size)omp_get_thread_num() * 4 * channels;
    columns c = {own, own + channels, own + 2 * channels, own + 3 * channels, gain};
    if (!per_sample) scale_columns(c, scale, unit[0], limit, std, steps, channels);
#pragma omp for schedule(static)
    for (size i = 0; i < n; i++) {
      if (per_sample) scale_columns(c, scale, unit[i], limit, std, steps, channels);
      size at = i * row;
      if (places == 1) {
        any |= adc_columns(acc + at, mask ? mask + at : 0, part + at, z ? z + at : 0, c, first, channels);
        continue;
      }
      for (size j = 0; j < channels; j++, at += places)
        any |= adc_places(acc + at, mask ? mask + at : 0, part + at, z ? z + at : 0, c, j, first, places);
    }
  }
  return any;
}
