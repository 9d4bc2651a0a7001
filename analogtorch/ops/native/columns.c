/* Weights behind the resistance of their columns, and their gradients: ops/column_drop.py.
 *
 * The cells of a polarity hang on a line of segments, which has 1 V at its end and, if it has two, 1 V behind its last
 * cell. In units of the conductance of a segment, the line from cell j on has the conductance u, seen from cell j, and
 * d = u / (1 + u) seen through the segment before it. Everything is positive: nothing cancels. LANES outputs are solved
 * at a time, one in each lane. */
#include "vec.h"

/* Weights [output][row], of which the ladder has `cells` rows; scale: per output, the weight of the conductance `unit`;
 * far: 1 if a line has two ends, else 0. Conductances are in multiples of that of a segment. */
typedef struct { size outputs, rows, cells; const float *scale; float unit, far; } columns;

enum { BLOCK = 16 }; /* cells that are transposed at a time */

/* to[cell][lane]; behind the last output, its copies. */
INLINE void gather(float *to, const float *from, const columns *p, size output) {
  for (size j0 = 0; j0 < p->cells; j0 += BLOCK)
    for (size i = 0; i < LANES; i++) {
      const float *row = from + least(output + i, p->outputs - 1) * p->rows;
      for (size j = j0; j < least(j0 + BLOCK, p->cells); j++) to[j * LANES + i] = row[j];
    }
}

INLINE void scatter(float *to, const float *from, const columns *p, size output) {
  for (size j0 = 0; j0 < p->cells; j0 += BLOCK)
    for (size i = 0; i < LANES && output + i < p->outputs; i++)
      for (size j = j0; j < least(j0 + BLOCK, p->cells); j++) to[(output + i) * p->rows + j] = from[j * LANES + i];
}

/* The conductance of a cell of the polarity `sign`, in multiples of the unit, for a weight in multiples of the scale. */
INLINE vf conductance(vf weight, float sign) {
  weight *= sign;
  return select_(weight > 0, weight, (vf){0});
}

/* v: the current into each cell, and at last the voltage there; w: weights; d: scratch; end: voltage of the ends. */
INLINE void solve(const columns *p, const float *w, float sign, float *d, float *v, float end) {
  vf behind = same(p->far), current = same(p->far * end), voltage = same(end);
  for (size j = p->cells - 1; j >= 0; j--) {
    vf u = conductance(load(w + j * LANES), sign) * p->unit + behind, pivot = 1 / (u + 1);
    behind = u * pivot, current = (current + load(v + j * LANES)) * pivot;
    store(d + j * LANES, behind), store(v + j * LANES, current);
  }
  for (size j = 0; j < p->cells; j++) {
    voltage += load(v + j * LANES) - voltage * load(d + j * LANES);
    store(v + j * LANES, voltage);
  }
}

/* The rooms of a thread, each [cell][lane]. */
typedef struct { float *w, *g, *d, *v, *v2, *sum; } rooms;
enum { ROOMS = 6 };

static int threads_of(const columns *p) { return p->outputs * p->cells > 1 << 14 ? omp_get_max_threads() : 1; }

INLINE rooms rooms_of(const columns *p, float *all) {
  size each = p->cells * LANES;
  float *own = all + omp_get_thread_num() * ROOMS * each;
  return (rooms){own, own + each, own + 2 * each, own + 3 * each, own + 4 * each, own + 5 * each};
}

/* The weights of LANES outputs, in multiples of their scale. */
INLINE void take_weights(const rooms *r, const float *w, const columns *p, size output) {
  vf inverse = 1 / load_some(p->scale + output, p->outputs - output);
  gather(r->w, w, p, output);
  for (size i = 0; i < p->cells * LANES; i += LANES) store(r->w + i, load(r->w + i) * inverse);
  memset(r->sum, 0, (size_t)(p->cells * LANES) * 4);
}

static void forward(const columns *p, float *left, const float *w, const rooms *r, size output) {
  vf scale = load_some(p->scale + output, p->outputs - output);
  take_weights(r, w, p, output);
  for (float sign = 1; sign >= -1; sign -= 2) {
    memset(r->v, 0, (size_t)(p->cells * LANES) * 4);
    solve(p, r->w, sign, r->d, r->v, 1);
    for (size i = 0; i < p->cells * LANES; i += LANES) {
      vf g = conductance(load(r->w + i), sign);
      store(r->sum + i, load(r->sum + i) + sign * scale * g * load(r->v + i));
    }
  }
  scatter(left, r->sum, p, output);
}

static void backward(const columns *p, float *gw, const float *g, const float *w, const rooms *r, size output) {
  take_weights(r, w, p, output), gather(r->g, g, p, output);
  for (float sign = 1; sign >= -1; sign -= 2) {
    for (size i = 0; i < p->cells * LANES; i += LANES) {
      store(r->v + i, (vf){0});
      store(r->v2 + i, load(r->g + i) * conductance(load(r->w + i), sign));
    }
    solve(p, r->w, sign, r->d, r->v, 1), solve(p, r->w, sign, r->d, r->v2, 0);
    for (size i = 0; i < p->cells * LANES; i += LANES) {
      vf share = load(r->v + i), weight = load(r->w + i);
      vf found = share * (load(r->g + i) - p->unit * load(r->v2 + i));
      store(r->sum + i, select_(sign > 0 ? weight >= 0 : weight < 0, found, load(r->sum + i)));
    }
  }
  scatter(gw, r->sum, p, output);
}

/* left: the weights as they act behind the wires. */
int at_column_drop(float *left, const float *w, const float *scale, size outputs, size rows, size cells, float unit,
                   float far) {
  columns p = {outputs, rows, cells, scale, unit, far};
  int threads = threads_of(&p);
  float *all = scratch(threads * ROOMS * cells * LANES);
  if (!all) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (size output = 0; output < outputs; output += LANES) {
    rooms r = rooms_of(&p, all);
    forward(&p, left, w, &r, output);
  }
  free(all);
  return DONE;
}

/* gw: the gradient of the weights, from that of the weights behind the wires. */
int at_column_drop_backward(float *gw, const float *g, const float *w, const float *scale, size outputs, size rows,
                            size cells, float unit, float far) {
  columns p = {outputs, rows, cells, scale, unit, far};
  int threads = threads_of(&p);
  float *all = scratch(threads * ROOMS * cells * LANES);
  if (!all) return NO_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (size output = 0; output < outputs; output += LANES) {
    rooms r = rooms_of(&p, all);
    backward(&p, gw, g, w, &r, output);
  }
  free(all);
  return DONE;
}
