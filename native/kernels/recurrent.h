// What the kernel of recurrent layers reads: what the inputs give the gates at every time step, and packed hidden weights.
#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "kernels/gemm.h"

namespace drystone {

enum class RecurrentKind : uint8_t { lstm, gru, rnn_tanh, rnn_relu };

// Gates of a unit, in torch's order: i f g o; r z n; one.
constexpr int recurrent_gates(RecurrentKind kind) { return kind == RecurrentKind::lstm ? 4 : kind == RecurrentKind::gru ? 3 : 1; }

// Packed weights lie in strips of units: [strip][k][gate][units], bf16: [strip][pair of k][gate][units][2]. A strip has a vector of units
// for each of its gates; where there is one gate, as in a projection, two vectors. A line follows that begins with an int64_t: 1 where all
// are finite, so that a state of zeros gives sums of zeros.
constexpr int recurrent_unit_vectors(int gates) { return gates == 1 ? 2 : 1; }

// Rows of a register tile beside the vectors of a strip.
constexpr int recurrent_rows(int gates, int lanes) {
  const GemmTileSize tile = gemm_tile(GemmArithmetic::f32, lanes);
  return tile.rows * tile.vectors / (gates * recurrent_unit_vectors(gates));
}

constexpr int recurrent_max_directions = 2;  // the second one runs backwards

struct RecurrentDirection {
  const void* weights;     // (gates * hidden, state)
  const float* bias;       // (hidden), of the hidden part of a GRU's new gate; null where there is none
  const void* projection;  // (state, hidden), or null
};

struct RecurrentArgs {
  RecurrentKind kind;
  GemmArithmetic arithmetic;            // not of tiles
  int64_t steps, batch, hidden, state;  // state: the size of h, which is hidden where there is no projection
  int directions;
  bool projects;
  int64_t gates_step, gates_row;  // strides in elements, of time and batch; directions lie side by side
  int64_t output_step, output_row;
  DType output_dtype, initial_dtype, initial_cell_dtype, final_dtype, final_cell_dtype;

  const float* gates = nullptr;  // (steps, batch, directions * gates * hidden)
  // Of packed sequences, which lie step by step without what is past their ends: where each step's rows begin in gates and output, and
  // the end of all. A step has the batch's first rows, and no fewer than the next one. Only the strides between rows are read then.
  const int64_t* first_row = nullptr;
  RecurrentDirection direction[recurrent_max_directions] = {};
  const void *initial = nullptr, *initial_cell = nullptr;  // (directions, batch, state or hidden), null for zeros
  void* output = nullptr;                                  // (steps, batch, directions * state)
  void *final = nullptr, *final_cell = nullptr;            // as the initial ones; the cell is an LSTM's

  // Rows of the batch do not meet: each direction's are cut into parts, which teams of threads compute on their own.
  int64_t row_parts;
  int threads = 1;
  std::byte* scratch = nullptr;  // part_bytes for each part of each direction
  int64_t part_bytes;
};

// What a part of `rows` rows needs between steps, each on lines of its own.
struct RecurrentMemory {
  int64_t state, cell, inner, bytes;  // offsets, after the lines of a team: of two states, of cells, of what a projection reads
  int64_t state_bytes;                // of one of the two
};
constexpr int64_t recurrent_line_bytes = 64;
constexpr int64_t recurrent_round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
constexpr RecurrentMemory recurrent_memory(const RecurrentArgs& a, int64_t rows) {
  const int64_t element = gemm_x_bytes(a.arithmetic);
  RecurrentMemory m{};
  m.state = (1 + a.threads) * recurrent_line_bytes;
  m.state_bytes = rows * recurrent_round_up(a.state * element, 64);
  m.cell = m.state + 2 * m.state_bytes;
  m.inner = m.cell + rows * recurrent_round_up(a.hidden * 4, 64);
  m.bytes = m.inner + (a.projects ? rows * recurrent_round_up(a.hidden * element, 64) : 0);
  return m;
}

}  // namespace drystone
