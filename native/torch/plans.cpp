#include "torch/plans.h"

#include <vector>

#include "kernels/finite.h"
#include "kernels/table.h"

namespace drystone::torch {

void run_step(const Step& step, std::initializer_list<const void*> operands, int threads) {
  std::vector<void*> slots;
  for (const void* operand : operands)
    if (operand) slots.push_back(const_cast<void*>(operand));
  const Handle scratchpad = memory_of(step.scratchpad_bytes);
  const auto state = step.make_state();
  step.run({slots.data(), static_cast<std::byte*>(scratchpad.data()), threads}, state.get());
}

bool all_finite(const void* floats, int64_t count, int threads) {
  bool all = true;
#pragma omp parallel for num_threads(threads) reduction(&& : all) if (threads > 1)
  for (int part = 0; part < threads; part++) {
    const int64_t begin = count * part / threads, end = count * (part + 1) / threads;
    bool finite = true;
    kernels()->finite({static_cast<const float*>(floats) + begin, false, end - begin, &finite});
    all = all && finite;
  }
  return all;
}

}  // namespace drystone::torch
