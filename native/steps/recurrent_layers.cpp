#include "steps/recurrent_layers.h"

#include <omp.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "steps/elements.h"
#include "steps/kernel_step.h"

namespace drystone {

namespace {

constexpr int64_t line = 64;

TensorDesc matrix(DType dtype, int64_t rows, int64_t columns) { return TensorDesc::dense(dtype, Format::plain, {rows, columns}); }

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

// Memory laid out in pieces on cache lines of their own; from null it is only counted.
class Pieces {
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

}  // namespace

RecurrentLayers::RecurrentLayers(const std::string& kind, DType weights, DType ends, const RecurrentSizes& sizes,
                                 const std::vector<uintptr_t>& packed)
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
  columns_ = sizes.directions * recurrent_gates(args_.kind) * sizes.hidden;
  implementation_ = kernel_name(kind) + (args_.arithmetic == GemmArithmetic::bf16_dot ? "_bf16" : "");

  const bool inside = sizes.has_bias && args_.kind == RecurrentKind::gru;
  const size_t each = 1 + sizes.has_bias + sizes.directions * (1 + inside + args_.projects);
  require(packed.size() == each * sizes.layers, "another number of packed weights than the layers have");
  const uintptr_t* next = packed.data();
  const auto take = [&](bool there) { return there ? reinterpret_cast<const std::byte*>(*next++) : nullptr; };
  for (int i = 0; i < sizes.layers; i++) {
    Layer layer{};
    layer.inputs = i == 0 ? sizes.inputs : sizes.directions * sizes.state;
    layer.weights = take(true);
    layer.bias = reinterpret_cast<const float*>(take(sizes.has_bias));
    for (int d = 0; d < sizes.directions; d++) {
      const std::byte* hidden = take(true);
      const auto* inner = reinterpret_cast<const float*>(take(inside));
      layer.direction[d] = {hidden, inner, take(args_.projects)};
    }
    layers_.push_back(layer);
  }
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
