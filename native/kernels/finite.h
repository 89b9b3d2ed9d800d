#pragma once

#include <cstdint>

namespace drystone {

struct FiniteArgs {
  const float* data;
  int64_t count;
  bool* result;
};

}  // namespace drystone
