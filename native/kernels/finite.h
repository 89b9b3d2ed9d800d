#pragma once

#include <cstdint>

namespace drystone {

struct FiniteArgs {
  const void* data;  // f32 or bf16
  bool bf16;
  int64_t count;
  bool* result;
};

}  // namespace drystone
