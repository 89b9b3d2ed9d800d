// The operators that drystone puts under torch's own names, and how they get there and away again.
#pragma once

#include <string>
#include <vector>

#include "torch/libtorch.h"

namespace drystone::torch {

// One operator. Its kernel takes the calls where it was measured to win, and hands all others to torch's own.
struct Operator {
  const char* family;     // the name it goes by for users, alone or with its out= variant and its gradient
  const char* name;       // of aten, with the overload: "topk", "index_select.out"
  const char* signature;  // what follows the name in its schema, for the same operator under drystone's name
  BoxedKernel kernel;
  bool (*find)();  // looks up what it hands calls to; false where this torch has no such function
};

// All families, in alphabetical order.
std::vector<std::string> operator_names();

// Makes torch.ops.drystone.NAME of all operators that this torch can have. Once in a process.
void define_operators();

// A family under torch's own names, for CPU tensors, until it is removed. Twice is as once. Gives those of it that this torch can't have.
std::vector<std::string> replace(const std::string& family);
void restore(const std::string& family);
bool is_replaced(const std::string& family);

}  // namespace drystone::torch
