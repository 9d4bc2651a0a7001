/* Formulas: instructions on registers of many numbers, as ops/instructions.py makes them. */

typedef struct {
  const int64_t *code;  /* of each instruction: operation, register of the result, registers a, b, c */
  const float *numbers; /* of each instruction: k0 .. k3 */
  int64_t count, registers, uses[4], results[2];
} formula;

enum operation {
  CONSTANT, AFFINE, PRODUCT, SUM, FUSED, QUOTIENT, RECIPROCAL, LOG, EXP, ROOT, MAGNITUDE, LESS, LESS_EQUAL, SELECT,
  BELOW, ABOVE, OPERATIONS
};

/* Numbers of a register, which an instruction computes at a time. Registers lie a line further apart: at a distance of
 * 4096 bytes processors take a load for one of what has just been stored. */
enum { SPAN = 256, APART = SPAN + 16 };

/* ln(x), NaN for x < 0; where x is below the smallest normal number, that of 0. */
INLINE vf log_of(vf x) {
  vf least = select_(x < 0.0f, same(NAN), same(-INFINITY));
  return select_(x < 0x1p-126f, least, log_normal(x));
}

INLINE vf one_where(vi mask) { return (vf)((vi)same(1.0f) & mask); }

#define EACH(value)                                                                                                    \
  for (size j = 0; j < lanes; j += LANES) {                                                                            \
    vf x = value;                                                                                                      \
    store(to + j, within(x, low, high));                                                                               \
  }                                                                                                                    \
  break;
#define A load(a + j)
#define B load(b + j)
#define C load(c + j)

/* The first `count` numbers of all registers; in whole vectors. */
static void run(const formula *f, float *registers, size count) {
  size lanes = (count + LANES - 1) / LANES * LANES;
  const int64_t *i = f->code;
  const float *k = f->numbers;
  for (size n = 0; n < f->count; n++, i += 5, k += 4) {
    float *to = registers + i[1] * APART;
    const float *a = registers + i[2] * APART, *b = registers + i[3] * APART, *c = registers + i[4] * APART;
    vf k0 = same(k[0]), k1 = same(k[1]), low = same(k[2]), high = same(k[3]);
    switch (i[0]) {
      case CONSTANT: EACH(k0)
      case AFFINE: EACH(k0 * A + k1)
      case PRODUCT: EACH(k0 * A * B + k1)
      case SUM: EACH(k0 * A + k1 * B)
      case FUSED: EACH(k0 * A * B + k1 * C)
      case QUOTIENT: EACH(A / B)
      case RECIPROCAL: EACH(k0 / A)
      case LOG: EACH(log_of(A))
      case EXP: EACH(exp_of(k0 * A + k1))
      case ROOT: EACH(root(A))
      case MAGNITUDE: EACH((vf)((vi)A & 0x7FFFFFFF))
      case LESS: EACH(one_where(A < B))
      case LESS_EQUAL: EACH(one_where(A <= B))
      case SELECT: EACH(select_(A != 0.0f, B, C))
      case BELOW: EACH(select_(A < k0, B, C))
      default: EACH(select_(A > k0, B, C))
    }
  }
}

#undef EACH
#undef A
#undef B
#undef C
