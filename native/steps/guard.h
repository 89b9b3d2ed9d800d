// The step that watches over a tensor, so that what is computed from it need not.
#pragma once

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/guard.h"

namespace drystone {

// Has the steps after it run exact where a NaN, an infinity or any |x| above the limit is in its only slot.
class Guard : public Step {
 public:
  // Throws std::invalid_argument where dtype or format is not supported, or neighbours are none in memory.
  Guard(const TensorDesc& desc, float limit);
  void run(const Run& run, StepState* state) const override;

 private:
  GuardArgs args_{};
};

// Whether there is neither NaN nor infinity in so many f32 or bf16, one behind the other. Needs kernels.
bool all_finite(const void* data, DType dtype, int64_t count, int threads);

}  // namespace drystone
