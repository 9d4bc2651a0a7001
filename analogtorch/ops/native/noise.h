/* The generator of ops/noise.py, LANES columns at a time. */

INLINE uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

INLINE uint64_t fold(uint64_t key, uint64_t word) {
  return mix64(mix64(key + word * 0x9E3779B97F4A7C15ull) + key);
}

/* column + 0, 1, 2, ... of the row that has this word. */
INLINE vu random_bits(uint64_t word, uint32_t column) {
  uint32_t a = (uint32_t)word, b = (uint32_t)(word >> 32);
  vu x = (lane_numbers() + column) * (b | 1u) + a;
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15) ^ b) * 0xD35A2D97u;
  return x ^ (x >> 15);
}

/* ln(x) for 2^-32 <= x <= 1, to 1 ulp: cephes' logf without its special cases. */
INLINE vf log_unit(vf x) {
  vi exponent = ((vi)x - 0x3F3504F3) >> 23;
  vf e = __builtin_convertvector(exponent, vf), m = (vf)((vi)x - (exponent << 23)) - 1.0f, z = m * m;
  vf y = 7.0376836292E-2f * m - 1.1514610310E-1f;
  y = y * m + 1.1676998740E-1f;
  y = y * m - 1.2420140846E-1f;
  y = y * m + 1.4249322787E-1f;
  y = y * m - 1.6668057665E-1f;
  y = y * m + 2.0000714765E-1f;
  y = y * m - 2.4999993993E-1f;
  y = y * m + 3.3333331174E-1f;
  y = y * m * z - 2.12194440e-4f * e - 0.5f * z;
  return m + y + 0.693359375f * e;
}

/* The inverse normal distribution, as ops/noise.py defines it. */
INLINE vf normal_of(vu bits) {
  vf twice_tail = (__builtin_convertvector((vi)(bits & 0x7FFFFFFFu), vf) + 0.5f) * 0x1p-31f;
  vf t = root(0.35f - log_unit(twice_tail)) * 0.48134261825033337f - 1.2847661332575033f;
  vf z = -0.0058131859330376f * t + 0.01220873053820021f;
  z = z * t - 0.0012035649516857097f;
  z = z * t - 0.007485803035211494f;
  z = z * t - 0.0070280356173169235f;
  z = z * t + 0.015962522114434146f;
  z = z * t - 0.008338730114421817f;
  z = z * t + 0.0033763807057692365f;
  z = z * t - 0.00020092541953523925f;
  z = z * t - 0.012258648700909227f;
  z = z * t + 0.0399969977611134f;
  z = z * t - 0.09560426252296807f;
  z = z * t + 3.151566082644621f;
  z = z * t + 3.2527800132026092f;
  return (vf)((vu)z ^ (bits & 0x80000000u));
}

INLINE vf normal(uint64_t word, uint32_t column) { return normal_of(random_bits(word, column)); }
