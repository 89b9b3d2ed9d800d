#include "steps/index.h"

#include <algorithm>

#include "kernels/index.h"
#include "steps/elements.h"
#include "steps/kernel_step.h"

namespace drystone {

namespace {

class IndexStep final : public Step {
 public:
  IndexStep(const TensorDesc& input, const std::vector<TensorDesc>& indices, const TensorDesc& output, int64_t dim, bool wraps,
            const std::string& name)
      : kernel_(require_kernels().index), name_(name), dim_(dim) {
    implementation = kernel_name("index");
    const int64_t count = static_cast<int64_t>(indices.size()), grid_axes = output.rank() - (input.rank() - count);
    check_dense(input);
    check_dense(output);
    require(input.dtype == output.dtype, "index does not convert");
    require(count > 0 && count <= index_max_axes && dim >= 0 && dim + count <= input.rank(), "index has no such axes");
    require(grid_axes >= 0 && grid_axes <= index_max_axes, "index takes grids of at most 8 axes");
    const Dims grid(output.shape.begin() + dim, output.shape.begin() + dim + grid_axes);
    Dims expected(input.shape.begin(), input.shape.begin() + dim);
    expected.insert(expected.end(), grid.begin(), grid.end());
    expected.insert(expected.end(), input.shape.begin() + dim + count, input.shape.end());
    require(expected == output.shape, "the output of index has another shape");

    const int64_t bytes = size_of(input.dtype);
    args_.outer = args_.run = 1;
    for (int64_t i = 0; i < dim; i++) args_.outer *= input.shape[i];
    for (int64_t i = dim + count; i < input.rank(); i++) args_.run *= input.shape[i];
    args_.run *= bytes;
    args_.outer_stride = args_.run;
    args_.indexed = static_cast<int>(count);
    for (int64_t i = 0; i < count; i++) {
      const TensorDesc& desc = indices[i];
      check_dense(desc);
      require(desc.dtype == DType::s64 || desc.dtype == DType::s32, "indices are s64 or s32");
      IndexedAxis& axis = args_.indices[i];
      const Dims strides = broadcast_strides(desc, grid);
      std::copy(strides.begin(), strides.end(), axis.strides);
      axis.wide = desc.dtype == DType::s64;
      axis.size = input.shape[dim + i];
      axis.stride = input.strides[dim + i] * bytes;
      args_.outer_stride *= axis.size;
    }
    args_.axes = static_cast<int>(grid_axes);
    std::copy(grid.begin(), grid.end(), args_.sizes);
    args_.wraps = wraps;
    int64_t entries = 1;
    for (int64_t size : grid) entries *= size;
    scratchpad_bytes = entries * static_cast<int64_t>(sizeof(int64_t));
    bytes_ = output.numel() * bytes;
  }

  void run(const Run& run, StepState*) const override {
    if (bytes_ == 0) return;
    int bad_axis = 0;
    int64_t bad_index = 0;
    IndexArgs args = args_;
    args.input = run.slots[0];
    for (int i = 0; i < args.indexed; i++) args.indices[i].indices = run.slots[1 + i];
    args.output = run.slots[1 + args.indexed];
    args.offsets = reinterpret_cast<int64_t*>(run.scratchpad);
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
  bool (*kernel_)(const IndexArgs&);
  std::string name_;
  int64_t dim_, bytes_ = 0;
  IndexArgs args_{};
};

}  // namespace

std::shared_ptr<Step> make_index(const TensorDesc& input, const std::vector<TensorDesc>& indices, const TensorDesc& output, int64_t dim,
                                 bool wraps, const std::string& name) {
  return std::make_shared<IndexStep>(input, indices, output, dim, wraps, name);
}

}  // namespace drystone
