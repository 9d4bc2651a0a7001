/* The analog product of a convolution of one to three dimensions, and its gradients: linear.c's definitions at every
 * output position.
 *
 * Input patches are gathered panel by panel (PANEL positions) into cache and are never unfolded in memory; rows are the
 * flattened (channel, tap) of a weight, so that a row block may hold any run of them. The input is quantised into
 * padded images, a few samples at a time. Where a sample has few positions, a panel holds those of several samples.
 *
 * A forward of many samples needs no patches: the lanes of a vector are then PANEL samples at one position, whose images
 * lie number by number beside each other. Each sum is added up in the same order.
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
  const float *drops; /* IR drop of each partial sum: (blocks, samples, outputs, positions); or NULL */
  float *scale, *y, *gx, *gw, *g_bias;
  uint32_t *mask;
  uint8_t *saturated;
  double *g_range;
  const int64_t *samples, *bounds, *columns;
  int64_t n, groups, channels, outputs; /* channels and outputs of a group */
  int64_t blocks, n_columns, range_by, find_scale, first_only;
  int64_t in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
  float input_levels;
  weight_noise noise;
  adc adc;
} convolution;

/* What follows from a convolution's numbers. */
typedef struct {
  const convolution *c;
  size rows, total, positions, image; /* per group; of all groups; per output; floats of a group's padded input */
  size padded[3];
  int32_t *tap, *position;            /* where a row, and a position, begin in a group's image */
  int32_t *block;                     /* of each channel of a group; of a kernel that blocks cut, the first */
  int by_samples;                     /* whether the lanes of the forward are samples, and not positions */
  const float *w;                     /* with noise */
  float *copy;                        /* w, where it is no copy of the layer's */
  float *variances;                   /* read_variances as floats; or NULL */
  column_adc *adcs;                   /* per (sample if ranges are BY_VECTOR), block, LANES outputs */
  int threads, found;                 /* threads it is worth; whether there was memory */
} plan;

/* Floats of input at a time; positions, or rows, that a weight gradient takes at a time. */
enum { IMAGES = 1 << 19, SPAN = 256 };

/* Floats of input at a time where samples are in the lanes: each is read again for every few outputs. */
enum { TURNED = 1 << 17 };

static size product(const int64_t v[3]) { return v[0] * v[1] * v[2]; }

/* Where rows, positions and channels begin. */
static void fill(plan *p) {
  const convolution *c = p->c;
  size at = 0;
  for (size ch = 0; ch < c->channels; ch++)
    for (size i = 0; i < c->kernel[0]; i++)
      for (size j = 0; j < c->kernel[1]; j++)
        for (size k = 0; k < c->kernel[2]; k++, at++)
          p->tap[at] = (int32_t)(((ch * p->padded[0] + i * c->dilation[0]) * p->padded[1] + j * c->dilation[1]) * p->padded[2] +
                                 k * c->dilation[2]);
  for (size ch = 0, b = 0; ch < c->channels; p->block[ch++] = (int32_t)b)
    while (c->bounds[b + 1] <= ch * product(c->kernel)) b++;
  at = 0;
  for (size i = 0; i < c->out[0]; i++)
    for (size j = 0; j < c->out[1]; j++)
      for (size k = 0; k < c->out[2]; k++, at++)
        p->position[at] =
            (int32_t)((i * c->stride[0] * p->padded[1] + j * c->stride[1]) * p->padded[2] + k * c->stride[2]);
}

/* Whether the forward is faster with samples in the lanes: if patches would be gathered in short pieces, samples fill
 * nearly as many lanes as positions, and the images of a panel of samples stay in the caches. */
static int worth_samples(const plan *p) {
  const convolution *c = p->c;
  size few = p->positions <= PANEL / 2 ? PANEL / p->positions : 1;
  size by_positions = (c->n + few - 1) / few * ((p->positions + PANEL - 1) / PANEL);
  size by_samples = (c->n + PANEL - 1) / PANEL * p->positions;
  int pieces = c->stride[2] > 1 || c->out[2] < LANES;
  return pieces && 4 * by_samples <= 5 * by_positions && p->image * c->groups * PANEL <= 2 * IMAGES;
}

static plan plan_of(const convolution *c) {
  plan p = {.c = c, .rows = c->channels * product(c->kernel), .total = c->groups * c->outputs};
  p.positions = product(c->out);
  int noisy = kind_of(&c->noise) != EXACT;
  for (int d = 0; d < 3; d++) p.padded[d] = c->in[d] + 2 * c->padding[d];
  p.image = c->channels * p.padded[0] * p.padded[1] * p.padded[2];
  p.tap = malloc((size_t)p.rows * 4);
  p.position = malloc((size_t)p.positions * 4);
  p.block = malloc((size_t)c->channels * 4);
  p.copy = noisy ? malloc((size_t)(p.total * p.rows) * 4) : NULL;
  p.w = noisy ? p.copy : c->w;
  p.variances = c->read_variances ? malloc((size_t)(p.total * p.rows) * 4) : NULL;
  size outputs = (c->range_by == BY_VECTOR ? c->n : 1) * c->blocks * ((p.total + LANES - 1) / LANES);
  p.adcs = (column_adc *)scratch(outputs * (size)(sizeof *p.adcs / sizeof(float)));
  p.threads = threads_for((double)c->n * p.positions * p.total * p.rows);
  p.found = p.tap && p.position && p.block && p.adcs && p.w && (p.variances || !c->read_variances);
  if (p.found) fill(&p);
  return p;
}

static void discard(plan *p) { free(p->tap), free(p->position), free(p->block), free(p->copy), free(p->variances), free(p->adcs); }

INLINE float range_of(const plan *p, size sample, size channel) {
  return range_at(p->c->input_range, p->c->range_by, sample, p->block[channel]);
}

/* The four below are called by all threads of a parallel region. */

static void widen_variances(const plan *p) {
  if (!p->variances) return;
#pragma omp for schedule(static)
  for (size o = 0; o < p->total; o++) widen(p->variances + o * p->rows, p->c->read_variances + o * p->rows, p->rows);
}

static void add_noise(const plan *p) {
  const convolution *c = p->c;
  if (!p->copy) return;
  noisy_weights(&c->noise, p->copy, c->w, c->scale, p->total, c->outputs, c->bounds, c->blocks);
}

/* Numbers of outputs are counted in whole vectors: see adcs. */
INLINE size vectors_of(const plan *p) { return (p->total + LANES - 1) / LANES; }

static void prepare_adcs(const plan *p) {
  const convolution *c = p->c;
  size each = vectors_of(p);
#pragma omp for schedule(static)
  for (size i = 0; i < (c->range_by == BY_VECTOR ? c->n : 1) * c->blocks * each; i++) {
    size b = i / each % c->blocks, o = i % each * LANES, at = b * p->total + o, count = p->total - o;
    float range = range_at(c->input_range, c->range_by, i / each / c->blocks, b);
    p->adcs[i] = column_adc_of(&c->adc, range * load_some(c->scale + at, count), at, count);
  }
}

/* Samples from .. to, quantised and padded, into images. */
static void quantise(const plan *p, float *images, size from, size to) {
  const convolution *c = p->c;
  size channels = c->groups * c->channels, each = p->image / c->channels;
  const size *pad = p->padded;
#pragma omp for schedule(static)
  for (size i = 0; i < (to - from) * channels; i++) {
    dac d = dac_of(range_of(p, from + i / channels, i % c->channels), c->input_levels);
    float *image = images + i * each;
    const float *x = c->x + (from * channels + i) * product(c->in);
    if (each != product(c->in)) memset(image, 0, (size_t)each * 4);
    for (size a = 0; a < c->in[0]; a++)
      for (size b = 0; b < c->in[1]; b++, x += c->in[2]) {
        float *row = image + ((a + c->padding[0]) * pad[1] + b + c->padding[1]) * pad[2] + c->padding[2];
        for (size k = 0; k < c->in[2]; k += LANES)
          store_some(row + k, dac_output(load_some(x + k, c->in[2] - k), d, c->input_levels), c->in[2] - k);
      }
  }
}

/* A panel: the positions from q0 of the samples from `sample`, and the outputs o0 .. o1 of their group. */
typedef struct { size sample, samples, group, q0, positions, o0, o1; } lot;

/* Samples that share a panel; where they begin is counted in 32 bits. */
INLINE size together(const plan *p) {
  if (p->by_samples) return PANEL;
  if (p->positions > PANEL / 2 || p->image * p->c->groups > INT32_MAX / PANEL) return 1;
  return PANEL / p->positions;
}

/* Lots of n samples, of the groups' outputs in `parts` parts. */
static size lots_of(const plan *p, size n, size parts) {
  return (n + together(p) - 1) / together(p) * p->c->groups * ((p->positions + PANEL - 1) / PANEL) * parts;
}

static lot lot_at(const plan *p, size i, size first, size last, size parts) {
  const convolution *c = p->c;
  size panels = (p->positions + PANEL - 1) / PANEL, each = ((c->outputs + ROWS - 1) / ROWS + parts - 1) / parts * ROWS;
  lot l;
  size part = i % parts;
  i /= parts;
  l.q0 = i % panels * PANEL;
  i /= panels;
  l.group = i % c->groups;
  l.sample = first + i / c->groups * together(p);
  l.samples = least(together(p), last - l.sample);
  l.positions = least(PANEL, p->positions - l.q0);
  l.o0 = l.group * c->outputs + least(part * each, c->outputs);
  l.o1 = l.group * c->outputs + least((part + 1) * each, c->outputs);
  return l;
}

/* Whether the positions of a lot are neighbours in the image. */
INLINE int adjoin(const plan *p, const lot *l) {
  return l->samples == 1 && l->positions == PANEL && p->c->stride[2] == 1 &&
         p->position[l->q0 + PANEL - 1] - p->position[l->q0] == PANEL - 1;
}

/* panel[k - from][lane]: inputs of the rows from .. to at a lot's positions; behind the last lane, any number.
 * image: of the lot's first sample and group. */
static void gather(const plan *p, const lot *l, const float *image, size from, size to, float *panel) {
  if (adjoin(p, l)) {
    for (size k = from; k < to; k++, panel += PANEL)
      UNROLL for (size v = 0; v < PANEL; v += LANES) store(panel + v, load(image + p->tap[k] + p->position[l->q0] + v));
    return;
  }
  int32_t at[PANEL];
  size lanes = 0, runs = 0, begin[PANEL + 1];
  for (size sample = 0; sample < l->samples; sample++)
    for (size q = 0; q < l->positions; q++, lanes++) {
      at[lanes] = (int32_t)(sample * p->c->groups * p->image) + p->position[l->q0 + q];
      if (lanes == 0 || at[lanes] != at[lanes - 1] + 1) begin[runs++] = lanes;
    }
  begin[runs] = lanes;
  for (size j = lanes; j < PANEL; j++) at[j] = at[0];
  for (size k = from; k < to; k++, panel += PANEL) {
    const float *start = image + p->tap[k];
    if (runs > PANEL / 4) {
      for (size j = 0; j < PANEL; j++) panel[j] = start[at[j]];
      continue;
    }
    for (size i = 0; i < runs; i++) /* in order: the next run overwrites what is written behind its end */
      for (size j = begin[i]; j < begin[i + 1]; j += LANES) store(panel + j, load(start + at[begin[i]] + j - begin[i]));
  }
}

/* The ADCs of outputs from o0 in block b, each in all lanes. */
INLINE void tile_adcs(const plan *p, size b, size sample, size o0, int rows, column_adc *r) {
  size first = ((p->c->range_by == BY_VECTOR ? sample : 0) * p->c->blocks + b) * vectors_of(p);
  for (int i = 0; i < rows; i++) r[i] = of_lane(p->adcs + first + (o0 + i) / LANES, (o0 + i) % LANES);
}

/* Convert the partial sums of block b at a sample's positions from q0, outputs from o0, which have the ADCs r; add the ADC
 * outputs to y. variances: sums of the variances of the weights times squared inputs, if there is read noise. */
static int convert_tile(const plan *p, const float *sums, const float *variances, size b, size sample, size o0, int rows,
                        size q0, const column_adc *r) {
  const convolution *c = p->c;
  const adc a = c->adc; /* a copy, which no store to y can change */
  const float *gain = c->gain ? c->gain + b * p->total + o0 : NULL, *drops = c->drops;
  const float *bias = c->bias && b == c->blocks - 1 ? c->bias + o0 : NULL;
  size left = p->positions - q0;
  vi ever = {0};
  vf z[ROWS + ROWS_TOGETHER][VECTORS];
  if (noisy(&a)) {
    uint64_t word[ROWS], number = number_of(c->samples, c->first_only, sample);
    uint64_t output = number * (uint64_t)a.total_outputs + (uint64_t)a.first_output + (uint64_t)o0;
    for (int i = 0; i < rows; i++) word[i] = fold((uint64_t)a.output_keys[b], output + (uint64_t)i);
    normals_of_tile(rows, word, (uint32_t)q0, z);
  }
  for (int i = 0; i < rows; i++) {
    size row = sample * p->total + o0 + i;
    float *to = c->y + row * p->positions + q0;
    vi outside[VECTORS] = {0};
    for (size v = 0; v < VECTORS; v++) {
      size j = v * LANES, count = left - j;
      if (count <= 0) break;
      vf y = load(sums + i * PANEL + j);
      if (drops) y -= load_some(drops + (b * c->n * p->total + row) * p->positions + q0 + j, count);
      if (noisy(&a)) {
        vf std = r[i].std;
        if (variances) std = read_std(&a, r + i, same(c->scale[b * p->total + o0 + i]), load(variances + i * PANEL + j));
        y += std * z[i][v];
      }
      y = adc_output(&a, r + i, y, &outside[v]);
      if (gain) y *= gain[i];
      y = unit_output(&a, r + i, y, &outside[v]);
      outside[v] &= first_lanes(count);
      ever |= outside[v];
      if (b) y += load_some(to + j, count);
      if (bias) y += bias[i];
      store_some(to + j, y, count);
    }
    if (c->mask)
      store_mask(c->mask + (b * c->n * p->total + row) * mask_words(p->positions), q0, p->positions, outside);
  }
  return any(ever);
}

static size samples_at_a_time(const plan *p) {
  size count = IMAGES / (p->image * p->c->groups);
  return least(p->c->n, count < 1 ? 1 : count);
}

/* The sums of a tile: of the rows from o of block b of w times the panel. */
INLINE void sum_tile(const plan *p, tile sums, const float *w, size b, size o, int rows, const float *panel) {
  const float *row[ROWS];
  point(row, rows, w + o * p->rows + p->c->bounds[b], p->rows);
  tile_contiguous(rows, sums[0], row, 1, NULL, NULL, panel, p->c->bounds[b + 1] - p->c->bounds[b], 0);
}

/* All blocks of a lot; image: of its first sample and group; squares: another panel, if there is read noise. */
static void run_lot(const plan *p, const lot *l, const float *image, float *panel, float *squares) {
  const convolution *c = p->c;
  for (size b = 0; b < c->blocks; b++) {
    int saturated = 0;
    gather(p, l, image, c->bounds[b], c->bounds[b + 1], panel);
    for (size k = 0; squares && k < (c->bounds[b + 1] - c->bounds[b]) * PANEL; k += LANES) {
      vf x = load(panel + k);
      store(squares + k, rounded(x * x));
    }
    for (size o = l->o0; o < l->o1; o += ROWS) {
      tile sums, spread;
      int rows = (int)least(ROWS, l->o1 - o);
      sum_tile(p, sums, p->w, b, o, rows, panel);
      if (squares) sum_tile(p, spread, p->variances, b, o, rows, squares);
      for (size j = 0; j < l->samples; j++) {
        size first = j * l->positions;
        column_adc r[ROWS];
        tile_adcs(p, b, l->sample + j, o, rows, r);
        saturated |=
            convert_tile(p, sums[0] + first, squares ? spread[0] + first : NULL, b, l->sample + j, o, rows, l->q0, r);
      }
    }
    if (saturated) {
#pragma omp atomic write
      c->saturated[b] = 1;
    }
  }
}

/* images: of `chunk` samples; panels: `each` floats for each thread, twice as many if there is read noise. */
static void forward(const plan *p, float *images, size chunk, float *panels, size each) {
  const convolution *c = p->c;
  size lots = lots_of(p, chunk, 1), wanted = 2 * omp_get_max_threads();
  size parts = least((c->outputs + ROWS - 1) / ROWS, lots < wanted ? (wanted + lots - 1) / lots : 1);
  int reads = c->adc.read_noise > 0;
  memset(c->saturated, 0, (size_t)c->blocks);
#pragma omp parallel num_threads(p->threads)
  {
    float *panel = panels + omp_get_thread_num() * (1 + reads) * each, *squares = reads ? panel + each : NULL;
    if (c->find_scale) block_scales(c->scale, c->w, p->total, c->bounds, c->blocks, c->columns, c->n_columns);
    prepare_adcs(p);
    add_noise(p);
    widen_variances(p);
    for (size from = 0; from < c->n; from += chunk) {
      size to = least(from + chunk, c->n);
      quantise(p, images, from, to);
#pragma omp for schedule(static)
      for (size i = 0; i < lots_of(p, to - from, parts); i++) {
        lot l = lot_at(p, i, from, to, parts);
        run_lot(p, &l, images + ((l.sample - from) * c->groups + l.group) * p->image, panel, squares);
      }
    }
  }
}

/* ---- forward with samples in the lanes --------------------------------------------------------------------------- */

/* Where each number of a sample lies in its padded images. */
static void fill_place(const plan *p, int32_t *place) {
  const convolution *c = p->c;
  const size *pad = p->padded;
  for (size ch = 0; ch < c->groups * c->channels; ch++)
    for (size i = 0; i < c->in[0]; i++)
      for (size j = 0; j < c->in[1]; j++)
        for (size k = 0; k < c->in[2]; k++)
          *place++ = (int32_t)(((ch * pad[0] + i + c->padding[0]) * pad[1] + j + c->padding[1]) * pad[2] + k + c->padding[2]);
}

/* Rows whose inputs are no padding, which would add nothing: a list for each sort of positions that have the same ones. */
typedef struct {
  int32_t *sort, *row, *tap; /* of each position; of each list in turn */
  size *begin;               /* of each list: where each block begins, and its end */
} inside;

/* Longest lists, in rows of all sorts: where padding is much of the input, every position has all rows. */
enum { LISTED = 1 << 16 };

/* Taps of a dimension that are no padding: those of each sort, and the sort of each position; returns how many sorts. */
static size taps_inside(const convolution *c, int d, size *sort, size (*taps)[2]) {
  size sorts = 0;
  for (size o = 0; o < c->out[d]; o++) {
    size at = o * c->stride[d] - c->padding[d], range[2] = {c->kernel[d], 0};
    for (size k = 0; k < c->kernel[d]; k++)
      if (at + k * c->dilation[d] >= 0 && at + k * c->dilation[d] < c->in[d]) range[0] = least(range[0], k), range[1] = k + 1;
    size found = 0;
    while (found < sorts && memcmp(taps[found], range, sizeof range)) found++;
    if (found == sorts) memcpy(taps[sorts++], range, sizeof range);
    sort[o] = found;
  }
  return sorts;
}

static size list_rows(const plan *p, size taps[3][2], size *begin, int32_t *row, int32_t *tap) {
  const convolution *c = p->c;
  size n = 0, b = 0;
  for (size ch = 0; ch < c->channels; ch++)
    for (size i = taps[0][0]; i < taps[0][1]; i++)
      for (size j = taps[1][0]; j < taps[1][1]; j++)
        for (size k = taps[2][0]; k < taps[2][1]; k++) {
          size r = ((ch * c->kernel[0] + i) * c->kernel[1] + j) * c->kernel[2] + k;
          while (b <= c->blocks && c->bounds[b] <= r) begin[b++] = n;
          row[n] = (int32_t)r, tap[n++] = p->tap[r];
        }
  while (b <= c->blocks) begin[b++] = n;
  return n;
}

static int find_inside(const plan *p, inside *in) {
  const convolution *c = p->c;
  size most = c->out[0] + c->out[1] + c->out[2], *sort = malloc((size_t)most * sizeof *sort), sorts[3], at = 0;
  size(*taps)[2] = malloc((size_t)most * sizeof *taps), first[3] = {0, c->out[0], c->out[0] + c->out[1]};
  in->sort = calloc((size_t)p->positions, 4);
  size count = 1;
  for (int d = 0; sort && taps && d < 3; d++) count *= sorts[d] = taps_inside(c, d, sort + first[d], taps + first[d]);
  int listed = count * p->rows <= LISTED;
  if (!listed) count = 1;
  in->row = malloc((size_t)(count * p->rows) * 4), in->tap = malloc((size_t)(count * p->rows) * 4);
  in->begin = malloc((size_t)(count * (c->blocks + 1)) * sizeof *in->begin);
  int found = sort && taps && in->sort && in->row && in->tap && in->begin;
  for (size s = 0, n = 0; found && s < count; s++) {
    size each[3][2] = {{0, c->kernel[0]}, {0, c->kernel[1]}, {0, c->kernel[2]}};
    size of[3] = {s / sorts[2] / sorts[1], s / sorts[2] % sorts[1], s % sorts[2]};
    for (int d = 0; listed && d < 3; d++) memcpy(each[d], taps[first[d] + of[d]], sizeof *each);
    size *begin = in->begin + s * (c->blocks + 1), more = list_rows(p, each, begin, in->row + n, in->tap + n);
    for (size b = 0; b <= c->blocks; b++) begin[b] += n;
    n += more;
  }
  for (size i = 0; found && listed && i < c->out[0]; i++)
    for (size j = 0; j < c->out[1]; j++)
      for (size k = 0; k < c->out[2]; k++)
        in->sort[at++] =
            (int32_t)((sort[i] * sorts[1] + sort[first[1] + j]) * sorts[2] + sort[first[2] + k]);
  free(sort), free(taps);
  return found;
}

/* The DACs of LANES samples from `sample` at a channel. */
INLINE dac dacs_of(const plan *p, size sample, size channel) {
  const convolution *c = p->c;
  return dacs_at(c->input_range, c->range_by, sample, c->n - sample, p->block[channel], c->input_levels);
}

/* LANES numbers from `at` of LANES samples from `sample`, quantised, to where they lie in `image`; the place of each is
 * counted in panels. squares: their squares likewise, or NULL. */
static void turn_inputs(const plan *p, size sample, size at, size numbers, const int32_t *place, float *image,
                        float *squares) {
  const convolution *c = p->c;
  size each = product(c->in), channel = at / each;
  dac d = dacs_of(p, sample, channel % c->channels);
  vf r[LANES];
  for (size s = 0; s < LANES; s++)
    r[s] = sample + s < c->n ? load_some(c->x + (sample + s) * numbers + at, numbers - at) : (vf){0};
  transpose(r);
  for (size k = 0; k < LANES && at + k < numbers; k++) {
    if (c->range_by == BY_BLOCK && at + k == (channel + 1) * each) d = dacs_of(p, sample, ++channel % c->channels);
    vf x = dac_output(r[k], d, c->input_levels);
    store(image + place[at + k] * (size)PANEL, x);
    if (squares) store(squares + place[at + k] * (size)PANEL, rounded(x * x));
  }
}

/* The samples from .. to into images, a panel of samples after the other. */
static void quantise_by_samples(const plan *p, const int32_t *place, float *images, float *squares, size from, size to) {
  const convolution *c = p->c;
  size numbers = c->groups * c->channels * product(c->in), parts = (numbers + LANES - 1) / LANES;
#pragma omp for schedule(static)
  for (size i = 0; i < (to - from + LANES - 1) / LANES * parts; i++) {
    size sample = i / parts * LANES, first = sample / PANEL * c->groups * p->image * PANEL + sample % PANEL;
    turn_inputs(p, from + sample, i % parts * LANES, numbers, place, images + first, squares ? squares + first : NULL);
  }
}

/* Partial sums of a lot: [position][output][sample], then of LANES samples [sample][output][position]. */
typedef struct { float sums[PANEL][ROWS * PANEL]; tile turned[LANES]; } lot_sums;

static void sum_lot(const plan *p, const inside *in, const lot *l, const float *w, size b, size o, int rows,
                    const float *image, lot_sums *s) {
  const float *row[ROWS];
  point(row, rows, w + o * p->rows, p->rows);
  for (size q = 0; q < l->positions; q++) {
    const size *part = in->begin + in->sort[l->q0 + q] * (p->c->blocks + 1) + b;
    tile_spread(rows, s->sums[q], row, 0, in->row + part[0], in->tap + part[0], image + p->position[l->q0 + q] * (size)PANEL,
                part[1] - part[0], 0);
  }
}

/* The sums of the samples from `half`, sorted by sample. */
static void turn_sums(const lot *l, int rows, size half, lot_sums *s) {
  for (int i = 0; i < rows; i++)
    for (size v = 0; v < l->positions; v += LANES) {
      vf r[LANES];
      for (size q = 0; q < LANES; q++) r[q] = load(s->sums[v + q] + i * PANEL + half); /* behind the last: any number */
      transpose(r);
      for (size j = 0; j < LANES; j++) store(s->turned[j][i] + v, r[j]);
    }
}

/* run_lot for samples in the lanes; room: two, if there is read noise. */
static void run_samples(const plan *p, const inside *in, const lot *l, const float *image, const float *squares, lot_sums *room) {
  const convolution *c = p->c;
  for (size b = 0; b < c->blocks; b++) {
    int saturated = 0;
    for (size o = l->o0; o < l->o1; o += ROWS) {
      int rows = (int)least(ROWS, l->o1 - o);
      column_adc r[ROWS];
      tile_adcs(p, b, l->sample, o, rows, r);
      sum_lot(p, in, l, p->w, b, o, rows, image, room);
      if (squares) sum_lot(p, in, l, p->variances, b, o, rows, squares, room + 1);
      for (size half = 0; half < l->samples; half += LANES) {
        turn_sums(l, rows, half, room);
        if (squares) turn_sums(l, rows, half, room + 1);
        for (size j = 0; j < LANES && half + j < l->samples; j++) {
          size sample = l->sample + half + j;
          if (c->range_by == BY_VECTOR) tile_adcs(p, b, sample, o, rows, r);
          saturated |=
              convert_tile(p, room->turned[j][0], squares ? room[1].turned[j][0] : NULL, b, sample, o, rows, l->q0, r);
        }
      }
    }
    if (saturated) {
#pragma omp atomic write
      c->saturated[b] = 1;
    }
  }
}

/* images: of `chunk` samples, a multiple of PANEL, and zero; room: of each thread, two of each with read noise. */
static void forward_by_samples(const plan *p, const inside *in, const int32_t *place, float *images, size chunk, lot_sums *room) {
  const convolution *c = p->c;
  size lots = lots_of(p, chunk, 1), wanted = 2 * omp_get_max_threads(), each = c->groups * p->image;
  size parts = least((c->outputs + ROWS - 1) / ROWS, lots < wanted ? (wanted + lots - 1) / lots : 1);
  int reads = c->adc.read_noise > 0;
  float *squares = reads ? images + chunk * each : NULL;
  memset(c->saturated, 0, (size_t)c->blocks);
#pragma omp parallel num_threads(p->threads)
  {
    if (c->find_scale) block_scales(c->scale, c->w, p->total, c->bounds, c->blocks, c->columns, c->n_columns);
    prepare_adcs(p);
    add_noise(p);
    widen_variances(p);
    for (size from = 0; from < c->n; from += chunk) {
      size to = least(from + chunk, c->n);
      quantise_by_samples(p, place, images, squares, from, to);
#pragma omp for schedule(static)
      for (size i = 0; i < lots_of(p, to - from, parts); i++) {
        lot l = lot_at(p, i, from, to, parts);
        size first = (l.sample - from) * each + l.group * p->image * PANEL;
        run_samples(p, in, &l, images + first, reads ? squares + first : NULL, room + omp_get_thread_num() * (1 + reads));
      }
    }
  }
}

static int convolve_by_samples(const plan *p) {
  const convolution *c = p->c;
  int kinds = 1 + (c->adc.read_noise > 0);
  size chunk = (least(c->n, TURNED / (p->image * c->groups)) + PANEL - 1) / PANEL * PANEL;
  chunk = chunk ? chunk : PANEL;
  size each = chunk * c->groups * p->image * kinds;
  int32_t *place = malloc((size_t)(c->groups * c->channels * product(c->in)) * 4);
  float *images = scratch(each), *room = scratch(p->threads * kinds * (size)(sizeof(lot_sums) / 4));
  inside in;
  int found = find_inside(p, &in) && place && images && room;
  if (found) {
    fill_place(p, place);
    memset(images, 0, (size_t)each * 4); /* the padding, which nothing overwrites */
    forward_by_samples(p, &in, place, images, chunk, (lot_sums *)room);
  }
  free(in.sort), free(in.row), free(in.tap), free(in.begin), free(place), free(images), free(room);
  return found;
}

int at_convolution(const convolution *c) {
  plan p = plan_of(c);
  p.by_samples = worth_samples(&p);
  if (p.found && p.by_samples) {
    int found = convolve_by_samples(&p);
    discard(&p);
    return found ? DONE : NO_MEMORY;
  }
  size chunk = samples_at_a_time(&p), each = (widest(c->bounds, c->blocks) + 1) * PANEL;
  float *images = scratch(chunk * c->groups * p.image + PANEL);
  float *panels = scratch(p.threads * (1 + (c->adc.read_noise > 0)) * each);
  int found = p.found && images && panels;
  if (found) forward(&p, images, chunk, panels, each);
  free(images), free(panels);
  discard(&p);
  return found ? DONE : NO_MEMORY;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* The gradient of block b's partial sums of output o at up to LANES positions. */
INLINE vf sum_gradient(const plan *p, size b, size sample, size o, size q, size count) {
  const convolution *c = p->c;
  size row = sample * p->total + o;
  vf g = load_some(c->g + row * p->positions + q, count);
  if (c->gain) g *= c->gain[b * p->total + o];
  if (c->saturated[b]) g = where_clear(g, c->mask + (b * c->n * p->total + row) * mask_words(p->positions), q);
  return g;
}

static float bias_gradient(const plan *p, size o) {
  float total = 0;
  for (size s = 0; s < p->c->n; s++) {
    const float *g = p->c->g + (s * p->total + o) * p->positions;
    vf sum = sum_rows(g, p->positions / LANES, LANES, LANES);
    sum += load_some(g + p->positions / LANES * LANES, p->positions % LANES);
    for (int l = 0; l < LANES; l++) total += sum[l];
  }
  return total;
}

INLINE float one_gradient(const plan *p, size b, size sample, size o, size q) {
  const convolution *c = p->c;
  size row = sample * p->total + o;
  if (c->saturated[b]) {
    const uint32_t *bits = c->mask + (b * c->n * p->total + row) * mask_words(p->positions);
    if (bits[q / 32] >> q % 32 & 1) return 0;
  }
  return c->g[row * p->positions + q] * (c->gain ? c->gain[b * p->total + o] : 1.0f);
}

/* panel[position][o - o0]: the gradients of block b's partial sums of a sample at the positions q0 .. q1. */
static void pack_positions(const plan *p, size b, size sample, size q0, size q1, size o0, size o1, float *panel) {
  for (size q = q0; q < q1; q += LANES)
    for (size half = 0; half < PANEL; half += LANES) {
      vf r[LANES];
      for (size i = 0; i < LANES; i++)
        r[i] = o0 + half + i < o1 ? sum_gradient(p, b, sample, o0 + half + i, q, q1 - q) : (vf){0};
      transpose(r);
      UNROLL for (size i = 0; i < LANES; i++) store(panel + (q - q0 + i) * PANEL + half, r[i]);
    }
}

/* The same for the positions t0 .. t1, counted on through the samples from `from`. */
static void pack_across(const plan *p, size b, size from, size t0, size t1, size o0, size o1, float *panel) {
  for (size t = t0; t < t1; t++)
    for (size j = 0; j < PANEL; j++) {
      size sample = from + t / p->positions, q = t % p->positions;
      panel[(t - t0) * PANEL + j] = o0 + j < o1 ? one_gradient(p, b, sample, o0 + j, q) : 0.0f;
    }
}

/* Add what the packed positions bring to the rows k0 .. k1 of sums. */
static void add_positions(const plan *p, const float *image, const int32_t *where, size count, size k0, size k1,
                       const float *panel, float *sums) {
  for (size k = k0; k < k1; k += ROWS) {
    const float *row[ROWS];
    int rows = (int)least(ROWS, k1 - k);
    for (int i = 0; i < rows; i++) row[i] = image + p->tap[k + i];
    tile_gathered(rows, sums + (k - k0) * PANEL, row, 0, where, NULL, panel, count, 1);
  }
}

/* Rows that the gradient of one output takes at a time: as many sums as stay in registers. */
enum { TAPS = 9 };

/* Whether the positions of an output row fill lanes better than the outputs of a group, as of depthwise layers. With
 * 4 outputs and rows of 3 positions it was slower. */
INLINE int few_outputs(const plan *p) {
  size wide = p->c->out[2], vectors = (wide + LANES - 1) / LANES;
  return p->c->stride[2] == 1 && p->c->outputs <= LANES / 2 && 2 * p->c->outputs * vectors <= wide;
}

/* Rows k0 .. k1 of block b, output o: as weight_gradient, with positions in the lanes. */
static void weight_gradient_of(const plan *p, const float *images, size from, size to, size b, size k0, size k1, size o) {
  const convolution *c = p->c;
  size wide = c->out[2], apart = c->groups * p->image;
  for (size k = k0; k < k1; k += TAPS) {
    const float *tap[TAPS];
    vf sums[TAPS] = {0};
    UNROLL for (size i = 0; i < TAPS; i++) tap[i] = images + o / c->outputs * p->image + p->tap[least(k + i, k1 - 1)];
    for (size s = from; s < to; s++)
      for (size q0 = 0; q0 < p->positions; q0 += wide)
        for (size q = q0; q < q0 + wide; q += LANES) {
          size count = q0 + wide - q, at = (s - from) * apart + p->position[q];
          vf g = {0};
          if (c->saturated[b])
            for (size l = 0; l < least(count, LANES); l++) g[l] = one_gradient(p, b, s, o, q + l);
          else
            g = load_some(c->g + (s * p->total + o) * p->positions + q, count) * (c->gain ? c->gain[b * p->total + o] : 1.0f);
          if (count >= LANES)
            UNROLL for (size i = 0; i < TAPS; i++) sums[i] += g * load(tap[i] + at);
          else
            UNROLL for (size i = 0; i < TAPS; i++) sums[i] += g * load_some(tap[i] + at, count);
        }
    for (size i = 0; i < least(TAPS, k1 - k); i++) {
      float *gw = c->gw + o * p->rows + k + i, sum = 0;
      for (int l = 0; l < LANES; l++) sum += sums[i][l];
      *gw = from ? *gw + sum : sum;
    }
  }
}

/* Rows k0 .. k1 of block b, outputs o0 .. o1: added to gw from samples from .. to. panel: SPAN positions x PANEL;
 * across: where the positions of all these samples begin in the images, if they are few, else NULL. */
static void weight_gradient(const plan *p, const float *images, const int32_t *across, size from, size to, size b,
                            size k0, size k1, size o0, size o1, float *panel, float *sums) {
  const convolution *c = p->c;
  size group = o0 / c->outputs;
  if (few_outputs(p)) {
    for (size o = o0; o < o1; o++) weight_gradient_of(p, images, from, to, b, k0, k1, o);
    return;
  }
  memset(sums, 0, (size_t)((k1 - k0 + ROWS) * PANEL) * 4);
  for (size t = 0; across && t < (to - from) * p->positions; t += SPAN) {
    size end = least(t + SPAN, (to - from) * p->positions);
    pack_across(p, b, from, t, end, o0, o1, panel);
    add_positions(p, images + group * p->image, across + t, end - t, k0, k1, panel, sums);
  }
  for (size s = from; !across && s < to; s++)
    for (size q0 = 0; q0 < p->positions; q0 += SPAN) {
      size q1 = least(q0 + SPAN, p->positions);
      pack_positions(p, b, s, q0, q1, o0, o1, panel);
      const float *image = images + ((s - from) * c->groups + group) * p->image;
      add_positions(p, image, p->position + q0, q1 - q0, k0, k1, panel, sums);
    }
  for (size o = o0; o < o1; o++)
    for (size k = k0; k < k1; k++) {
      float *gw = c->gw + o * p->rows + k, sum = sums[(k - k0) * PANEL + o - o0];
      *gw = from ? *gw + sum : sum;
    }
}

/* Add the gradients of a lot's positions to the images of its samples, `apart` floats each, at rows k .. k + rows. */
INLINE void scatter(const plan *p, const lot *l, const float *sums, size k, int rows, size first, size apart,
                    float *image) {
  int neighbours = adjoin(p, l);
  for (int i = 0; i < rows; i++) {
    float *start = image + p->tap[k + i] - first;
    if (neighbours) {
      start += p->position[l->q0];
      UNROLL for (size v = 0; v < PANEL; v += LANES) store(start + v, load(start + v) + load(sums + i * PANEL + v));
      continue;
    }
    for (size j = 0; j < l->samples; j++)
      for (size q = 0; q < l->positions; q++)
        start[j * apart + p->position[l->q0 + q]] += sums[i * PANEL + j * l->positions + q];
  }
}

/* Input channels ch0 .. ch1 of a sample's group, from its image: through the DAC to gx; the ranges' parts are added to
 * g_range. */
static void clip_gradient(const plan *p, size sample, size group, size ch0, size ch1, const float *image, double *g_range) {
  const convolution *c = p->c;
  const size *pad = p->padded;
  for (size ch = ch0; ch < ch1; ch++) {
    double *of_range = g_range + (c->range_by == BY_BLOCK ? p->block[ch] : 0);
    float range = range_of(p, sample, ch);
    for (size a = 0; a < c->in[0]; a++)
      for (size e = 0; e < c->in[1]; e++) {
        const float *from = image + (((ch - ch0) * pad[0] + a + c->padding[0]) * pad[1] + e + c->padding[1]) * pad[2] + c->padding[2];
        size at = ((((sample * c->groups + group) * c->channels + ch) * c->in[0] + a) * c->in[1] + e) * c->in[2];
        for (size k = 0; k < c->in[2]; k += LANES) {
          size count = c->in[2] - k;
          vf g = load_some(from + k, count), x = load_some(c->x + at + k, count);
          vi above = x > range, below = x < -range;
          if (c->input_levels > 0 && any(above | below)) {
            for (int l = 0; l < LANES; l++) *of_range += above[l] ? (double)g[l] : below[l] ? -(double)g[l] : 0.0;
            g = select_(above | below, (vf){0}, g);
          }
          store_some(c->gx + at + k, g, count);
        }
      }
  }
}

/* Input channels ch0 .. ch1 of the group of `samples` samples from `sample`; the ranges' parts are added to g_range. */
static void input_gradient(const plan *p, size sample, size samples, size group, size ch0, size ch1, float *panel,
                           float *image, double *g_range) {
  const convolution *c = p->c;
  size taps = product(c->kernel), each = p->image / c->channels, apart = (ch1 - ch0) * each, o0 = group * c->outputs;
  memset(image, 0, (size_t)(samples * apart + PANEL) * 4);
  for (size b = 0; b < c->blocks; b++) {
    size k0 = c->bounds[b] > ch0 * taps ? c->bounds[b] : ch0 * taps, k1 = least(c->bounds[b + 1], ch1 * taps);
    for (size q0 = 0; q0 < p->positions && k0 < k1; q0 += PANEL) {
      lot l = {sample, samples, group, q0, least(PANEL, p->positions - q0), o0, o0 + c->outputs};
      for (size o = 0; o < c->outputs; o++)
        for (size j = 0; j < samples; j++) /* in order: the next sample overwrites what is behind */
          for (size v = 0; v < l.positions; v += LANES)
            store(panel + o * PANEL + j * l.positions + v,
                  sum_gradient(p, b, sample + j, o0 + o, q0 + v, l.positions - v));
      for (size k = k0; k < k1; k += ROWS) {
        const float *row[ROWS];
        tile sums;
        int rows = (int)least(ROWS, k1 - k);
        point(row, rows, p->w + o0 * p->rows + k, 1);
        tile_strided(rows, sums[0], row, p->rows, NULL, NULL, panel, c->outputs, 0);
        scatter(p, &l, sums[0], k, rows, ch0 * each, apart, image);
      }
    }
  }
  for (size j = 0; j < samples; j++) clip_gradient(p, sample + j, group, ch0, ch1, image + j * apart, g_range);
}

/* Whether the positions of `samples` samples are too few to take each sample alone. */
static int goes_across(const plan *p, size samples) {
  return p->positions < 64 && p->c->groups * p->image * samples <= INT32_MAX;
}

/* Where the positions of `samples` samples begin in their images. */
static int32_t *positions_across(const plan *p, size samples) {
  int32_t *where = malloc((size_t)(samples * p->positions) * 4);
  for (size t = 0; where && t < samples * p->positions; t++)
    where[t] = (int32_t)(t / p->positions * p->c->groups * p->image) + p->position[t % p->positions];
  return where;
}

/* The weight's gradient from samples from .. to. Called by all threads of a parallel region. */
static void weight_gradients(const plan *p, const float *images, const int32_t *across, size from, size to, float *panel,
                             float *sums) {
  const convolution *c = p->c;
  size wide = (c->outputs + PANEL - 1) / PANEL;
  for (size b = 0; b < c->blocks; b++) {
    size start = c->bounds[b], stop = c->bounds[b + 1], spans = (stop - start + SPAN - 1) / SPAN;
#pragma omp for schedule(static) nowait
    for (size i = 0; i < c->groups * wide * spans; i++) {
      size k0 = start + i % spans * SPAN, group = i / spans / wide, o0 = group * c->outputs + i / spans % wide * PANEL;
      weight_gradient(p, images, across, from, to, b, k0, least(k0 + SPAN, stop), o0,
                      least(o0 + PANEL, (group + 1) * c->outputs), panel, sums);
    }
  }
#pragma omp barrier
}

/* Input channels that the backward takes at a time, of `parts` parts. */
INLINE size channels_at_a_time(const plan *p, size parts) { return (p->c->channels + parts - 1) / parts; }

/* The input's gradient. Called by all threads of a parallel region. */
static void input_gradients(const plan *p, size parts, float *panel, float *image) {
  const convolution *c = p->c;
  size several = together(p), each = channels_at_a_time(p, parts);
#pragma omp for schedule(static)
  for (size i = 0; i < (c->n + several - 1) / several * c->groups * parts; i++) {
    size sample = i / parts / c->groups * several, ch0 = i % parts * each, ch1 = least(ch0 + each, c->channels);
    size samples = least(several, c->n - sample), group = i / parts % c->groups;
    double *g_range = c->g_range + i * (c->range_by == BY_BLOCK ? c->blocks : 1);
    if (ch0 < ch1) input_gradient(p, sample, samples, group, ch0, ch1, panel, image, g_range);
  }
}

/* Floats that a thread of the backward needs: a panel, its sums, the image of its channels. */
typedef struct { size panel, sums, image; } needs;

static needs needs_of(const plan *p, size parts) {
  size deep = p->c->outputs > SPAN ? p->c->outputs : SPAN;
  size image = together(p) * channels_at_a_time(p, parts) * (p->image / p->c->channels) + PANEL;
  return (needs){(deep + LANES) * PANEL, (SPAN + ROWS) * PANEL, p->c->gx ? lines(image) : 0};
}

/* images: of `chunk` samples; rooms: what each thread needs. */
static void backward(const plan *p, size parts, float *images, size chunk, const int32_t *across, float *rooms, needs n) {
  const convolution *c = p->c;
#pragma omp parallel num_threads(p->threads)
  {
    float *panel = rooms + omp_get_thread_num() * (n.panel + n.sums + n.image), *sums = panel + n.panel;
    if (c->g_bias) {
#pragma omp for schedule(static) nowait
      for (size o = 0; o < p->total; o++) c->g_bias[o] = bias_gradient(p, o);
    }
    for (size from = 0; c->gw && from < c->n; from += chunk) {
      size to = least(from + chunk, c->n);
      quantise(p, images, from, to);
      weight_gradients(p, images, across, from, to, panel, sums);
    }
    if (c->gx) {
      add_noise(p);
      input_gradients(p, parts, panel, sums + n.sums);
    }
  }
}

/* gx (needed for g_range too), gw and g_bias where they are not NULL; g_range: zeros, to which a sum per
 * (sample or several, group, part) is added, or one per block of each. parts: of the input channels, so that few
 * samples occupy all threads. */
int at_convolution_backward(const convolution *c, int64_t parts) {
  plan p = plan_of(c);
  size chunk = samples_at_a_time(&p);
  int across = c->gw && goes_across(&p, chunk);
  needs n = needs_of(&p, parts);
  float *images = c->gw ? scratch(chunk * c->groups * p.image + PANEL) : NULL;
  float *rooms = scratch(p.threads * (n.panel + n.sums + n.image));
  int found = p.found && rooms && (images || !c->gw);
  int32_t *where = found && across ? positions_across(&p, chunk) : NULL;
  found = found && (where || !across);
  if (found) backward(&p, parts, images, chunk, where, rooms, n);
  free(images), free(rooms), free(where);
  discard(&p);
  return found ? DONE : NO_MEMORY;
}
