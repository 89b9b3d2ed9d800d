// What a step does to its results before it stores them.
#pragma once

#include <optional>
#include <string>

#include "core/tensor.h"

namespace drystone {

// One operation on each result before it is stored. Kinds are the names of docs/internals.md; "sum" adds what the output
// memory holds already; a binary kind has the operand that it reads.
struct PostOp {
  std::string kind;
  float alpha = 0, beta = 0;
  std::optional<TensorDesc> operand;

  // The second operand, of an operation on results that go to `output`: null where it has one.
  const TensorDesc* other(const TensorDesc& output) const { return kind == "sum" ? &output : operand ? &*operand : nullptr; }
};

}  // namespace drystone
