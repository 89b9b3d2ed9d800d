#include <algorithm>
#include <bit>
#include <stdexcept>
#include <vector>

#include "steps/elements.h"
#include "steps/grouped_strips.h"
#include "steps/index.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

// The words of a row lie a strip apart: this waits for memory, so plain loops serve.
class GroupedRowsStep final : public Step {
 public:
  GroupedRowsStep(const GroupedStrips& strips, const TensorDesc& indices, const TensorDesc& output)
      : strips_(strips), count_(indices.numel()), wide_(indices.dtype == DType::s64), narrow_(output.dtype == DType::bf16) {
    implementation = "grouped_rows";
    check_dense(indices);
    check_dense(output);
    require(is_index(indices.dtype), "indices are s64 or s32");
    require_float(output.dtype, "the output");
    Dims expected = indices.shape;
    expected.push_back(strips.k);
    require(output.shape == expected, "the output of grouped_rows has another shape");
  }

  void run(const Run& run, StepState*) const override {
    const auto index = [&](int64_t i) {
      return wide_ ? static_cast<const int64_t*>(run.slots[1])[i] : int64_t{static_cast<const int32_t*>(run.slots[1])[i]};
    };
    int64_t wrong = -1;
#pragma omp parallel num_threads(threads_for(count_* strips_.k, run.threads))
    {
      std::vector<float> numbers(narrow_ ? strips_.k : 0);
#pragma omp for reduction(max : wrong)
      for (int64_t i = 0; i < count_; i++) {
        const auto* packed = static_cast<const std::byte*>(run.slots[0]);
        if (index(i) < 0 || index(i) >= strips_.n)
          wrong = std::max(wrong, i);
        else if (narrow_) {
          strips_.decode(packed, index(i), numbers.data());
          auto* to = static_cast<uint16_t*>(run.slots[2]) + i * strips_.k;
          for (int64_t at = 0; at < strips_.k; at++) {
            const uint32_t bits = std::bit_cast<uint32_t>(numbers[at]);
            to[at] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
          }
        } else {
          strips_.decode(packed, index(i), static_cast<float*>(run.slots[2]) + i * strips_.k);
        }
      }
    }
    if (wrong >= 0) throw std::out_of_range("index out of range in self: " + out_of_bounds(index(wrong), 0, strips_.n));
  }

 private:
  GroupedStrips strips_;
  int64_t count_;
  bool wide_, narrow_;
};

}  // namespace

std::shared_ptr<Step> make_grouped_rows(const GroupedStrips& strips, const TensorDesc& indices, const TensorDesc& output) {
  return std::make_shared<GroupedRowsStep>(strips, indices, output);
}

}  // namespace drystone
