#include "steps/index.h"

#include <algorithm>

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

IndexArgs index_args(int64_t outer, int64_t run, std::span<const int64_t> grid) {
  IndexArgs args{};
  args.outer = outer;
  args.run = run;
  args.axes = std::max(1, static_cast<int>(grid.size()));
  args.sizes[0] = 1;  // of a grid of no axes
  std::copy(grid.begin(), grid.end(), args.sizes);
  return args;
}

void add_axis(IndexArgs& args, DType indices, std::span<const int64_t> strides, int64_t size, int64_t stride) {
  if (args.indexed == 0) args.outer_stride = size * stride;
  IndexedAxis& axis = args.indices[args.indexed++];
  axis.wide = indices == DType::s64;
  std::copy(strides.begin(), strides.end(), axis.strides);
  axis.size = size;
  axis.stride = stride;
}

std::string out_of_bounds(int64_t index, int64_t dim, int64_t size) {
  return "index " + std::to_string(index) + " is out of bounds for dimension " + std::to_string(dim) + " with size " + std::to_string(size);
}

std::optional<BadIndex> run_index(IndexArgs& args, const void* input, void* output, int threads) {
  BadIndex bad{};
  args.input = input;
  args.output = output;
  args.threads = threads;
  args.bad_axis = &bad.axis;
  args.bad_index = &bad.index;
  return kernels()->index(args) ? std::nullopt : std::optional(bad);
}

namespace {

class IndexStep final : public Step {
 public:
  IndexStep(const TensorDesc& input, const std::vector<TensorDesc>& indices, const TensorDesc& output, int64_t dim, bool wraps,
            const std::string& name)
      : IndexStep(input, output, dim, name) {
    const int64_t count = static_cast<int64_t>(indices.size()), grid_axes = output.rank() - (input.rank() - count);
    require(count > 0 && count <= index_max_axes && dim >= 0 && dim + count <= input.rank(), "index has no such axes");
    require(grid_axes >= 0 && grid_axes <= index_max_axes, "index takes grids of at most 8 axes");
    const Dims grid(output.shape.begin() + dim, output.shape.begin() + dim + grid_axes);
    Dims expected(input.shape.begin(), input.shape.begin() + dim);
    expected.insert(expected.end(), grid.begin(), grid.end());
    expected.insert(expected.end(), input.shape.begin() + dim + count, input.shape.end());
    require(expected == output.shape, "the output of index has another shape");
    int64_t outer = 1, run = size_of(input.dtype);
    for (int64_t i = 0; i < dim; i++) outer *= input.shape[i];
    for (int64_t i = dim + count; i < input.rank(); i++) run *= input.shape[i];
    args_ = index_args(outer, run, grid);
    for (int64_t i = 0; i < count; i++) add(indices[i], grid, input, dim + i);
    args_.wraps = wraps;
  }

  IndexStep(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& output, int64_t dim)
      : IndexStep(input, output, dim, "gather") {
    require(indices.shape == output.shape && output.rank() == input.rank() && dim >= 0 && dim < input.rank(),
            "gather takes operands of one rank and indices of the output's shape");
    require(input.rank() <= index_max_axes, "gather takes at most 8 axes");
    args_ = index_args(1, size_of(input.dtype), output.shape);
    for (int64_t i = 0; i < input.rank(); i++) {
      if (i == dim) continue;
      require(output.shape[i] <= input.shape[i], "gather has more places than its input");
      args_.places[i] = input.strides[i] * size_of(input.dtype);
    }
    add(indices, output.shape, input, dim);
  }

  void run(const Run& run, StepState*) const override {
    if (bytes_ == 0) return;
    IndexArgs args = args_;
    for (int i = 0; i < args.indexed; i++) args.indices[i].indices = run.slots[1 + i];
    const auto bad = run_index(args, run.slots[0], run.slots[1 + args.indexed], threads_for(bytes_ / 4, run.threads));
    if (!bad) return;
    const std::string where = out_of_bounds(bad->index, dim_ + bad->axis, args.indices[bad->axis].size);
    if (name_ == "gather") throw std::runtime_error(where);
    throw std::out_of_range(name_ == "index" ? where : "index out of range in self: " + where);
  }

 private:
  IndexStep(const TensorDesc& input, const TensorDesc& output, int64_t dim, const std::string& name)
      : name_(name), dim_(dim), bytes_(output.numel() * size_of(input.dtype)) {
    require_kernels();
    implementation = kernel_name("index");
    check_dense(input);
    check_dense(output);
    require(input.dtype == output.dtype, "index does not convert");
  }

  void add(const TensorDesc& indices, const Dims& grid, const TensorDesc& input, int64_t dim) {
    check_dense(indices);
    require(is_index(indices.dtype), "indices are s64 or s32");
    add_axis(args_, indices.dtype, broadcast_strides(indices, grid), input.shape[dim], input.strides[dim] * size_of(input.dtype));
  }

  std::string name_;
  int64_t dim_, bytes_;
  IndexArgs args_{};
};

}  // namespace

std::shared_ptr<Step> make_index(const TensorDesc& input, const std::vector<TensorDesc>& indices, const TensorDesc& output, int64_t dim,
                                 bool wraps, const std::string& name) {
  return std::make_shared<IndexStep>(input, indices, output, dim, wraps, name);
}

std::shared_ptr<Step> make_gather(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& output, int64_t dim) {
  return std::make_shared<IndexStep>(input, indices, output, dim);
}

}  // namespace drystone
