#include <cstring>

#include "steps/elements.h"
#include "steps/index.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

// Runs of memory to computed places along one axis: memory bound, and memcpy is as fast as a kernel of our own.
class IndexCopyStep final : public Step {
 public:
  IndexCopyStep(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& source, const TensorDesc& output, int64_t dim,
                bool wraps)
      : wide_(indices.dtype == DType::s64), wraps_(wraps), dim_(dim) {
    require_kernels();
    implementation = "index_copy";
    for (const TensorDesc* desc : {&input, &indices, &source, &output}) check_dense(*desc);
    require(dim >= 0 && dim < input.rank() && input.rank() == source.rank(), "index_copy has no such axis");
    require(is_index(indices.dtype), "indices are s64 or s32");
    require(input.dtype == output.dtype && input.dtype == source.dtype, "index_copy does not convert");
    require(input.shape == output.shape, "the output of index_copy has another shape");
    require(indices.rank() == 1, "index_copy takes one axis of indices");
    count_ = indices.shape[0];
    Dims expected = input.shape;
    expected[dim] = count_;
    require(source.shape == expected, "the source of index_copy has another shape");
    size_ = input.shape[dim];
    for (int64_t i = 0; i < dim; i++) outer_ *= input.shape[i];
    run_ = size_of(input.dtype);
    for (int64_t i = dim + 1; i < input.rank(); i++) run_ *= input.shape[i];
  }

  void run(const Run& run, StepState*) const override {
    const char* input = static_cast<const char*>(run.slots[0]);
    const char* source = static_cast<const char*>(run.slots[2]);
    char* output = static_cast<char*>(run.slots[3]);
    for (int64_t i = 0; i < count_; i++) index_at(run.slots[1], i);  // before anything is written
    const int64_t block = size_ * run_, bytes = count_ * run_ + (input == output ? 0 : block);
    const int threads = threads_for(outer_ * bytes / 4, run.threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t outer = 0; outer < outer_; outer++) {
      if (input != output) std::memcpy(output + outer * block, input + outer * block, block);
      for (int64_t i = 0; i < count_; i++)
        std::memcpy(output + outer * block + index_at(run.slots[1], i) * run_, source + (outer * count_ + i) * run_, run_);
    }
  }

 private:
  int64_t index_at(const void* indices, int64_t at) const {
    const int64_t index = wide_ ? static_cast<const int64_t*>(indices)[at] : static_cast<const int32_t*>(indices)[at];
    if (index < (wraps_ ? -size_ : 0) || index >= size_) throw std::out_of_range(out_of_bounds(index, dim_, size_));
    return index < 0 ? index + size_ : index;
  }

  bool wide_, wraps_;
  int64_t dim_, count_, size_, outer_ = 1, run_;
};

}  // namespace

std::shared_ptr<Step> make_index_copy(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& source,
                                      const TensorDesc& output, int64_t dim, bool wraps) {
  return std::make_shared<IndexCopyStep>(input, indices, source, output, dim, wraps);
}

}  // namespace drystone
