/* Weights behind the resistance of their columns, and their gradients: ops/column_drop.py.
 *
 * The cells of a polarity hang on a line of segments, which has 1 V at its end and, if it has two, 1 V behind the last
 * row of the tile. In units of the conductance of a segment, the line from cell j on has the conductance u, seen from
 * cell j, and d = u / (1 + u) seen through the segment before it. Everything is positive: nothing cancels. LANES outputs
 * are solved at a time, one in each lane. */
#include "vec.h"
#include "noise.h"
#include "weights.h"
#include "tile.h"

/* Weights [output][row], of which the ladder has `cells` rows; scale: per output, the weight of the conductance `unit`;
 * far: conductance from the last cell to the second end, or 0. Conductances are in multiples of that of a segment. */
typedef struct { size outputs, rows, cells; const float *scale; float unit, far; } columns;

/* tile: the rows of a tile if its lines have two ends, else 0. */
static float far_end(float tile, size cells) { return tile > 0 ? 1 / (1 + tile - cells) : 0; }

/* to[cell][lane]; behind the last output, its copies. */
INLINE void gather(float *to, const float *from, const columns *p, size output) {
  for (size j0 = 0; j0 < p->cells; j0 += LANES) {
    vf r[LANES];
    for (size i = 0; i < LANES; i++)
      r[i] = load_some(from + least(output + i, p->outputs - 1) * p->rows + j0, p->cells - j0);
    transpose(r);
    for (size j = 0; j < least(LANES, p->cells - j0); j++) store(to + (j0 + j) * LANES, r[j]);
  }
}

INLINE void scatter(float *to, const float *from, const columns *p, size output) {
  for (size j0 = 0; j0 < p->cells; j0 += LANES) {
    vf r[LANES];
    for (size j = 0; j < LANES; j++) r[j] = j0 + j < p->cells ? load(from + (j0 + j) * LANES) : (vf){0};
    transpose(r);
    for (size i = 0; i < LANES && output + i < p->outputs; i++)
      store_some(to + (output + i) * p->rows + j0, r[i], p->cells - j0);
  }
}

/* The conductance of a cell of a polarity, in multiples of the unit, for a weight in multiples of the scale. */
INLINE vf conductance(vf weight, int negative) {
  if (negative) weight = -weight;
  return select_(weight > 0, weight, (vf){0});
}

enum { SIGNS = 2, ROOMS = 9 }; /* the polarities, positive first; rooms of a thread, each [cell][lane] */

typedef struct { float *w, *g, *sum, *d[SIGNS], *v[SIGNS], *v2[SIGNS]; } rooms;

static int threads_of(size outputs, size rows) { return outputs * rows > 1 << 14 ? omp_get_max_threads() : 1; }

INLINE rooms rooms_of(size cells, float *all) {
  size each = cells * LANES;
  float *r = all + omp_get_thread_num() * ROOMS * each;
  return (rooms){r, r + each, r + 2 * each, {r + 3 * each, r + 4 * each}, {r + 5 * each, r + 6 * each}, {r + 7 * each, r + 8 * each}};
}

/* v: the voltage of each cell, if nothing else drives the line; v2, if `twice`: the current into each cell, and at last
 * the voltage there of a line whose ends are at 0. The polarities are solved side by side, as each step waits for the one
 * before it. */
INLINE void solve(const columns *p, const rooms *r, int twice) {
  vf behind[SIGNS], current[SIGNS], current2[SIGNS] = {{0}}, voltage[SIGNS], voltage2[SIGNS] = {{0}};
  UNROLL for (int s = 0; s < SIGNS; s++) behind[s] = current[s] = same(p->far), voltage[s] = same(1);
  for (size j = (p->cells - 1) * LANES; j >= 0; j -= LANES)
    UNROLL for (int s = 0; s < SIGNS; s++) {
      vf u = conductance(load(r->w + j), s) * p->unit + behind[s], pivot = 1 / (u + 1);
      behind[s] = u * pivot, current[s] *= pivot;
      store(r->d[s] + j, behind[s]), store(r->v[s] + j, current[s]);
      if (!twice) continue;
      current2[s] = (current2[s] + load(r->v2[s] + j)) * pivot;
      store(r->v2[s] + j, current2[s]);
    }
  for (size j = 0; j < p->cells * LANES; j += LANES)
    UNROLL for (int s = 0; s < SIGNS; s++) {
      vf d = load(r->d[s] + j);
      voltage[s] += load(r->v[s] + j) - voltage[s] * d;
      store(r->v[s] + j, voltage[s]);
      if (!twice) continue;
      voltage2[s] += load(r->v2[s] + j) - voltage2[s] * d;
      store(r->v2[s] + j, voltage2[s]);
    }
}

/* The sum of the magnitudes of each of LANES outputs; short sums, added up. */
INLINE vf magnitudes(const columns *p, const float *x) {
  vf total = {0};
  for (size j0 = 0; j0 < p->cells; j0 += 64) {
    vf sum = {0};
    for (size j = j0; j < least(j0 + 64, p->cells); j++) sum += magnitude(load(x + j * LANES));
    total += sum;
  }
  return total;
}

/* The weights of LANES outputs, in multiples of their scale, which is returned. */
INLINE vf take_weights(const rooms *r, const float *w, const columns *p, size output) {
  vf scale = load_some(p->scale + output, p->outputs - output);
  vf inverse = 1 / select_(scale < LEAST_SCALE, same(LEAST_SCALE), scale);
  gather(r->w, w, p, output);
  for (size i = 0; i < p->cells * LANES; i += LANES) store(r->w + i, load(r->w + i) * inverse);
  return scale;
}

/* sums: of the magnitudes of the weights, and `apart` floats behind of those behind the wires. */
static void forward(const columns *p, float *left, float *sums, size apart, const float *w, const rooms *r, size output) {
  vf scale = take_weights(r, w, p, output);
  solve(p, r, 0);
  for (size i = 0; i < p->cells * LANES; i += LANES) {
    vf g = load(r->w + i), v = select_(g > 0, load(r->v[0] + i), load(r->v[1] + i));
    store(r->sum + i, scale * g * v);
  }
  store_some(sums + output, scale * magnitudes(p, r->w), p->outputs - output);
  store_some(sums + apart + output, magnitudes(p, r->sum), p->outputs - output);
  scatter(left, r->sum, p, output);
}

static void backward(const columns *p, float *gw, const float *g, const float *w, const rooms *r, size output) {
  take_weights(r, w, p, output), gather(r->g, g, p, output);
  for (size i = 0; i < p->cells * LANES; i += LANES)
    for (int s = 0; s < SIGNS; s++) store(r->v2[s] + i, load(r->g + i) * conductance(load(r->w + i), s));
  solve(p, r, 1);
  for (size i = 0; i < p->cells * LANES; i += LANES) {
    vi positive = load(r->w + i) >= 0;
    vf share = select_(positive, load(r->v[0] + i), load(r->v[1] + i));
    vf back = select_(positive, load(r->v2[0] + i), load(r->v2[1] + i));
    store(r->sum + i, share * (load(r->g + i) - p->unit * back));
  }
  scatter(gw, r->sum, p, output);
}

/* left: the weights as they act behind the wires; sums: of the magnitudes of each block's and output's weights, then of
 * those behind the wires; scale: of each block and output, found here if `find_scale`; tile: see `far_end`. */
int at_column_drop(float *left, float *sums, float *scale, const float *w, int64_t find_scale, size outputs,
                   const int64_t *bounds, size blocks, const int64_t *shared, size n_columns, float unit, float tile) {
  size rows = bounds[blocks], apart = blocks * outputs;
  int threads = threads_of(outputs, rows);
  float *all = scratch(threads * ROOMS * widest(bounds, blocks) * LANES);
  if (!all) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
  {
    if (find_scale) block_scales(scale, w, outputs, bounds, blocks, shared, n_columns);
    for (size b = 0; b < blocks; b++) {
      size cells = bounds[b + 1] - bounds[b];
      columns p = {outputs, rows, cells, scale + b * outputs, unit, far_end(tile, cells)};
      rooms r = rooms_of(p.cells, all);
#pragma omp for schedule(static)
      for (size output = 0; output < outputs; output += LANES)
        forward(&p, left + bounds[b], sums + b * outputs, apart, w + bounds[b], &r, output);
    }
  }
  free(all);
  return DONE;
}

/* gw: the gradient of the weights, from that of the weights behind the wires. */
int at_column_drop_backward(float *gw, const float *g, const float *w, const float *scale, size outputs,
                            const int64_t *bounds, size blocks, float unit, float tile) {
  size rows = bounds[blocks];
  int threads = threads_of(outputs, rows);
  float *all = scratch(threads * ROOMS * widest(bounds, blocks) * LANES);
  if (!all) return NO_MEMORY;
#pragma omp parallel num_threads(threads)
  for (size b = 0; b < blocks; b++) {
    size cells = bounds[b + 1] - bounds[b];
    columns p = {outputs, rows, cells, scale + b * outputs, unit, far_end(tile, cells)};
    rooms r = rooms_of(p.cells, all);
#pragma omp for schedule(static)
    for (size output = 0; output < outputs; output += LANES)
      backward(&p, gw + bounds[b], g + bounds[b], w + bounds[b], &r, output);
  }
  free(all);
  return DONE;
}
