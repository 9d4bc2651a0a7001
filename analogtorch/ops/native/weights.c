/* Weights of a training step by themselves: ops/noisy_weight.py. */
#include "vec.h"
#include "noise.h"
#include "weights.h"

/* out: the weights w with their noise, of which there is some; each: outputs of a group. */
void at_noisy_weight(float *out, const float *w, const float *scale, const weight_noise *noise, size outputs, size each,
                     const int64_t *bounds, size blocks) {
#pragma omp parallel num_threads(threads_for(8.0 * outputs * bounds[blocks]))
  noisy_weights(noise, out, w, scale, outputs, each, bounds, blocks);
}
