// The operators that drystone puts under torch's own names, and how they get there and away again.
#pragma once

#include <string>
#include <vector>

#include "torch/libtorch.h"

namespace drystone::torch {

// One operator. Its kernel takes the calls where it was measured to win, and hands all others to torch's own.
struct Operator {
  const char* name;       // of aten, with the overload: "topk", "index_select"
  const char* signature;  // what follows the name in its schema, for the same operator under drystone's name
  BoxedKernel kernel;
  bool (*find)();  // looks up what it hands calls to; false where this torch has no such function
};

std::vector<std::string> operator_names();

// Makes torch.ops.drystone.NAME of all operators that this torch can have. Once in a process.
void define_operators();

// Under torch's own name, for CPU tensors, until it is removed. Twice is as once; false where this torch can't have it.
bool replace(const std::string& name);
void restore(const std::string& name);
bool is_replaced(const std::string& name);

}  // namespace drystone::torch
