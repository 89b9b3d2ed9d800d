// The step of the pointwise kernel.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "kernels/pointwise.h"

namespace drystone {

// One instruction as docs/internals.md writes it: operands are ("in", i) or ("reg", j), j an earlier instruction.
struct PointwiseOp {
  std::string kind;
  std::vector<std::pair<std::string, int>> operands;
  float alpha, beta;
};

// The instruction of this name, of so many operands; x ** alpha is a cheaper one where that gives it, as torch has it. Throws
// std::invalid_argument where there is none.
PointwiseKind pointwise_kind(const std::string& name, size_t operands, float alpha);

// The instruction of an operation on results, which are its operand 0; operand 1 is the other one, where there is any.
PointwiseInstruction epilogue_instruction(const PostOp& op);

// An instruction of one operand, of every element of dense memory, at once: what a step would do, without one to make or to find.
void run_instruction(PointwiseKind kind, DType dtype, int64_t elements, void* input, void* output, int threads);

// Slots: the inputs in order, then the output, which may be the very memory of an input that is not broadcast.
class PointwiseStep : public Step {
 public:
  // Throws std::invalid_argument where a dtype, format, shape or instruction is not supported.
  PointwiseStep(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const std::vector<PointwiseOp>& ops);
  void run(const Run& run, StepState* state) const override;

 private:
  void translate(const std::vector<PointwiseOp>& ops);

  std::vector<int64_t> sizes_;
  std::vector<PointwiseOperand> operands_;
  std::vector<PointwiseInstruction> program_;
  int inputs_;
  int64_t elements_;
};

}  // namespace drystone
