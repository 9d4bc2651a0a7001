/* A formula of numbers and of normals at their positions: ops/elementwise.py. */
#include "vec.h"
#include "noise.h"
#include "formula.h"

typedef struct {
  formula of;
  const int64_t *uses, *results; /* whether each argument is used; registers of the results */
  const int64_t *numbers; /* addresses of the first arguments, (rows, columns) */
  const int64_t *keys, *outputs, *firsts; /* of each further one, normals: the key, and addresses of their positions */
  const int64_t *out; /* addresses of the results */
  int64_t n_numbers, n_normals, n_results, rows, columns;
} elementwise;

/* Normals in `count` columns from `column` on, into a register. */
INLINE void draw(uint64_t word, uint32_t column, size count, float *to) {
  size j = 0;
  for (; j + (TOGETHER - 1) * LANES < count; j += TOGETHER * LANES) {
    vf z[TOGETHER];
    normals(word, column + (uint32_t)j, z);
    UNROLL for (int v = 0; v < TOGETHER; v++) store(to + j + v * LANES, z[v]);
  }
  for (; j < count; j += LANES) store(to + j, normal(word, column + (uint32_t)j));
}

/* The columns j .. j + count of a row. */
static void some(const elementwise *p, size row, size j, size count, float *registers) {
  size at = row * p->columns + j, bytes = count * (size)sizeof(float);
  for (size i = 0; i < p->n_numbers; i++)
    if (p->uses[i]) memcpy(registers + i * APART, (const float *)p->numbers[i] + at, (size_t)bytes);
  for (size i = 0; i < p->n_normals; i++) {
    if (!p->uses[p->n_numbers + i]) continue;
    uint64_t word = fold((uint64_t)p->keys[i], (uint64_t)((const int64_t *)p->outputs[i])[row]);
    draw(word, (uint32_t)(((const int64_t *)p->firsts[i])[row] + j), count, registers + (p->n_numbers + i) * APART);
  }
  run(&p->of, registers, count);
  for (size i = 0; i < p->n_results; i++) memcpy((float *)p->out[i] + at, registers + p->results[i] * APART, (size_t)bytes);
}

int at_elementwise(const elementwise *p) {
  int threads = threads_for(20.0 * (p->n_normals + p->of.count) * p->rows * p->columns);
  size room = p->of.registers * APART;
  float *rooms = scratch(threads * room);
  if (!rooms) return NO_MEMORY;
  memset(rooms, 0, (size_t)(threads * room) * sizeof *rooms); /* lanes behind the last number hold numbers, too */
#pragma omp parallel for schedule(static) num_threads(threads)
  for (size row = 0; row < p->rows; row++)
    for (size j = 0; j < p->columns; j += SPAN)
      some(p, row, j, least(SPAN, p->columns - j), rooms + omp_get_thread_num() * room);
  free(rooms);
  return DONE;
}
