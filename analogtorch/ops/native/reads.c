/* Sums over the reads of known MVMs that a gain is fitted on: simulate/readout.py defines them. */
#include "vec.h"
#include "noise.h"
#include "tile.h"
#include "converters.h"

typedef struct {
  const float *sums, *exact;            /* (inputs, outputs): partial sums, and the MVMs of the exact weights */
  const float *errors, *working;        /* of the ADC of each output, by enum adc_error; working: 1 or 0 */
  const int64_t *keys;                  /* of the noise of each read: as it is, and with exchanged polarities */
  float *numerator, *denominator;       /* of each output */
  float noise, range, levels, lost;     /* levels 0: no ADC; lost: what a code may lack where floors */
  int64_t inputs, outputs, first_output, twice, balanced, floors; /* twice: 2 where a second read has its own noise, else 1 */
} known_reads;

/* Toward zero: the nearest integer, or the one beside it where that is further from zero. */
INLINE vf toward_zero(vf x) {
  vf n = nearest(x), beyond = (vf)((vi)same(1.0f) & (magnitude(n) > magnitude(x)));
  return n - select_(x < 0, -beyond, beyond);
}

typedef struct { vf gain, offset, working, range, up, down, limit; } column;

/* One ADC output for a partial sum with its noise; clears lanes of `inside` that are at an end of the range. */
INLINE vf adc_of(const known_reads *p, const column *c, vf v, vi *inside) {
  v = v * c->gain + c->offset * c->range;
  if (p->levels > 0) {
    vf u = clip(v, c->range) * c->up;
    if (p->floors) u += select_(u < 0, same(-p->lost), select_(u > 0, same(p->lost), (vf){0}));
    v = (p->floors ? toward_zero(u) : nearest(u)) * c->down;
  }
  v *= c->working;
  if (p->levels > 0) *inside &= magnitude(v) < c->limit;
  return v;
}

/* The outputs j .. j + LANES. words: of each read, input, and its exchanged one. */
static void fit(const known_reads *p, const uint64_t *words, size j) {
  size count = p->outputs - j;
  float range = safe(p->range);
  column c = {load_some(p->errors + ADC_GAIN * p->outputs + j, count),
              load_some(p->errors + ADC_OFFSET * p->outputs + j, count),
              load_some(p->working + j, count),
              same(range),
              same(p->levels / range), same(range / p->levels), same(p->range - p->range / p->levels / 2)};
  vf numerator = {0}, denominator = {0};
  for (size i = 0; i < p->inputs; i++) {
    vf sum = load_some(p->sums + i * p->outputs + j, count), y[2];
    vi inside = first_lanes(count);
    for (size t = 0; t < p->twice; t++) {
      const uint64_t *word = words + (t * p->inputs + i) * 2;
      vf z = p->noise > 0 ? normal(word[0], (uint32_t)(p->first_output + j)) * p->noise : (vf){0};
      y[t] = adc_of(p, &c, sum + z, &inside);
      if (p->balanced) {
        z = p->noise > 0 ? normal(word[1], (uint32_t)(p->first_output + j)) * p->noise : (vf){0};
        y[t] = (y[t] - adc_of(p, &c, z - sum, &inside)) * 0.5f;
      }
    }
    vf a = (vf)((vi)y[0] & inside), b = (vf)((vi)y[p->twice - 1] & inside);
    numerator += (a + b) * 0.5f * load_some(p->exact + i * p->outputs + j, count), denominator += a * b;
  }
  store_some(p->numerator + j, numerator, count), store_some(p->denominator + j, denominator, count);
}

int at_known_reads(const known_reads *p) {
  uint64_t *words = malloc((size_t)(p->twice * p->inputs * 2) * sizeof *words);
  if (!words) return NO_MEMORY;
  for (size t = 0; t < p->twice; t++)
    for (size i = 0; i < p->inputs; i++)
      for (size e = 0; e < 2; e++) words[(t * p->inputs + i) * 2 + e] = fold((uint64_t)p->keys[2 * t + e], (uint64_t)i);
#pragma omp parallel for schedule(static) num_threads(threads_for(100.0 * p->inputs * p->outputs))
  for (size j = 0; j < p->outputs; j += LANES) fit(p, words, j);
  free(words);
  return DONE;
}
