// Arguments of the pointwise kernel: a chain of elementwise instructions over broadcast operands.
#pragma once

#include <cstdint>

namespace drystone {

constexpr int pointwise_max_axes = 8;
constexpr int pointwise_max_buffers = 40;  // inputs and registers together; 4 KB each

enum class PointwiseKind : uint8_t {
  copy,
  relu,
  leaky_relu,
  elu,
  gelu_erf,
  gelu_tanh,
  silu,
  mish,
  hardswish,
  hardsigmoid,
  sigmoid,
  tanh,
  clamp,
  exp,
  log,
  log1p,
  sqrt,
  rsqrt,
  abs,
  neg,
  square,
  reciprocal,
  erf,
  sin,
  cos,
  linear,
  pow,
  floor,
  round,
  sign,
  add,
  sub,
  mul,
  div,
  maximum,
  minimum,
  pow2,
  prelu,
};

// Operands and results are numbered together: the inputs first, then the registers. The last instruction writes the output.
struct PointwiseInstruction {
  PointwiseKind kind;
  int a, b;  // b is a where there is one operand
  int result;
  float alpha, beta;
};

struct PointwiseOperand {
  bool bf16;
  int64_t strides[pointwise_max_axes];  // in elements; 0 where the operand is broadcast
};

struct PointwiseArgs {
  int axes;  // at least 2, outermost first
  int64_t sizes[pointwise_max_axes];
  int inputs;
  const PointwiseOperand* operands;  // the inputs, then the output
  int instructions;
  const PointwiseInstruction* program;
  void* const* slots;  // the inputs, then the output
  int threads;
};

}  // namespace drystone
