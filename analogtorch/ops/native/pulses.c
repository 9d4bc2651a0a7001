/* Inputs times the share of the other rows that are on during their pulse, and their gradients: ops/pulse_overlap.py.
 *
 * With x the input behind the DAC, r its range and u = |x| / r, an output is sign(x) r sum over steps of
 * width (q mean(q) + 3 e mean(e)), where q is u within the step, in units of its width, and e = q (1 - q). */
#include "vec.h"
#include "noise.h"
#include "tile.h"
#include "converters.h"

enum { MOST_STEPS = 8 };
#define END 1.000001f /* of a step, as in ops/input_drop.py: a full input ends within it, whatever is rounded */

/* x: (vectors, rows); bounds: of the steps of time, one more than steps. */
typedef struct { const float *x, *range; size vectors, rows, by_vector, steps; const float *bounds; float levels; } pulses;

typedef struct { float start, inverse, width, q, e; } step; /* q and e: means of a vector */

typedef struct { dac d; float range; step step[MOST_STEPS]; } vector;

/* a with the sign of x, 0 for 0. */
INLINE vf signed_as(vf a, vf x) { return select_(x > 0, a, select_(x < 0, -a, x)); }

INLINE vf in_step(vf u, const step *s) {
  vf q = (u - s->start) * s->inverse;
  q = select_(q < 0, (vf){0}, q);
  return select_(q > END, same(END), q);
}

INLINE float total(vf x) {
  float sum = 0;
  for (int l = 0; l < LANES; l++) sum += x[l];
  return sum;
}

INLINE vf row_of(const pulses *p, const vector *v, size m, size k) {
  return dac_output(load_some(p->x + m * p->rows + k, p->rows - k), v->d, p->levels);
}

/* The converters and the means of vector m. */
INLINE void vector_of(const pulses *p, vector *v, size m) {
  vf q[MOST_STEPS] = {0}, e[MOST_STEPS] = {0};
  v->range = safe(range_at(p->range, p->by_vector, m, 0));
  v->d = dac_of(v->range, p->levels);
  for (size i = 0; i < p->steps; i++) {
    float width = p->bounds[i + 1] - p->bounds[i];
    v->step[i] = (step){p->bounds[i], 1 / width, width, 0, 0};
  }
  for (size k = 0; k < p->rows; k += LANES) { /* zeros behind the last row add nothing */
    vf u = magnitude(row_of(p, v, m, k)) * (1 / v->range);
    for (size i = 0; i < p->steps; i++) {
      vf each = in_step(u, &v->step[i]);
      q[i] += each, e[i] += each * (1 - each);
    }
  }
  for (size i = 0; i < p->steps; i++) v->step[i].q = total(q[i]) / p->rows, v->step[i].e = total(e[i]) / p->rows;
}

static void forward(const pulses *p, float *out, size m) {
  vector v;
  vector_of(p, &v, m);
  for (size k = 0; k < p->rows; k += LANES) {
    vf x = row_of(p, &v, m, k), u = magnitude(x) * (1 / v.range), sum = {0};
    for (size i = 0; i < p->steps; i++) {
      const step *s = &v.step[i];
      vf q = in_step(u, s);
      sum += s->width * (q * s->q + 3 * s->e * (q * (1 - q)));
    }
    store_some(out + m * p->rows + k, signed_as(v.range * sum, x), p->rows - k);
  }
}

/* Returns the gradient of the range. */
static double backward(const pulses *p, float *gx, const float *g, const float *out, size m) {
  vector v;
  vf of_q[MOST_STEPS] = {0}, of_e[MOST_STEPS] = {0};
  float gq[MOST_STEPS], ge[MOST_STEPS];
  double of_range = 0.0;
  vector_of(p, &v, m);
  for (size k = 0; k < p->rows; k += LANES) {
    size at = m * p->rows + k, count = p->rows - k;
    vf x = row_of(p, &v, m, k), u = magnitude(x) * (1 / v.range), each = signed_as(load_some(g + at, count), x);
    for (size i = 0; i < p->steps; i++) {
      vf q = in_step(u, &v.step[i]);
      of_q[i] += each * q, of_e[i] += each * (q * (1 - q));
    }
  }
  for (size i = 0; i < p->steps; i++) gq[i] = total(of_q[i]) / p->rows, ge[i] = total(of_e[i]) / p->rows;
  for (size k = 0; k < p->rows; k += LANES) {
    size at = m * p->rows + k, count = p->rows - k;
    vf given = load_some(p->x + at, count), x = row_of(p, &v, m, k), sum = {0}, gradient = load_some(g + at, count);
    vf u = magnitude(x) * (1 / v.range), each = signed_as(gradient, x);
    for (size i = 0; i < p->steps; i++) {
      const step *s = &v.step[i];
      vf q = (u - s->start) * s->inverse;
      vf slope = s->q * each + gq[i] + 3 * (s->e * each + ge[i]) * (1 - 2 * q);
      sum += select_((q >= 0) & (q <= END), slope, (vf){0});
    }
    vf found = signed_as(sum, x);
    vi clipped = p->levels > 0 ? (given > v.range) | (given < -v.range) : (vi){0};
    vf direct = gradient * load_some(out + at, count) - x * found; /* the output is homogeneous in input and range */
    direct = direct * (1 / v.range) + select_(clipped, signed_as(found, x), (vf){0});
    for (int l = 0; l < LANES && l < count; l++) of_range += direct[l];
    store_some(gx + at, select_(clipped, (vf){0}, found), count);
  }
  return of_range;
}

static int threads_of(const pulses *p) { return threads_for(16.0 * p->vectors * p->rows * p->steps); }

void at_pulses(float *out, const float *x, const float *range, const float *bounds, size vectors, size rows,
               size by_vector, size steps, float levels) {
  pulses p = {x, range, vectors, rows, by_vector, steps, bounds, levels};
#pragma omp parallel for schedule(static) num_threads(threads_of(&p))
  for (size m = 0; m < vectors; m++) forward(&p, out, m);
}

/* out: that of at_pulses; g_range: (vectors,). */
void at_pulses_backward(float *gx, double *g_range, const float *g, const float *out, const float *x, const float *range,
                        const float *bounds, size vectors, size rows, size by_vector, size steps, float levels) {
  pulses p = {x, range, vectors, rows, by_vector, steps, bounds, levels};
#pragma omp parallel for schedule(static) num_threads(threads_of(&p))
  for (size m = 0; m < vectors; m++) g_range[m] = backward(&p, gx, g, out, m);
}
