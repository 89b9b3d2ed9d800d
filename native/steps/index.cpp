#include "kernels/index.h"

#include <algorithm>

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

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
    set_grid(grid);
    for (int64_t i = 0; i < dim; i++) args_.outer *= input.shape[i];
    for (int64_t i = dim + count; i < input.rank(); i++) args_.run *= input.shape[i];
    args_.outer_stride = args_.run;
    for (int64_t i = 0; i < count; i++) {
      add(indices[i], grid, input, dim + i);
      args_.outer_stride *= input.shape[dim + i];
    }
    args_.wraps = wraps;
  }

  IndexStep(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& output, int64_t dim)
      : IndexStep(input, output, dim, "gather") {
    require(indices.shape == output.shape && output.rank() == input.rank() && dim >= 0 && dim < input.rank(),
            "gather takes operands of one rank and indices of the output's shape");
    require(input.rank() <= index_max_axes, "gather takes at most 8 axes");
    set_grid(output.shape);
    for (int64_t i = 0; i < input.rank(); i++) {
      if (i == dim) continue;
      require(output.shape[i] <= input.shape[i], "gather has more places than its input");
      args_.places[i] = input.strides[i] * size_of(input.dtype);
    }
    add(indices, output.shape, input, dim);
  }

  void run(const Run& run, StepState*) const override {
    if (bytes_ == 0) return;
    int bad_axis = 0;
    int64_t bad_index = 0;
    IndexArgs args = args_;
    args.input = run.slots[0];
    for (int i = 0; i < args.indexed; i++) args.indices[i].indices = run.slots[1 + i];
    args.output = run.slots[1 + args.indexed];
    args.threads = threads_for(bytes_ / 4, run.threads);
    args.bad_axis = &bad_axis;
    args.bad_index = &bad_index;
    if (kernel_(args)) return;
    const std::string where = "index " + std::to_string(bad_index) + " is out of bounds for dimension " + std::to_string(dim_ + bad_axis) +
                              " with size " + std::to_string(args.indices[bad_axis].size);
    if (name_ == "gather") throw std::runtime_error(where);
    throw std::out_of_range(name_ == "index" ? where : "index out of range in self: " + where);
  }

 private:
  IndexStep(const TensorDesc& input, const TensorDesc& output, int64_t dim, const std::string& name)
      : kernel_(require_kernels().index), name_(name), dim_(dim), bytes_(output.numel() * size_of(input.dtype)) {
    implementation = kernel_name("index");
    check_dense(input);
    check_dense(output);
    require(input.dtype == output.dtype, "index does not convert");
    args_.outer = 1;
    args_.run = size_of(input.dtype);
  }

  void set_grid(const Dims& grid) {
    args_.axes = std::max(1, static_cast<int>(grid.size()));
    args_.sizes[0] = 1;  // of a grid of no axes
    std::copy(grid.begin(), grid.end(), args_.sizes);
  }

  void add(const TensorDesc& indices, const Dims& grid, const TensorDesc& input, int64_t dim) {
    check_dense(indices);
    require(indices.dtype == DType::s64 || indices.dtype == DType::s32, "indices are s64 or s32");
    IndexedAxis& axis = args_.indices[args_.indexed++];
    const Dims strides = broadcast_strides(indices, grid);
    std::copy(strides.begin(), strides.end(), axis.strides);
    axis.wide = indices.dtype == DType::s64;
    axis.size = input.shape[dim];
    axis.stride = input.strides[dim] * size_of(input.dtype);
  }

  bool (*kernel_)(const IndexArgs&);
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
