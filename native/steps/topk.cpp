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

}  // namespace

int64_t set_rows(TopkArgs& args, int64_t rank, const int64_t* shape, const int64_t* strides, const int64_t* result_strides, int64_t dim) {
  args.count = shape[dim];
  args.stride = strides[dim];
  args.result_stride = result_strides[dim];
  int64_t rows = 1;
  for (int64_t axis = 0; axis < rank; axis++) {
    if (axis == dim || shape[axis] == 1) continue;
    if (args.rows.axes == walk_max_axes) return -1;
    const int at = args.rows.axes++;
    args.rows.sizes[at] = shape[axis];
    args.rows.strides[0][at] = strides[axis];
    args.rows.strides[1][at] = result_strides[axis];
    rows *= shape[axis];
  }
  return rows;
}

void plan_topk(TopkArgs& args, int64_t rows, int threads) {
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
  args.threads = static_cast<int>(std::clamp<int64_t>(std::min(rows * nanoseconds(args) / worth_a_thread, parts), 1, threads));
  const int64_t item = element == 8 ? 16 : 8, gathered = args.stride == 1 ? 0 : args.gang * args.count;
  args.scratch_bytes =
      round_up(2 * args.candidates * item + (round_up(args.representatives, vector_bytes) + gathered) * element, vector_bytes);
}

namespace {

class TopkStep final : public Step {
 public:
  TopkStep(const TensorDesc& input, const TensorDesc& values, const TensorDesc& places, int64_t dim, bool largest, bool sorted)
      : kernel_(require_kernels().topk) {
    implementation = kernel_name("topk");
    for (const TensorDesc* desc : {&input, &values, &places}) check_dense(*desc);
    require(dim >= 0 && dim < input.rank(), "topk along an axis that there is not");
    require(values.dtype == input.dtype && places.dtype == DType::s64, "topk into other dtypes");
    Dims expected = input.shape;
    expected[dim] = values.rank() == input.rank() ? values.shape[dim] : 0;
    require(values.shape == expected && places.shape == expected, "the results of topk have other shapes");
    require(expected[dim] >= 1 && expected[dim] <= input.shape[dim] && input.shape[dim] <= UINT32_MAX, "topk of more than there are");
    args_.dtype = input.dtype == DType::boolean ? DType::u8 : input.dtype;
    args_.largest = largest;
    args_.sorted = sorted;
    args_.k = expected[dim];
    const int64_t rows = set_rows(args_, input.rank(), input.shape.data(), input.strides.data(), values.strides.data(), dim);
    require(rows >= 0, "topk takes at most 7 axes");
    empty_ = rows == 0;
    if (!empty_) plan_topk(args_, rows, std::max(omp_get_max_threads(), 1));
    scratchpad_bytes = args_.threads * args_.scratch_bytes + 63;
  }

  void run(const Run& run, StepState*) const override {
    if (empty_) return;
    TopkArgs args = args_;
    args.input = run.slots[0];
    args.values = run.slots[1];
    args.indices = static_cast<int64_t*>(run.slots[2]);
    args.threads = std::min(args.threads, run.threads);
    args.scratch = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) & ~uintptr_t{63});
    kernel_(args);
  }

 private:
  void (*kernel_)(const TopkArgs&);
  TopkArgs args_{};
  bool empty_;
};

}  // namespace

std::shared_ptr<Step> make_topk(const TensorDesc& input, const TensorDesc& values, const TensorDesc& places, int64_t dim, bool largest,
                                bool sorted) {
  return std::make_shared<TopkStep>(input, values, places, dim, largest, sorted);
}

}  // namespace drystone
