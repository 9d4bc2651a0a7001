/* Weights of a training step as the devices of differential pairs hold them: ops/device_noise.py.
 *
 * A row of a block is taken SPAN cells at a time, whose conductances stay in cache. Of the two devices of a pair one holds
 * the weight and the other is empty. What an empty device does is another formula, with fewer instructions. */
#include "vec.h"
#include "noise.h"
#include "weights.h"
#include "formula.h"

enum { KINDS = 3, SUMS = 4 }; /* normals of a device: of programming, drift and read */

typedef struct {
  const float *w;
  const int64_t *key, *streams; /* a stream for each kind */
  float *out, *scale, *gain;
  const int64_t *bounds, *columns, *together; /* together: bounds of the outputs that share a gain */
  int64_t outputs, rows, blocks, n_columns, n_together, first_output, first_row, groups;
  int64_t pairs, sequential, drifts, calibrated; /* drifts: whether time passes before the read; calibrated: its columns */
  float g_min, span, g_total, strength;
  formula full, empty;
} device_noise;

/* The keys of the normals of all pairs: [pair][kind][0: positive, 1: negative]. */
static void keys_of(const device_noise *p, uint64_t (*keys)[KINDS][2]) {
  for (size pair = 0; pair < p->pairs; pair++)
    for (int kind = 0; kind < KINDS; kind++)
      for (int sign = 0; sign < 2; sign++)
        keys[pair][kind][sign] =
            fold(fold((uint64_t)*p->key, (uint64_t)p->streams[kind]), (uint64_t)(sign * p->pairs + pair));
}

/* The normals of cells with weights w, into the registers of the device that holds the weight and of the empty one. */
INLINE void draw(const device_noise *p, const float *w, size count, const uint64_t keys[KINDS][2], uint64_t output,
                 uint32_t column, float *full, float *empty) {
  for (int kind = 0; kind < KINDS; kind++) {
    if (!(p->full.uses[1 + kind] | p->empty.uses[1 + kind])) continue;
    uint64_t word[2] = {fold(keys[kind][0], output), fold(keys[kind][1], output)};
    for (size j = 0; j < count; j += TOGETHER / 2 * LANES) {
      vu bits[TOGETHER];
      vf z[TOGETHER];
      UNROLL for (int v = 0; v < TOGETHER / 2; v++) {
        vu plus = random_bits(word[0], column + (uint32_t)(j + v * LANES));
        vu minus = random_bits(word[1], column + (uint32_t)(j + v * LANES));
        vi negative = load(w + j + v * LANES) < 0;
        bits[2 * v] = (vu)select_(negative, (vf)minus, (vf)plus), bits[2 * v + 1] = plus ^ minus ^ bits[2 * v];
      }
      normals_of(TOGETHER, bits, z);
      UNROLL for (int v = 0; v < TOGETHER / 2; v++) {
        store(full + (1 + kind) * APART + j + v * LANES, z[2 * v]);
        store(empty + (1 + kind) * APART + j + v * LANES, z[2 * v + 1]);
      }
    }
  }
}

/* Of a cell with the weight w, what its pair number `pair` holds: the share of the largest. */
INLINE vf share_of(const device_noise *p, vf w, size pair) {
  vf t = (vf)((vi)w & 0x7FFFFFFF);
  return p->sequential ? within(t * (float)p->pairs - (float)pair, (vf){0}, same(1.0f)) : t;
}

/* A weight in units of its scale: physics.relative, clamped. */
INLINE vf relative(vf w, float inverse) { return within(w * inverse, same(-1), same(1)); }

INLINE float inverse_of(float full) { return 1 / (full > LEAST_SCALE ? full : LEAST_SCALE); }

/* Floats of a thread: weights, differences of conductances then and now, and two files of registers. */
static size room_of(const device_noise *p) { return (3 + p->full.registers + p->empty.registers) * APART; }

/* The weights k .. k + count of output n, of scale 1 / `inverse`, as they are read; adds up their products with the targets
 * and their squares: sums[0] and sums[1] after programming, sums[2] and sums[3] now. */
static void read_cells(const device_noise *p, const uint64_t (*keys)[KINDS][2], size n, size k, size count, float inverse,
                       float *room, double sums[SUMS]) {
  float *w = room, *then = w + APART, *now = then + APART, *held = now + APART, *empty = held + p->full.registers * APART;
  size group = n / (p->outputs / p->groups);
  uint32_t column = (uint32_t)(p->first_row + group * p->rows + k);
  for (size j = 0; j < count; j += LANES) store(w + j, relative(load_some(p->w + n * p->rows + k + j, count - j), inverse));
  memset(then, 0, 2 * APART * sizeof *then);
  for (size pair = 0; pair < p->pairs; pair++) {
    draw(p, w, count, keys[pair], (uint64_t)(p->first_output + n), column, held, empty);
    for (size j = 0; j < count; j += LANES) store(held + j, share_of(p, load(w + j), pair) * p->span + p->g_min);
    run(&p->full, held, count), run(&p->empty, empty, count);
    for (size j = 0; j < count; j += LANES)
      for (int i = 0; i < 2; i++) {
        float *sum = i ? now : then, *a = held + p->full.results[i] * APART, *b = empty + p->empty.results[i] * APART;
        store(sum + j, load(sum + j) + load(a + j) - load(b + j));
      }
  }
  vf total[SUMS] = {0};
  float unit = 1 / p->g_total;
  for (size j = 0; j < count; j += LANES) {
    vi sign = (load(w + j) < 0) & (vi)same(-0.0f), kept = first_lanes(count - j);
    vf before = (vf)((vi)(load(then + j) * unit) & kept), after = (vf)((vi)(load(now + j) * unit) & kept);
    vf target = (vf)((vi)load(w + j) & 0x7FFFFFFF & kept);
    total[0] += target * before, total[1] += before * before, total[2] += target * after, total[3] += after * after;
    store_some(p->out + n * p->rows + k + j, (vf)((vi)after ^ sign), count - j);
  }
  for (int i = 0; i < SUMS; i++)
    for (int l = 0; l < LANES; l++) sums[i] += total[i][l];
}

INLINE double quotient(double a, double b) { return a > 0 && b > 0 ? a / b : 1; }

/* sums: of each block and output. ratio: the factor that fits it to its target, ops/drift.py compensation. */
static void compensate(const device_noise *p, const double *sums, float *ratio) {
  for (size b = 0; b < p->blocks; b++)
    for (size c = 0; c < p->n_together; c++) {
      double fit = 0, square = 0;
      for (size n = p->together[c]; n < p->together[c + 1]; n++) {
        const double *sum = sums + SUMS * (b * p->outputs + n);
        double column = p->calibrated ? quotient(sum[0], sum[1]) : 1;
        fit += column * sum[2], square += column * column * sum[3];
      }
      double found = p->drifts ? quotient(fit, square) : 1;
      for (size n = p->together[c]; n < p->together[c + 1]; n++) {
        size i = b * p->outputs + n;
        ratio[i] = (float)((p->calibrated ? quotient(sums[SUMS * i], sums[SUMS * i + 1]) : 1) * found);
        p->gain[i] = powf(ratio[i], p->strength);
      }
    }
}

/* The weights read, in the units of w and before the gain: one that reads 0 is 0 to the bit. */
static void finish(const device_noise *p, size n, size b, float ratio) {
  size i = b * p->outputs + n;
  float own = (1 - p->strength) / p->gain[i], others = p->scale[i] * p->strength * ratio / p->gain[i];
  for (size k = p->bounds[b]; k < p->bounds[b + 1]; k += LANES) {
    size count = p->bounds[b + 1] - k, at = n * p->rows + k;
    store_some(p->out + at, load_some(p->w + at, count) * own + load_some(p->out + at, count) * others, count);
  }
}

int at_device_noise(const device_noise *p) {
  int threads = threads_for(200.0 * p->pairs * p->outputs * p->rows);
  size cells = p->blocks * p->outputs, room = room_of(p);
  float *rooms = scratch(threads * room), *ratio = scratch(cells);
  double *sums = calloc((size_t)(SUMS * cells), sizeof *sums);
  uint64_t(*keys)[KINDS][2] = malloc((size_t)p->pairs * sizeof *keys);
  int found = rooms && ratio && sums && keys;
  if (found) {
    keys_of(p, keys);
#pragma omp parallel num_threads(threads)
    {
      block_scales(p->scale, p->w, p->outputs, p->bounds, p->blocks, p->columns, p->n_columns);
#pragma omp for schedule(static)
      for (size i = 0; i < cells; i++) {
        size n = i / p->blocks, b = i % p->blocks, to = p->bounds[b + 1];
        for (size k = p->bounds[b]; k < to; k += SPAN)
          read_cells(p, keys, n, k, least(SPAN, to - k), inverse_of(p->scale[b * p->outputs + n]), rooms + omp_get_thread_num() * room,
                     sums + SUMS * (b * p->outputs + n));
      }
#pragma omp single
      compensate(p, sums, ratio);
#pragma omp for schedule(static)
      for (size i = 0; i < cells; i++) finish(p, i / p->blocks, i % p->blocks, ratio[i % p->blocks * p->outputs + i / p->blocks]);
    }
  }
  free(rooms), free(ratio), free(sums), free(keys);
  return found ? DONE : NO_MEMORY;
}
