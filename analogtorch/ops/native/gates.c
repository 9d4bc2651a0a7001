/* The gates of one step of a recurrent layer, and their gradients: ops/gates.py. */
#include "vec.h"

enum kind { TANH, RELU, GRU, LSTM, KINDS };

typedef struct {
  const float *x, *products; /* of the input and of the state: (samples, gates * size) */
  const float *before;       /* (samples, size): the state before; the cell of an LSTM */
  float *h, *c;              /* the next state; c: of an LSTM */
  float *kept;               /* for the gradient, (samples, kept_of(kind) * size); or NULL */
  const float *gh[3];        /* gradients of h, which are added; or NULL */
  const float *gc;           /* gradient of c, or NULL */
  float *gx, *g_products;    /* those of x and of products: one array unless the kind is GRU */
  float *g_before;
  int64_t kind, samples, size;
} gates;

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp_of(-x)); }

/* To 2 ulp: cephes' tanhf. */
INLINE vf tanh_of(vf x) {
  vf m = magnitude(x), s = x * x;
  vf near = -5.70498872745e-3f * s + 2.06390887954e-2f;
  near = near * s - 5.37397155531e-2f;
  near = near * s + 1.33314422036e-1f;
  near = near * s - 3.33332819422e-1f;
  vf far = 1.0f - 2.0f / (exp_of(2.0f * m) + 1.0f);
  return select_(m < 0.625f, near * s * x + x, (vf)((vi)far | ((vi)x & ~0x7FFFFFFF)));
}

/* The gates of each sample in x and products, and the arrays of its size in kept. */
static int gates_of(int kind) { return kind == GRU ? 3 : kind == LSTM ? 4 : 1; }
static int kept_of(int kind) { return kind >= GRU ? 4 : 1; }

INLINE int threads_of(const gates *p) { return threads_for(64.0 * p->samples * p->size); }

#define EACH                                                                                                           \
  size n = p->size, ld = gates_of((int)p->kind) * n, kept_ld = kept_of((int)p->kind) * n;                              \
  _Pragma("omp parallel for schedule(static) num_threads(threads_of(p))") for (size m = 0; m < p->samples; m++)        \
      for (size j = 0, at = m * n, count = n; j < n; j += LANES, at += LANES, count -= LANES)

#define GATE(array, gate) ((array) + m * ld + (gate) * n + j)
#define KEPT(number) (p->kept + m * kept_ld + (number) * n + j)
#define PUT(to, value) store_some(to, value, count)
#define GET(from) load_some(from, count)

int at_gates(const gates *p) {
  const float *x = p->x, *y = p->products;
  EACH {
    if (p->kind == LSTM) {
      vf i = sigmoid(GET(GATE(x, 0)) + GET(GATE(y, 0))), f = sigmoid(GET(GATE(x, 1)) + GET(GATE(y, 1)));
      vf g = tanh_of(GET(GATE(x, 2)) + GET(GATE(y, 2))), o = sigmoid(GET(GATE(x, 3)) + GET(GATE(y, 3)));
      vf c = f * GET(p->before + at) + i * g;
      PUT(p->c + at, c);
      PUT(p->h + at, o * tanh_of(c));
      if (p->kept) PUT(KEPT(0), i), PUT(KEPT(1), f), PUT(KEPT(2), g), PUT(KEPT(3), o);
    } else if (p->kind == GRU) {
      vf r = sigmoid(GET(GATE(x, 0)) + GET(GATE(y, 0))), z = sigmoid(GET(GATE(x, 1)) + GET(GATE(y, 1)));
      vf product = GET(GATE(y, 2)), new = tanh_of(GET(GATE(x, 2)) + r * product);
      PUT(p->h + at, new + z * (GET(p->before + at) - new));
      if (p->kept) PUT(KEPT(0), r), PUT(KEPT(1), z), PUT(KEPT(2), new), PUT(KEPT(3), product);
    } else {
      vf sum = GET(GATE(x, 0)) + GET(GATE(y, 0));
      vf h = p->kind == TANH ? tanh_of(sum) : select_(sum < 0, (vf){0}, sum);
      PUT(p->h + at, h);
      if (p->kept) PUT(KEPT(0), h);
    }
  }
  return DONE;
}

/* The largest magnitude of each vector, which may be its DAC range. */
void at_largest(const float *x, float *largest, int64_t vectors, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(threads_for(4.0 * vectors * count))
  for (size m = 0; m < vectors; m++) {
    vf most = {0};
    for (size j = 0; j < count; j += LANES) {
      vf here = magnitude(load_some(x + m * count + j, count - j));
      most = select_(here > most, here, most); /* without NaN, which spreads without a range */
    }
    float found = 0;
    for (int l = 0; l < LANES; l++) found = most[l] > found ? most[l] : found;
    largest[m] = found;
  }
}

/* From kept, before and, of an LSTM, c. */
int at_gates_backward(const gates *p) {
  EACH {
    vf gh = {0};
    for (int i = 0; i < 3; i++)
      if (p->gh[i]) gh += GET(p->gh[i] + at);
    if (p->kind == LSTM) {
      vf i = GET(KEPT(0)), f = GET(KEPT(1)), g = GET(KEPT(2)), o = GET(KEPT(3)), t = tanh_of(GET(p->c + at));
      vf gc = gh * o * (1.0f - t * t);
      if (p->gc) gc += GET(p->gc + at);
      PUT(GATE(p->gx, 0), gc * g * i * (1.0f - i));
      PUT(GATE(p->gx, 1), gc * GET(p->before + at) * f * (1.0f - f));
      PUT(GATE(p->gx, 2), gc * i * (1.0f - g * g));
      PUT(GATE(p->gx, 3), gh * t * o * (1.0f - o));
      PUT(p->g_before + at, gc * f);
    } else if (p->kind == GRU) {
      vf r = GET(KEPT(0)), z = GET(KEPT(1)), new = GET(KEPT(2));
      vf g_new = gh * (1.0f - z) * (1.0f - new * new), gr = g_new * GET(KEPT(3)) * r * (1.0f - r);
      vf gz = gh * (GET(p->before + at) - new) * z * (1.0f - z);
      PUT(GATE(p->gx, 0), gr), PUT(GATE(p->gx, 1), gz), PUT(GATE(p->gx, 2), g_new);
      PUT(GATE(p->g_products, 0), gr), PUT(GATE(p->g_products, 1), gz), PUT(GATE(p->g_products, 2), g_new * r);
      PUT(p->g_before + at, gh * z);
    } else {
      vf h = GET(KEPT(0));
      PUT(GATE(p->gx, 0), p->kind == TANH ? gh * (1.0f - h * h) : select_(h > 0, gh, (vf){0}));
    }
  }
  return DONE;
}
