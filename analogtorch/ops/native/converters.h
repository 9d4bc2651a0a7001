/* DAC and ADC, in the reference's order of operations (ops/converters.py). */

/* A range of 0 (an input or a block of zeros) quantises to 0 instead of 0 / 0; NaN stays. */
INLINE float safe(float range) { return range < LEAST_BOUND ? LEAST_BOUND : range; }

typedef struct { vf range, up, down; } dac;

INLINE dac dac_of(float range, float levels) {
  range = safe(range);
  return (dac){same(range), same(levels / range), same(range / levels)};
}

/* levels 0: no DAC. */
INLINE vf dac_output(vf x, dac d, float levels) { return levels > 0 ? nearest(clip(x, d.range) * d.up) * d.down : x; }

/* One input range for all, for each vector (linear) or sample (convolution), or for each row block. */
enum { SHARED, BY_VECTOR, BY_BLOCK };

INLINE float range_at(const float *range, size by, size vector, size block) {
  return fabsf(range[by == BY_VECTOR ? vector : by == BY_BLOCK ? block : 0]);
}

/* The DACs of LANES vectors (or samples) from `vector`, of which `count` exist, at a block. */
INLINE dac dacs_at(const float *range, size by, size vector, size count, size block, float levels) {
  if (by != BY_VECTOR) return dac_of(range_at(range, by, vector, block), levels);
  vf each = magnitude(load_some(range + vector, count));
  each = select_(each < LEAST_BOUND, same(LEAST_BOUND), each);
  return (dac){each, levels / each, each / levels};
}

/* Errors of ADCs, in the order of chips.ADC_ERRORS; at_adc in ops/converters.py defines them. */
enum adc_error { ADC_GAIN, ADC_OFFSET, ADC_ERRORS };

/* The ADCs of one matrix; range and noise in units of full-scale input x weight scale. */
typedef struct {
  float levels /* 0: no ADC */, range, std;
  float read_noise;           /* multiple of the deviation of the read noise of every MVM; 0: none */
  const float *adc_ranges;    /* of each block and output, instead of range */
  const float *adc_errors;    /* of each kind, block and output; or NULL */
  int64_t each_error;         /* numbers of one kind: blocks x outputs */
  float unit_levels;          /* of the digital unit behind the ADCs; 0: it does not round */
  const float *output_ranges; /* in which it rounds, of each block and output */
  const int64_t *output_keys; /* of the noise, one per block */
  int64_t first_output, total_outputs;
} adc;

/* The converters of LANES outputs, or of one. */
typedef struct { vf range, up, down, std, unit_range, unit_up, unit_down, offset; } column_adc;

INLINE vf safe_all(vf range) { return select_(range < LEAST_BOUND, same(LEAST_BOUND), range); }

INLINE vf error_of(const adc *a, enum adc_error kind, size at, size count) {
  return load_some(a->adc_errors + kind * a->each_error + at, count);
}

/* The converters of up to `count` outputs, the first of which is number `at` of all blocks' outputs. */
INLINE column_adc column_adc_of(const adc *a, vf full, size at, size count) {
  vf range = a->adc_ranges ? load_some(a->adc_ranges + at, count) : same(a->range), offset = {0};
  if (a->adc_errors) {
    vf gain = error_of(a, ADC_GAIN, at, count);
    range = a->adc_ranges ? range / gain : range * (1 / gain); /* as torch divides a tensor, and a number */
  }
  range = full * range;
  if (a->adc_errors) offset = error_of(a, ADC_OFFSET, at, count) * range;
  range = safe_all(range);
  column_adc r = {range, a->levels / range, range / a->levels, full * a->std, .offset = offset};
  if (a->unit_levels > 0) {
    r.unit_range = safe_all(full * load_some(a->output_ranges + at, count));
    r.unit_up = a->unit_levels / r.unit_range, r.unit_down = r.unit_range / a->unit_levels;
  }
  return r;
}

/* The converters of output number `lane` of `r`, in all lanes. */
INLINE column_adc of_lane(const column_adc *r, size lane) {
  column_adc one;
  for (size i = 0; i < (size)(sizeof one / sizeof(vf)); i++) ((vf *)&one)[i] = same(((const float *)r)[i * LANES + lane]);
  return one;
}

/* The ADC outputs for partial sums y; outside: which lanes saturated. */
INLINE vf adc_output(const adc *a, const column_adc *r, vf y, vi *outside) {
  if (a->adc_errors) y += r->offset;
  if (!(a->levels > 0)) { *outside = (vi){0}; return y; }
  *outside = magnitude(y) > r->range;
  return nearest(clip(y, r->range) * r->up) * r->down;
}

/* The outputs of the digital unit for ADC outputs y after their gain; lanes that saturate are added to `outside`. */
INLINE vf unit_output(const adc *a, const column_adc *r, vf y, vi *outside) {
  if (!(a->unit_levels > 0)) return y;
  *outside |= magnitude(y) > r->unit_range;
  return nearest(clip(y, r->unit_range) * r->unit_up) * r->unit_down;
}

/* Words of a mask row: a bit for each partial sum, in whole words. */
INLINE size mask_words(size count) { return (count + 31) / 32; }

/* The number of vector m in the noise: samples has one for each; or, if `first_only`, that of the first; or is NULL. */
INLINE uint64_t number_of(const int64_t *samples, int64_t first_only, size m) {
  return (uint64_t)(!samples ? m : first_only ? samples[0] + m : samples[m]);
}

/* Whether partial sums have noise, and whether a part of it is read noise: sums of variances times squared inputs. */
INLINE int noisy(const adc *a) { return a->std > 0 || a->read_noise > 0; }

/* physics.read_std of sums of variances, for weights of this scale. */
INLINE vf read_std(const adc *a, const column_adc *r, vf scale, vf sums) {
  vf read = scale * a->read_noise;
  return root(r->std * r->std + read * read * sums);
}

/* The bits of a panel; the last of a row fills its word. */
INLINE void store_mask(uint32_t *row, size at, size count, const vi outside[VECTORS]) {
  uint32_t bits = 0;
  for (int v = 0; v < VECTORS; v++) bits |= bits_of(outside[v]) << (v * LANES);
  memcpy((uint8_t *)row + at / 8, &bits, at + PANEL < count ? PANEL / 8 : 4 * mask_words(count) - at / 8);
}
