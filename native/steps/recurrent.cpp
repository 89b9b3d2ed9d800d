#include "steps/recurrent.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "steps/axes.h"
#include "steps/elements.h"
#include "steps/guard.h"
#include "steps/kernel_step.h"

namespace drystone {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RecurrentKind recurrent_kind(const std::string& name) {
  if (name == "lstm") return RecurrentKind::lstm;
  if (name == "gru") return RecurrentKind::gru;
  if (name == "rnn_tanh") return RecurrentKind::rnn_tanh;
  require(name == "rnn_relu", "a recurrent layer is lstm, gru, rnn_tanh or rnn_relu, not " + name);
  return RecurrentKind::rnn_relu;
}

GemmArithmetic recurrent_arithmetic(DType weights, bool widened) {
  if (weights == DType::f32) return GemmArithmetic::f32;
  return has(Feature::avx512_bf16) && !widened ? GemmArithmetic::bf16_dot : GemmArithmetic::bf16_widened;
}

// As few parts as keep the threads evenly busy, since each part reads all weights. A step of few products is done before a team has met.
int64_t plan_recurrent(RecurrentArgs& args, int64_t threads) {
  constexpr double few_products = 1 << 15;
  const int gates = recurrent_gates(args.kind);
  const double products = static_cast<double>(args.batch) * gates * static_cast<double>(args.hidden * args.state);
  const int64_t strips = ceil_div(args.hidden, vector_lanes() * recurrent_unit_vectors(gates));
  const int64_t blocks = ceil_div(args.batch, recurrent_rows(gates, static_cast<int>(vector_lanes())));
  const int64_t largest_team = products < few_products ? 1 : strips;
  if (products * static_cast<double>(args.steps) < few_products * 4) threads = 1;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t parts = 1; parts <= std::min(threads, blocks); parts++) {
    const int64_t items = args.directions * parts;
    const int64_t team = std::min(std::max<int64_t>(threads / items, 1), largest_team), turns = ceil_div(items * team, threads);
    const double tiles = static_cast<double>(turns * ceil_div(strips, team) * ceil_div(blocks, parts));
    if (tiles >= least * 0.8) continue;
    least = tiles;
    args.row_parts = parts;
    args.threads = static_cast<int>(std::min(threads, items * team));
  }
  args.part_bytes = recurrent_round_up(recurrent_memory(args, ceil_div(args.batch, args.row_parts)).bytes, 64);
  return args.directions * args.row_parts * args.part_bytes + 63;
}

namespace {

void check_weights(DType dtype, int64_t columns, int64_t k) {
  require_float(dtype, "the dtype of recurrent weights");
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  require(columns > 0 && k > 0 && columns <= most && k <= most,
          "recurrent weights are not empty, and have at most 2^31 - 1 rows and columns");
}

DType dtype_of(const TensorDesc& desc, const std::string& name, const Dims& shape, bool dense) {
  check_operand(desc, name);
  require(desc.format == Format::plain && desc.shape == shape, "the " + name + " (" + desc.str() + ") has another shape or format");
  require(dense ? desc.is_dense() : desc.strides.back() == 1 || shape.back() == 1, "the " + name + " (" + desc.str() + ") has gaps");
  return desc.dtype;
}

class RecurrentStep final : public Step {
 public:
  RecurrentStep(const std::string& kind, DType weights, int64_t hidden, int directions, bool batch_first, bool has_bias, bool projects,
                const RecurrentOperands& o, bool widened)
      : kernel_(require_kernels().recurrent), has_bias_(has_bias), has_state_(o.state), has_cell_(o.cell) {
    args_.kind = recurrent_kind(kind);
    const bool is_lstm = args_.kind == RecurrentKind::lstm, is_gru = args_.kind == RecurrentKind::gru;
    require(directions == 1 || directions == 2, "a recurrent layer has one direction or two");
    require(o.gates.rank() == 3 && o.output.rank() == 3 && o.final_state.rank() == 3, "gates, output and final state have three axes");
    require(o.gates.dtype == DType::f32, "the gates' inputs are f32");
    require(!has_bias || is_gru, "a bias inside is a GRU's");
    require(is_lstm || (!projects && !o.cell && !o.final_cell), "a projection and cells are an LSTM's");
    require(!is_lstm || o.final_cell, "an LSTM gives its last cell");
    check_weights(weights, hidden, o.final_state.shape[2]);
    const int time = batch_first ? 1 : 0, row = 1 - time, gates = recurrent_gates(args_.kind);
    args_.steps = o.gates.shape[time];
    args_.batch = o.gates.shape[row];
    args_.hidden = hidden;
    args_.state = o.final_state.shape[2];
    args_.directions = directions;
    args_.projects = projects;
    require(projects || args_.state == hidden, "a state of another size than the layer's needs a projection");
    require(args_.steps > 0 && args_.batch > 0, "a recurrent layer needs time steps and a batch");

    const auto sequence = [&](int64_t size) { return Dims{o.gates.shape[0], o.gates.shape[1], directions * size}; };
    const auto states = [&](int64_t size) { return Dims{directions, args_.batch, size}; };
    dtype_of(o.gates, "gates", sequence(gates * hidden), false);
    args_.output_dtype = dtype_of(o.output, "output", sequence(args_.state), false);
    args_.final_dtype = dtype_of(o.final_state, "final state", states(args_.state), true);
    if (o.state) args_.initial_dtype = dtype_of(*o.state, "state", states(args_.state), true);
    if (o.cell) args_.initial_cell_dtype = dtype_of(*o.cell, "cell", states(hidden), true);
    if (o.final_cell) args_.final_cell_dtype = dtype_of(*o.final_cell, "final cell", states(hidden), true);
    args_.gates_step = o.gates.strides[time];
    args_.gates_row = o.gates.strides[row];
    args_.output_step = o.output.strides[time];
    args_.output_row = o.output.strides[row];

    args_.arithmetic = recurrent_arithmetic(weights, widened);
    implementation = kernel_name(kind) + (args_.arithmetic == GemmArithmetic::bf16_dot ? "_bf16" : "");
    scratchpad_bytes = plan_recurrent(args_, std::max(omp_get_max_threads(), 1));
  }

  void run(const Run& run, StepState*) const override {
    RecurrentArgs args = args_;
    void* const* slot = run.slots;
    args.gates = static_cast<const float*>(*slot++);
    for (int d = 0; d < args.directions; d++) {
      args.direction[d].weights = *slot++;
      if (has_bias_) args.direction[d].bias = static_cast<const float*>(*slot++);
      if (args.projects) args.direction[d].projection = *slot++;
    }
    if (has_state_) args.initial = *slot++;
    if (has_cell_) args.initial_cell = *slot++;
    args.output = *slot++;
    args.final = *slot++;
    if (args.kind == RecurrentKind::lstm) args.final_cell = *slot++;
    const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
    args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
    args.threads = std::min(run.threads, args_.threads);
    kernel_(args);
  }

 private:
  void (*kernel_)(const RecurrentArgs&);
  RecurrentArgs args_{};
  bool has_bias_, has_state_, has_cell_;
};

}  // namespace

RecurrentWeights::RecurrentWeights(DType dtype, int gates, int64_t units, int64_t k) : dtype_(dtype), gates_(gates), units_(units), k_(k) {
  require(gates == 1 || gates == 3 || gates == 4, "recurrent weights have one, three or four gates");
  check_weights(dtype, units, k);
}

int64_t RecurrentWeights::packed_bytes() const {
  const int64_t step = dtype_ == DType::f32 ? 1 : 2, width = vector_lanes() * recurrent_unit_vectors(gates_);
  return ceil_div(units_, width) * width * gates_ * ceil_div(k_, step) * 4 + recurrent_line_bytes;
}

std::string RecurrentWeights::packed_key() const {
  return std::string("recurrent ") + name_of(dtype_) + ";" + std::to_string(vector_lanes()) + ";" + std::to_string(gates_) + "," +
         std::to_string(units_) + "," + std::to_string(k_);
}

void RecurrentWeights::pack(DType dtype, const void* source, void* packed) const {
  require(dtype == dtype_, "recurrent weights are packed from their own dtype");
  const int64_t step = dtype_ == DType::f32 ? 1 : 2, element = 4 / step, steps = ceil_div(k_, step);
  const int64_t width = vector_lanes() * recurrent_unit_vectors(gates_), strips = ceil_div(units_, width);
  const auto* from = static_cast<const std::byte*>(source);
  const int64_t is_finite = all_finite(source, dtype, gates_ * units_ * k_, 1);
  std::memcpy(static_cast<std::byte*>(packed) + packed_bytes() - recurrent_line_bytes, &is_finite, sizeof(is_finite));
#pragma omp parallel for schedule(static)
  for (int64_t strip = 0; strip < strips; strip++) {
    const int64_t first = strip * width, columns = std::min(width, units_ - first);
    std::byte* to = static_cast<std::byte*>(packed) + first * gates_ * steps * 4;
    for (int64_t k = 0; k < steps; k++) {
      const int64_t bytes = std::min(step, k_ - k * step) * element;
      for (int gate = 0; gate < gates_; gate++, to += width * 4) {
        if (bytes < 4 || columns < width) std::memset(to, 0, width * 4);
        for (int64_t c = 0; c < columns; c++)
          std::memcpy(to + c * 4, from + ((gate * units_ + first + c) * k_ + k * step) * element, bytes);
      }
    }
  }
}

std::shared_ptr<Step> make_recurrent(const std::string& kind, DType weights, int64_t hidden, int directions, bool batch_first,
                                     bool has_bias, bool projects, const RecurrentOperands& operands, bool widened) {
  return std::make_shared<RecurrentStep>(kind, weights, hidden, directions, batch_first, has_bias, projects, operands, widened);
}

}  // namespace drystone
