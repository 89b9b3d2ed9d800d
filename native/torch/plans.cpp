#include "torch/plans.h"

#include <array>

namespace drystone::torch {

void run_step(const Step& step, std::initializer_list<const void*> operands, int threads) {
  std::array<void*, 8> slots;
  size_t count = 0;
  for (const void* operand : operands)
    if (operand) slots.at(count++) = const_cast<void*>(operand);
  const Handle scratchpad = step.scratchpad_bytes ? memory_of(step.scratchpad_bytes) : Handle();
  const auto state = step.make_state();
  step.run({slots.data(), scratchpad ? static_cast<std::byte*>(scratchpad.data()) : nullptr, threads}, state.get());
}

}  // namespace drystone::torch
