#include "steps/topk.h"

#include <algorithm>
#include <cmath>

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

}  // namespace drystone
