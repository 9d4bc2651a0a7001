/* DAC and ADC, in the reference's order of operations (ops/physics.py). */

/* A bound of 0 (an input or a block of zeros) quantises to 0 instead of 0 / 0; NaN stays. */
INLINE float safe(float bound) { return bound < LEAST_BOUND ? LEAST_BOUND : bound; }

typedef struct { vf bound, up, down; } dac;

INLINE dac dac_of(float range, float levels) {
  float bound = safe(range);
  return (dac){same(bound), same(levels / bound), same(bound / levels)};
}

/* levels 0: no DAC. */
INLINE vf dac_read(vf x, dac d, float levels) { return levels > 0 ? nearest(clip(x, d.bound) * d.up) * d.down : x; }

/* What has an input range of its own: nothing, each vector (linear) or sample (convolution), or each row block. */
enum { SHARED, BY_VECTOR, BY_BLOCK };

INLINE float range_at(const float *range, size by, size vector, size block) {
  return fabsf(range[by == BY_VECTOR ? vector : by == BY_BLOCK ? block : 0]);
}

/* Errors of ADCs, in the order of chips.ADC_ERRORS; at_adc in ops/physics.py says what each does. */
enum adc_error { ADC_GAIN, ADC_OFFSET, ADC_ERRORS };

/* The ADC of one matrix; bound and noise in units of full-scale input x weight scale. */
typedef struct {
  float levels /* 0: no ADC */, bound, std;
  const float *output_bounds; /* of each block and output, instead of bound */
  const float *adc_errors;    /* of each kind, block and output; or NULL */
  int64_t each_error;         /* numbers of one kind: blocks x outputs */
  float unit_levels;          /* of the digital unit behind it; 0: it passes on what the ADC gives */
  const float *output_ranges; /* in which it rounds, of each block and output */
  const int64_t *output_keys; /* of the noise, one per block */
  int64_t first_output, total_outputs;
} adc;

/* What LANES outputs, or one, are read with. */
typedef struct { vf bound, up, down, std, range, range_up, range_down, offset; } reading;

INLINE vf safe_all(vf bound) { return select_(bound < LEAST_BOUND, same(LEAST_BOUND), bound); }

INLINE vf error_of(const adc *a, enum adc_error kind, size at, size count) {
  return load_some(a->adc_errors + kind * a->each_error + at, count);
}

/* Of up to `count` outputs, the first of which is number `at` of all blocks' outputs. */
INLINE reading reading_of(const adc *a, vf full, size at, size count) {
  vf bound = a->output_bounds ? load_some(a->output_bounds + at, count) : same(a->bound), offset = {0};
  if (a->adc_errors) {
    vf gain = error_of(a, ADC_GAIN, at, count);
    bound = a->output_bounds ? bound / gain : bound * (1 / gain); /* as torch divides a tensor, and a number */
  }
  bound = full * bound;
  if (a->adc_errors) offset = error_of(a, ADC_OFFSET, at, count) * bound;
  bound = safe_all(bound);
  reading r = {bound, a->levels / bound, bound / a->levels, full * a->std, .offset = offset};
  if (a->unit_levels > 0) {
    r.range = safe_all(full * load_some(a->output_ranges + at, count));
    r.range_up = a->unit_levels / r.range, r.range_down = r.range / a->unit_levels;
  }
  return r;
}

/* What output number `lane` of those that `r` is of is read with, in all lanes. */
INLINE reading of_lane(const reading *r, size lane) {
  reading one;
  for (size i = 0; i < (size)(sizeof one / sizeof(vf)); i++) ((vf *)&one)[i] = same(((const float *)r)[i * LANES + lane]);
  return one;
}

/* The reading of y; which lanes saturated. */
INLINE vf adc_read(const adc *a, const reading *r, vf y, vi *outside) {
  if (a->adc_errors) y += r->offset;
  if (!(a->levels > 0)) { *outside = (vi){0}; return y; }
  *outside = (y > r->bound) | (y < -r->bound);
  return nearest(clip(y, r->bound) * r->up) * r->down;
}

/* What the digital unit makes of it, after its gain; lanes that saturate are added to those of the ADC. */
INLINE vf unit_read(const adc *a, const reading *r, vf y, vi *outside) {
  if (!(a->unit_levels > 0)) return y;
  *outside |= (y > r->range) | (y < -r->range);
  return nearest(clip(y, r->range) * r->range_up) * r->range_down;
}

/* Which readings saturated: a bit for each, in rows of whole words. */
INLINE size mask_words(size count) { return (count + 31) / 32; }

/* The bits of a panel; the last of a row fills its word. */
INLINE void store_mask(uint32_t *row, size at, size count, const vi outside[VECTORS]) {
  uint32_t bits = 0;
  for (int v = 0; v < VECTORS; v++) bits |= bits_of(outside[v]) << (v * LANES);
  memcpy((uint8_t *)row + at / 8, &bits, at + PANEL < count ? PANEL / 8 : 4 * mask_words(count) - at / 8);
}
