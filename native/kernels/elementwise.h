// Arguments of the kernel for one elementwise operation on elements of any dtype.
#pragma once

#include "core/dtype.h"

namespace drystone {

constexpr int elementwise_max_axes = 8;

enum class ElementwiseKind : uint8_t {
  convert,
  invert,
  add,
  sub,
  mul,
  floor_div,
  remainder,
  maximum,
  minimum,
  bit_and,
  bit_or,
  bit_xor,
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  where,
};

struct ElementwiseArgs {
  ElementwiseKind kind;
  DType dtype, result;  // of the operands (of `where`: of the two values) and of what comes out; floats or integers
  int axes;             // at least 1, outermost first
  int64_t sizes[elementwise_max_axes];
  int64_t strides[4][elementwise_max_axes];  // in elements: of up to three inputs, then the output's; 0 where broadcast
  const void* inputs[3];                     // of `where`: the condition, then the values
  void* output;
  int threads;
};

}  // namespace drystone
