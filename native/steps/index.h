// The arguments of the index kernel, which its steps and torch's operators fill in alike.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "core/dtype.h"
#include "kernels/index.h"

namespace drystone {

constexpr bool is_index(DType dtype) { return dtype == DType::s64 || dtype == DType::s32; }

// For a grid of indices of at most index_max_axes axes, applied `outer` times, to entries of `run` bytes.
IndexArgs index_args(int64_t outer, int64_t run, std::span<const int64_t> grid);

// Adds an indexed axis of so many entries, so many bytes apart. The axes lie together and come outermost first. strides: of its indices
// along the grid, in elements.
void add_axis(IndexArgs& args, DType indices, std::span<const int64_t> strides, int64_t size, int64_t stride);

// As torch says it.
std::string out_of_bounds(int64_t index, int64_t dim, int64_t size);

struct BadIndex {
  int axis;
  int64_t index;
};

// With the addresses of the indices in `args`. Returns an index that is out of range; the output is then undefined.
std::optional<BadIndex> run_index(IndexArgs& args, const void* input, void* output, int threads);

}  // namespace drystone
