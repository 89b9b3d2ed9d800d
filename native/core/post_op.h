// What a step does to its results before it stores them.
#pragma once

#include <optional>
#include <string>

#include "core/tensor.h"

namespace drystone {

// One operation on each result before it is stored. Kinds are the names of docs/internals.md; "sum" adds what the output
// memory holds already, codes by a scale alpha and a zero point beta of their own (alpha 0: by the output's); a binary kind has the
// operand that it reads.
struct PostOp {
  std::string kind;
  float alpha = 0, beta = 0;
  std::optional<TensorDesc> operand;

  // The second operand, of an operation on results that go to `output`: none where it has one.
  std::optional<TensorDesc> other(const TensorDesc& output) const {
    if (kind != "sum") return operand;
    return is_code(output.dtype) && alpha != 0 ? output.quantised(alpha, static_cast<int32_t>(beta)) : output;
  }
};

}  // namespace drystone
