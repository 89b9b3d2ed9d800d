// What the gates of a recurrent layer do to their sums, a vector of units at a time.
#pragma once

#include "kernels/recurrent.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

// e^(-2 |x|) - 1, of which tanh |x| = -t / (t + 2): without cancellation near 0, and cheaper than the tanh of math.h by a polynomial. That
// one is nearer to 1 where it is nearly 1, which matters to 1 + tanh(x) alone.
inline float tanh_term(float x) {
  const float magnitude = absolute(x);
  const SplitExp e = split_exp(-2.0f * (magnitude > 10.0f ? 10.0f : magnitude));
  const float scale = power_of_two(e.n);
  return fma(scale, e.p, scale - 1.0f);
}

inline float cell_tanh(float x) {
  const float t = tanh_term(x);
  return copysign(t / (t + 2.0f), x);
}

// e^-x; infinite from x = -88.4 on, so that a closed gate is 0 where it would be a denormal number.
inline float exp_of_negative(float x) {
  const SplitExp e = split_exp(clamp(-x, -87.0f, 89.0f));
  const float scale = power_of_two(e.n);
  return fma(scale, e.p, scale);
}

inline float gate(float x) { return 1.0f / (1.0f + exp_of_negative(x)); }

// gate(x) tanh(y) with one division.
inline float gated_tanh(float x, float y) {
  const float t = tanh_term(y);
  return copysign(t / ((t + 2.0f) * (1.0f + exp_of_negative(x))), y);
}

// The gates' functions on a vector of units: from the sums of h W_hh and what the inputs give, `apart` elements between the gates, to
// the new h. `cell` is an LSTM's cell and a GRU's own h; both are float32 from step to step.
inline void lstm(const float* sums, const float* const* inputs, float* cell, float* h) {
#pragma omp simd
  for (int i = 0; i < kFloats; i++) {
    const float added = gated_tanh(sums[i] + inputs[0][i], sums[2 * kFloats + i] + inputs[2][i]);
    const float c = fma(gate(sums[kFloats + i] + inputs[1][i]), cell[i], added);
    cell[i] = c;
    h[i] = gated_tanh(sums[3 * kFloats + i] + inputs[3][i], c);
  }
}

inline void gru(const float* sums, const float* const* inputs, float* cell, float* h) {
#pragma omp simd
  for (int i = 0; i < kFloats; i++) {
    const float reset = gate(sums[i] + inputs[0][i]), update = gate(sums[kFloats + i] + inputs[1][i]);
    const float fresh = cell_tanh(fma(reset, sums[2 * kFloats + i], inputs[2][i]));
    cell[i] = h[i] = fma(update, cell[i] - fresh, fresh);
  }
}

inline void rnn_tanh(const float* sums, const float* const* inputs, float*, float* h) {
#pragma omp simd
  for (int i = 0; i < kFloats; i++) h[i] = cell_tanh(sums[i] + inputs[0][i]);
}

inline void rnn_relu(const float* sums, const float* const* inputs, float*, float* h) {
#pragma omp simd
  for (int i = 0; i < kFloats; i++) h[i] = maximum(sums[i] + inputs[0][i], 0.0f);
}

using Unit = void (*)(const float*, const float* const*, float*, float*);

inline Unit unit_of(RecurrentKind kind) {
  switch (kind) {
    case RecurrentKind::lstm: return lstm;
    case RecurrentKind::gru: return gru;
    case RecurrentKind::rnn_tanh: return rnn_tanh;
    default: return rnn_relu;
  }
}

}  // namespace drystone::DRYSTONE_ISA
