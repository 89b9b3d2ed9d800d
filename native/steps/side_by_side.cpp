#include "steps/side_by_side.h"

#include <algorithm>

#include "steps/kernel_step.h"

namespace drystone {

namespace {

constexpr int64_t second_level = 512 << 10;  // bytes of packed weights, and of strips, that it holds beside the others
// Larger results are in no cache when they are read.
constexpr int64_t least_streamed = 16 << 20;

int64_t product(const Dims& sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

}  // namespace

SideBySide::SideBySide(const Dims& x, const Dims& weights, const Dims& output, bool transposed, bool has_bias, int threads)
    : kernel_(require_kernels().side_by_side), has_bias_(has_bias) {
  const size_t rank = x.size();
  if (rank < 3 || rank > 5 || weights.size() != rank || output.size() != rank || x[0] != output[0] || weights[transposed ? 0 : 1] != x[1] ||
      weights[transposed ? 1 : 0] != output[1])
    throw std::invalid_argument("x, the weights and the output of a convolution do not fit together");
  if (weights[rank - 1] != 1 && weights[rank - 1] != 2 && weights[rank - 1] != 4)
    throw std::invalid_argument("windows side by side are 1, 2 or 4 wide");
  const Dims &narrow = transposed ? x : output, &wide = transposed ? output : x;
  for (size_t axis = 2; axis < rank; axis++)
    if (wide[axis] / weights[axis] != narrow[axis] || (transposed && wide[axis] % weights[axis]))
      throw std::invalid_argument("windows side by side do not fit the output");
  const auto axis = [&](const Dims& sizes, size_t from_last) { return from_last + 2 < rank ? sizes[rank - 1 - from_last] : 1; };
  args_.transposed = transposed;
  args_.batch = x[0];
  args_.in_channels = x[1];
  args_.out_channels = output[1];
  args_.depth = axis(narrow, 2);
  args_.height = axis(narrow, 1);
  args_.width = axis(narrow, 0);
  args_.wide_depth = axis(wide, 2);
  args_.wide_height = axis(wide, 1);
  args_.wide_width = axis(wide, 0);
  args_.window_depth = axis(weights, 2);
  args_.window_height = axis(weights, 1);
  args_.window_width = axis(weights, 0);
  args_.threads = threads;

  const SideBySideTile tile = side_by_side_tile(vector_lanes());
  const int64_t window = product(weights) / weights[0] / weights[1];
  const int64_t rows = output[1] * (transposed ? window : 1), summands = x[1] * (transposed ? 1 : window);
  const int64_t strip = summands * tile.positions;
  args_.packed_floats = (rows + tile.rows - 1) / tile.rows * tile.rows * summands;
  args_.block_strips =
      args_.packed_floats * 4 <= second_level ? 1 : std::clamp<int64_t>(second_level / (strip * 4), 1, side_by_side_strips);
  args_.strip_floats = args_.block_strips * strip;
  args_.streams = product(output) * 4 >= least_streamed;
  implementation = kernel_name("side_by_side");
  scratchpad_bytes = (args_.packed_floats + threads * args_.strip_floats) * 4 + 63;
}

void SideBySide::run(const Run& run, StepState*) const {
  SideBySideArgs args = args_;
  void* const* slot = run.slots;
  args.x = static_cast<const float*>(*slot++);
  args.weights = static_cast<const float*>(*slot++);
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = static_cast<float*>(*slot);
  args.scratch = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) / 64 * 64);
  args.threads = std::min(run.threads, args_.threads);
  kernel_(args);
}

}  // namespace drystone
