// Arguments of the pointwise kernel: a chain of elementwise instructions over broadcast operands.
#pragma once

#include "core/dtype.h"
#include "core/quantisation.h"
#include "kernels/instruction_list.h"

namespace drystone {

constexpr int pointwise_max_axes = 8;
constexpr int pointwise_max_buffers = 40;  // inputs and registers together; 4 KB each

#define INSTRUCTION(name, ...) name,
enum class PointwiseKind : uint8_t { DRYSTONE_INSTRUCTIONS(INSTRUCTION, INSTRUCTION, INSTRUCTION, INSTRUCTION) };
#undef INSTRUCTION

// Operands and results are numbered together: the inputs first, then the registers. The last instruction writes the output.
struct PointwiseInstruction {
  PointwiseKind kind;
  int a, b;  // b is a where there is one operand
  int result;
  float alpha, beta;
};

struct PointwiseOperand {
  DType dtype;
  int64_t strides[pointwise_max_axes];  // in elements; 0 where the operand is broadcast
  Affine affine = {};                   // of codes
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
