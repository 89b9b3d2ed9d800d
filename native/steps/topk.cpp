#include "steps/topk.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

constexpr int64_t short_row = 4096;    // its keys stay in L1
constexpr int64_t blocks_for_one = 8;  // for each element that is wanted: few of the wanted then share a block
constexpr int64_t least_blocks = 64, longest_k_by_blocks = 512;
constexpr int64_t vector_bytes = 64;
constexpr int64_t most_gathered = 16, gathered_bytes = 1 << 23;
constexpr int64_t worth_a_thread = 30000;  // nanoseconds: waking a thread that sleeps takes about half as long

int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

void bound_by_sample(TopkArgs& args) {
  const int64_t samples = args.count < (1 << 18) ? 1024 : 4096;
  const double share = static_cast<double>(args.k) / static_cast<double>(args.count), size = static_cast<double>(samples);
  // Four standard deviations above the expected rank.
  args.rank = static_cast<int64_t>(size * share + 4 * std::sqrt(size * share * (1 - share))) + 2;
  args.slack = args.rank / 32;
  args.bound = args.rank < samples ? TopkBound::sample : TopkBound::none;
  args.representatives = args.bound == TopkBound::none ? 0 : samples;
}

// Roughly what a row takes on one thread.
int64_t nanoseconds(const TopkArgs& args) {
  constexpr int64_t for_one_candidate = 5, bytes_in_one = 64;
  const int64_t likely = args.bound == TopkBound::none     ? args.count
                         : args.bound == TopkBound::sample ? args.count * args.rank / args.representatives
                                                           : args.k + args.slack;
  return 300 + args.count * size_of(args.dtype) / bytes_in_one + likely * for_one_candidate;
}

// What follows from dtype, count, k, stride and the number of rows: from `bound` on.
void plan(TopkArgs& args, int64_t rows, int threads) {
  const int64_t element = size_of(args.dtype), vector = vector_bytes / element;
  args.block = args.count / std::max(least_blocks, blocks_for_one * args.k) / vector * vector;
  args.rank = args.k;
  args.slack = args.k / 8 + 2;
  const bool nearly_all = args.k > args.count * 7 / 8;
  int64_t most = args.count;
  if (args.k <= longest_k_by_blocks && args.block > 0) {
    args.bound = TopkBound::blocks;
    args.representatives = (args.count + args.block - 1) / args.block;
    most = std::min(most, (args.k + args.slack) * args.block + args.k + vector);
  } else if (args.count <= short_row && !(args.sorted && nearly_all)) {
    args.bound = TopkBound::exact;
    args.representatives = args.count;
    if (!args.sorted) args.slack = 0;
  } else if (nearly_all) {
    args.bound = TopkBound::none;
  } else {
    bound_by_sample(args);
  }
  // More are found than wanted otherwise, and sorting tells which.
  args.sorted |= args.bound != TopkBound::exact;
  args.candidates = round_up(most + topk_spare_items, vector_bytes);
  args.gang = args.stride == 1 ? 1 : std::clamp<int64_t>(gathered_bytes / (args.count * element), 1, most_gathered);

  const int64_t parts = rows < threads && args.bound == TopkBound::blocks ? args.representatives : rows;
  const double worth = static_cast<double>(rows) * nanoseconds(args) / worth_a_thread;  // of expanded rows, beyond 64 bits
  args.threads = static_cast<int>(std::clamp<double>(std::min(worth, static_cast<double>(parts)), 1, threads));
  const int64_t item = element == 8 ? 16 : 8, gathered = args.stride == 1 ? 0 : args.gang * args.count;
  args.scratch_bytes =
      round_up(2 * args.candidates * item + (round_up(args.representatives, vector_bytes) + gathered) * element, vector_bytes);
}

}  // namespace

std::optional<TopkArgs> topk_args(const TopkCall& call, int threads) {
  TopkArgs args{};
  args.dtype = call.dtype == DType::boolean ? DType::u8 : call.dtype;
  args.largest = call.largest;
  args.sorted = call.sorted;
  args.count = call.shape[call.dim];
  args.k = call.k;
  args.stride = call.strides[call.dim];
  args.result_stride = call.result_strides[call.dim];
  if (args.k < 1 || args.k > args.count || args.count > UINT32_MAX) return {};
  int64_t rows = 1;
  for (size_t axis = 0; axis < call.shape.size(); axis++) {
    if (static_cast<int64_t>(axis) == call.dim || call.shape[axis] == 1) continue;
    if (args.rows.axes == walk_max_axes) return {};
    const int at = args.rows.axes++;
    args.rows.sizes[at] = call.shape[axis];
    args.rows.strides[0][at] = call.strides[axis];
    args.rows.strides[1][at] = call.result_strides[axis];
    rows *= call.shape[axis];
  }
  plan(args, rows, threads);
  return args;
}

void run_topk(TopkArgs args, const void* input, void* values, void* places, void* scratch) {
  args.input = input;
  args.values = values;
  args.indices = static_cast<int64_t*>(places);
  args.scratch = static_cast<char*>(scratch);
  kernels()->topk(args);
}

namespace {

class TopkStep final : public Step {
 public:
  TopkStep(const TensorDesc& input, const TensorDesc& values, const TensorDesc& places, int64_t dim, bool largest, bool sorted) {
    require_kernels();
    implementation = kernel_name("topk");
    for (const TensorDesc* desc : {&input, &values, &places}) check_dense(*desc);
    require(dim >= 0 && dim < input.rank(), "topk along an axis that there is not");
    require(values.dtype == input.dtype && places.dtype == DType::s64, "topk into other dtypes");
    Dims expected = input.shape;
    expected[dim] = values.rank() == input.rank() ? values.shape[dim] : 0;
    require(values.shape == expected && places.shape == expected, "the results of topk have other shapes");
    const TopkCall call{input.dtype, input.shape, input.strides, values.strides, dim, expected[dim], largest, sorted};
    const auto args = topk_args(call, std::max(omp_get_max_threads(), 1));
    require(args.has_value(), "topk gives between one and all entries of a row, of at most 7 axes");
    args_ = *args;
    empty_ = input.numel() == 0;
    scratchpad_bytes = args_.threads * args_.scratch_bytes + 63;
  }

  void run(const Run& run, StepState*) const override {
    if (empty_) return;
    TopkArgs args = args_;
    args.threads = std::min(args.threads, run.threads);
    auto* scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) & ~uintptr_t{63});
    run_topk(args, run.slots[0], run.slots[1], run.slots[2], scratch);
  }

 private:
  TopkArgs args_{};
  bool empty_;
};

}  // namespace

std::shared_ptr<Step> make_topk(const TensorDesc& input, const TensorDesc& values, const TensorDesc& places, int64_t dim, bool largest,
                                bool sorted) {
  return std::make_shared<TopkStep>(input, values, places, dim, largest, sorted);
}

}  // namespace drystone
