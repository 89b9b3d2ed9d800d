// An LSTM, GRU or RNN of any layers and directions on packed weights, for sequences of any length and batch.
//
// A program knows the shapes of its inputs; this plans a GEMM and a recurrent step for each layer at the call, which takes a microsecond.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "steps/gemm.h"
#include "steps/recurrent.h"

namespace drystone {

// I inputs, D directions (the second one backwards), H units with a state of R, which differs from H where it is projected.
struct RecurrentSizes {
  int64_t inputs, hidden, state;
  int layers, directions;
  bool has_bias;
};

// The tensors of a call, all dense. T time steps, batch N: x (T, N, I), output (T, N, D R), or with the batch first. Of packed sequences
// batch_sizes has how many rows each step has, T numbers that begin with N; x and output are (their sum, I or D R). States
// (layers D, N, R), an LSTM's cells (layers D, N, H); initial ones are null for zeros.
struct RecurrentCall {
  int64_t steps, batch;
  bool batch_first;
  std::vector<int64_t> batch_sizes;
  const void *x, *state, *cell;
  void *output, *final_state, *final_cell;
};

class RecurrentLayers {
 public:
  // kind: lstm, gru, rnn_tanh or rnn_relu. weights: f32 or bf16, in which x is given too; ends: that of states and results.
  // packed: layer by layer, as the steps of a program have them: W_ih of all directions packed as Gemm has it, the gates' bias (f32) of all
  // directions if has_bias; for each direction W_hh packed as RecurrentWeights has it, the bias (f32) of a GRU's new gate if has_bias, the
  // projection packed if there is one. They stay where they are. Throws std::invalid_argument where these do not fit.
  RecurrentLayers(const std::string& kind, DType weights, DType ends, const RecurrentSizes& sizes, const std::vector<uintptr_t>& packed);

  // Throws std::invalid_argument for sizes that are not positive, and batch sizes that rise. Calls may come from several threads.
  void run(const RecurrentCall& call, int threads) const;
  const std::string& implementation() const { return implementation_; }

 private:
  struct Layer {
    int64_t inputs;
    const std::byte* weights;  // W_ih of all directions
    const float* bias;
    RecurrentDirection direction[recurrent_max_directions];
  };
  void run_layer(int index, const RecurrentCall& call, const int64_t* first_row, const Gemm& gemm, const RecurrentArgs& planned,
                 int threads, std::byte* between, float* gates, std::byte* scratch) const;

  void (*kernel_)(const RecurrentArgs&);
  RecurrentArgs args_{};  // what is the same for all layers and calls
  DType weights_, ends_;
  RecurrentSizes sizes_;
  int64_t columns_;  // gates of all directions
  std::string implementation_;
  std::vector<Layer> layers_;
  mutable std::mutex lock_;
  mutable std::vector<Memory> scratch_;  // of calls that are over
};

}  // namespace drystone
