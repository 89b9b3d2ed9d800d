#include "steps/recurrent_layers.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "steps/elements.h"
#include "steps/kernel_step.h"

namespace drystone {

namespace {

constexpr int64_t line = 64;

TensorDesc matrix(DType dtype, int64_t rows, int64_t columns) { return TensorDesc::dense(dtype, Format::plain, {rows, columns}); }

// b_ih + b_hh, but of a GRU's new gate, whose b_hh is scaled inside, b_ih alone.
void add_biases(RecurrentKind kind, const float* inputs, const float* hidden, int64_t units, float* sums) {
  const int gates = recurrent_gates(kind), added = kind == RecurrentKind::gru ? 2 : gates;
  for (int64_t i = 0; i < gates * units; i++) sums[i] = inputs[i] + (i < added * units ? hidden[i] : 0.0f);
}

const std::byte* advance(const void* from, int64_t elements, DType dtype) {
  return from ? static_cast<const std::byte*>(from) + elements * size_of(dtype) : nullptr;
}

std::byte* advance(void* from, int64_t elements, DType dtype) {
  return from ? static_cast<std::byte*>(from) + elements * size_of(dtype) : nullptr;
}

// Where each step's rows begin, and the end of all.
std::vector<int64_t> first_rows(const RecurrentCall& call) {
  std::vector<int64_t> first{0};
  require(static_cast<int64_t>(call.batch_sizes.size()) == call.steps && call.batch_sizes.front() == call.batch,
          "the batch sizes of a packed sequence are one a time step, from the batch on");
  int64_t before = call.batch;
  for (int64_t size : call.batch_sizes) {
    require(size > 0 && size <= before, "batch sizes of a packed sequence are positive and do not rise");
    first.push_back(first.back() + size);
    before = size;
  }
  return first;
}

}  // namespace

// Memory laid out in pieces on cache lines of their own; from null it is only counted.
class RecurrentLayers::Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}
  std::byte* take(int64_t bytes) {
    std::byte* piece = base_ ? base_ + used_ : nullptr;
    used_ += recurrent_round_up(bytes, line);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

RecurrentLayers::RecurrentLayers(const std::string& kind, DType weights, DType ends, const RecurrentSizes& sizes,
                                 const std::vector<uintptr_t>& parameters)
    : kernel_(require_kernels().recurrent), weights_(weights), ends_(ends), sizes_(sizes) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max() / 16;
  args_.kind = recurrent_kind(kind);
  args_.hidden = sizes.hidden;
  args_.state = sizes.state;
  args_.directions = sizes.directions;
  args_.projects = sizes.state != sizes.hidden;
  args_.arithmetic = recurrent_arithmetic(weights, false);
  args_.initial_dtype = args_.initial_cell_dtype = args_.final_dtype = args_.final_cell_dtype = ends;
  require_float(ends, "the dtype of states and results");
  require(sizes.directions == 1 || sizes.directions == 2, "a recurrent layer has one direction or two");
  require(sizes.layers > 0 && std::min({sizes.inputs, sizes.hidden, sizes.state}) > 0, "a recurrent layer that is empty");
  require(std::max({sizes.inputs, sizes.hidden, sizes.state}) <= most, "a recurrent layer that is too large");
  require(!args_.projects || args_.kind == RecurrentKind::lstm, "a projection is an LSTM's");
  const size_t each = 2 + 2 * sizes.has_bias + args_.projects;
  require(parameters.size() == each * sizes.layers * sizes.directions, "another number of parameters than the layers have");
  columns_ = sizes.directions * recurrent_gates(args_.kind) * sizes.hidden;
  implementation_ = kernel_name(kind) + (args_.arithmetic == GemmArithmetic::bf16_dot ? "_bf16" : "");

  const auto lay_out = [&](Pieces& memory) {
    const uintptr_t* next = parameters.data();
    layers_.clear();
    for (int i = 0; i < sizes.layers; i++) layers_.push_back(pack(i, next, memory));
  };
  Pieces counted(nullptr);
  lay_out(counted);
  packed_ = Memory(counted.used());
  Pieces filled(packed_.data());
  lay_out(filled);
}

RecurrentLayers::Layer RecurrentLayers::pack(int index, const uintptr_t*& parameters, Pieces& memory) const {
  const int gates = recurrent_gates(args_.kind);
  Layer layer{};
  layer.inputs = index == 0 ? sizes_.inputs : sizes_.directions * sizes_.state;
  const Gemm gemm(matrix(weights_, 1, layer.inputs), columns_, sizes_.has_bias, matrix(DType::f32, 1, columns_), {}, false);
  const RecurrentWeights hidden(weights_, gates, sizes_.hidden, sizes_.state), projection(weights_, 1, sizes_.state, sizes_.hidden);
  std::byte* inputs = memory.take(gemm.packed_bytes());
  float* bias = sizes_.has_bias ? reinterpret_cast<float*>(memory.take(columns_ * 4)) : nullptr;
  layer.weights = inputs;
  layer.bias = bias;

  const int64_t rows = gates * sizes_.hidden, bytes = rows * layer.inputs * size_of(weights_);
  std::vector<std::byte> joined(inputs ? sizes_.directions * bytes : 0);
  for (int d = 0; d < sizes_.directions; d++) {
    const void* given[5] = {};
    for (int i = 0; i < 2 + 2 * sizes_.has_bias + args_.projects; i++) given[i] = reinterpret_cast<const void*>(*parameters++);
    const auto *input_bias = static_cast<const float*>(given[2]), *hidden_bias = static_cast<const float*>(given[3]);
    const bool inside = sizes_.has_bias && args_.kind == RecurrentKind::gru;
    std::byte* packed = memory.take(hidden.packed_bytes());
    std::byte* inner = inside ? memory.take(sizes_.hidden * 4) : nullptr;
    std::byte* projected = args_.projects ? memory.take(projection.packed_bytes()) : nullptr;
    layer.direction[d] = {packed, reinterpret_cast<const float*>(inner), projected};
    if (!inputs) continue;
    std::memcpy(joined.data() + d * bytes, given[0], bytes);
    hidden.pack(weights_, given[1], packed);
    if (bias) add_biases(args_.kind, input_bias, hidden_bias, sizes_.hidden, bias + d * rows);
    if (inner) std::memcpy(inner, hidden_bias + 2 * sizes_.hidden, sizes_.hidden * 4);
    if (projected) projection.pack(weights_, given[2 + 2 * sizes_.has_bias], projected);
  }
  if (inputs) gemm.pack(weights_, joined.data(), inputs);
  return layer;
}

void RecurrentLayers::run(const RecurrentCall& call, int threads) const {
  require(call.steps > 0 && call.batch > 0, "a recurrent layer needs time steps and a batch");
  std::vector<int64_t> first_row;
  if (!call.batch_sizes.empty()) first_row = first_rows(call);
  const int64_t rows = first_row.empty() ? matrix(weights_, call.steps, call.batch).numel() : first_row.back();
  if (omp_get_max_threads() != threads) omp_set_num_threads(threads);

  RecurrentArgs planned = args_;
  planned.steps = call.steps;
  planned.batch = call.batch;
  int64_t most_scratch = plan_recurrent(planned, threads);
  const int64_t sequence = sizes_.directions * sizes_.state;
  std::vector<Gemm> gemms;  // of the first layer, and of the others
  for (int i = 0; i < std::min(sizes_.layers, 2); i++) {
    gemms.emplace_back(matrix(weights_, rows, layers_[i].inputs), columns_, sizes_.has_bias, matrix(DType::f32, rows, columns_),
                       std::vector<PostOp>{}, false);
    most_scratch = std::max(most_scratch, gemms.back().scratchpad_bytes);
  }

  Memory memory;
  const auto lay_out = [&](Pieces& pieces) {
    std::byte* gates = pieces.take(matrix(DType::f32, rows, columns_).bytes());
    std::byte* between = sizes_.layers > 1 ? pieces.take(matrix(weights_, rows, sequence).bytes()) : nullptr;
    return std::tuple(gates, between, pieces.take(most_scratch));
  };
  Pieces counted(nullptr);
  lay_out(counted);
  // Nobody waits here: in a forked child, a thread that is gone may have the lock for ever.
  if (const std::unique_lock guard(lock_, std::try_to_lock); guard && !scratch_.empty()) {
    memory = std::move(scratch_.back());
    scratch_.pop_back();
  }
  if (memory.bytes() < counted.used()) memory = Memory(counted.used());
  Pieces pieces(memory.data());
  const auto [gates, between, scratch] = lay_out(pieces);
  for (int i = 0; i < sizes_.layers; i++)
    run_layer(i, call, first_row.empty() ? nullptr : first_row.data(), gemms[i > 0], planned, threads, between,
              reinterpret_cast<float*>(gates), scratch);
  constexpr int64_t always_kept = 16 << 20;
  if (static_cast<int64_t>(memory.bytes()) > std::max<int64_t>(always_kept, 2 * counted.used())) return;  // a longer call's
  if (const std::unique_lock guard(lock_, std::try_to_lock); guard) scratch_.push_back(std::move(memory));
}

void RecurrentLayers::run_layer(int index, const RecurrentCall& call, const int64_t* first_row, const Gemm& gemm,
                                const RecurrentArgs& planned, int threads, std::byte* between, float* gates, std::byte* scratch) const {
  const Layer& layer = layers_[index];
  const bool last = index + 1 == sizes_.layers;
  std::vector<void*> slots{const_cast<void*>(index == 0 ? call.x : between), const_cast<std::byte*>(layer.weights)};
  if (layer.bias) slots.push_back(const_cast<float*>(layer.bias));
  slots.push_back(gates);
  gemm.run({slots.data(), scratch, threads}, nullptr);

  RecurrentArgs args = planned;
  const int64_t sequence = sizes_.directions * sizes_.state, states = index * sizes_.directions * call.batch;
  const int64_t step = call.batch_first ? 1 : call.batch, row = call.batch_first ? call.steps : 1;
  args.first_row = first_row;
  args.gates_step = step * columns_;
  args.gates_row = (first_row ? 1 : row) * columns_;
  args.output_step = step * sequence;
  args.output_row = (first_row ? 1 : row) * sequence;
  args.output_dtype = last ? ends_ : weights_;
  args.gates = gates;
  std::copy_n(layer.direction, sizes_.directions, args.direction);
  args.initial = advance(call.state, states * sizes_.state, ends_);
  args.initial_cell = advance(call.cell, states * sizes_.hidden, ends_);
  args.output = last ? call.output : between;
  args.final = advance(call.final_state, states * sizes_.state, ends_);
  args.final_cell = advance(call.final_cell, states * sizes_.hidden, ends_);
  args.scratch = scratch;
  kernel_(args);
}

}  // namespace drystone
