// What the gates of a recurrent layer do to their sums, a vector of units at a time.
#pragma once

#include "kernels/recurrent.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

// The gates' functions on a vector of units: from the sums of h W_hh and what the inputs give, a vector for each gate, to
// the new h. `cell` is an LSTM's cell and a GRU's own h; both are float32 from step to step.
inline Floats gate_sum(const float* sums, const float* const* inputs, int gate) {
  return load<kFloats>(sums + gate * kFloats) + load<kFloats>(inputs[gate]);
}

inline void lstm(const float* sums, const float* const* inputs, float* cell, float* h) {
  const Floats added = sigmoid_tanh(gate_sum(sums, inputs, 0), gate_sum(sums, inputs, 2));
  const Floats c = fma(sigmoid(gate_sum(sums, inputs, 1)), load<kFloats>(cell), added);
  store_raw(cell, c);
  store_raw(h, sigmoid_tanh(gate_sum(sums, inputs, 3), c));
}

inline void gru(const float* sums, const float* const* inputs, float* cell, float* h) {
  const Floats reset = sigmoid(gate_sum(sums, inputs, 0)), update = sigmoid(gate_sum(sums, inputs, 1));
  const Floats fresh = tanh(fma(reset, load<kFloats>(sums + 2 * kFloats), load<kFloats>(inputs[2])));
  const Floats next = fma(update, load<kFloats>(cell) - fresh, fresh);
  store_raw(cell, next);
  store_raw(h, next);
}

inline void rnn_tanh(const float* sums, const float* const* inputs, float*, float* h) { store_raw(h, tanh(gate_sum(sums, inputs, 0))); }

inline void rnn_relu(const float* sums, const float* const* inputs, float*, float* h) {
  store_raw(h, most_or(all(0.0f), gate_sum(sums, inputs, 0)));
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
