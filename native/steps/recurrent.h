// The hidden part of recurrent layers: its step, and how its weights are packed.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/recurrent.h"

namespace drystone {

// (gates * units, k) weights in the strips that the kernel reads (kernels/recurrent.h). One gate: a projection's, or a plain RNN's.
class RecurrentWeights {
 public:
  // dtype: f32 or bf16. Throws std::invalid_argument for anything else, and for empty weights.
  RecurrentWeights(DType dtype, int gates, int64_t units, int64_t k);
  int64_t packed_bytes() const;
  std::string packed_key() const;
  // source: dense, of this dtype; packed: packed_bytes() of memory.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  DType dtype_;
  int gates_;
  int64_t units_, k_;
};

// lstm, gru, rnn_tanh or rnn_relu; throws std::invalid_argument for any other name.
RecurrentKind recurrent_kind(const std::string& name);
GemmArithmetic recurrent_arithmetic(DType weights, bool widened);

// How many threads, and into how many parts the batch is cut for teams of them, for a layer of which the sizes are known. Gives the bytes
// of scratch memory that this takes.
int64_t plan_recurrent(RecurrentArgs& args, int64_t threads);

// kind: see recurrent_kind. With T time steps, batch N, D directions (the second one backwards), G gates of H units and a
// state of R (H, where nothing is projected):
// gates: f32 (T, N, D G H), or (N, T, D G H) if batch_first, with b_ih + b_hh in it (a GRU's new gate: b_ih alone); output: (T, N, D R) or
// (N, T, D R). state, final_state: (D, N, R). cell, final_cell (LSTM alone): (D, N, H). All plain and contiguous on the last axis; state
// and cell, dense, may be absent, for zeros. All but the gates are f32 or bf16.
struct RecurrentOperands {
  TensorDesc gates;
  std::optional<TensorDesc> state, cell;
  TensorDesc output, final_state;
  std::optional<TensorDesc> final_cell;
};

// weights: f32 or bf16, the dtype of W_hh and of the projection; states are rounded to it where they are multiplied.
// Slots: gates; for each direction W_hh packed, the bias (f32, (H)) of a GRU's new gate if has_bias, the projection packed if projects;
// state, cell where there are any; output, final_state, final_cell. Throws std::invalid_argument where these do not fit together.
std::shared_ptr<Step> make_recurrent(const std::string& kind, DType weights, int64_t hidden, int directions, bool batch_first,
                                     bool has_bias, bool projects, const RecurrentOperands& operands, bool widened);

}  // namespace drystone
