// The operators that drystone puts under torch's own names: how they get there, and how they are switched on and off.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "torch/tensor.h"

namespace drystone::torch {

// One operator. Its kernel takes the calls where it was measured to win, and hands all others to torch's own.
struct Operator {
  const char* family;     // the name it goes by for users, alone or with its out= variant and its gradient
  const char* name;       // of aten, with the overload: "topk", "index_select.out"
  const char* signature;  // what follows the name in its schema, for the same operator under drystone's name
  bool (*find)();         // looks up what it hands calls to; false where this torch has no such function
  BoxedKernel under_torchs_name, under_drystones_name;
  std::atomic<bool>* on;  // read by each call under torch's name
};

void enter(const Operator& op);

// Enters an operator into the list of all as the core is loaded: each file here defines its own. By kernel: torch hands it no data.
template <void (*kernel)(Arguments& arguments)>
class Entry {
 public:
  Entry(const char* family, const char* name, const char* signature, bool (*find)()) {
    enter({family, name, signature, find, under_torchs_name, under_drystones_name, &on});
  }

 private:
  static void under_torchs_name(StableIValue* stack, uint64_t, uint64_t) {
    Arguments arguments(stack, on.load(std::memory_order_relaxed));
    kernel(arguments);
  }

  static void under_drystones_name(StableIValue* stack, uint64_t, uint64_t) {
    Arguments arguments(stack, true);
    kernel(arguments);
  }

  static inline std::atomic<bool> on;
};

// All families, in alphabetical order.
std::vector<std::string> operator_names();

// Makes torch.ops.drystone.NAME of all operators that this torch can have. Once in a process.
void define_operators();

// A family under torch's own names, for CPU tensors, switched off. Twice is as once. Gives those of it that this torch can't have.
//
// It stays until the process ends. torch's table of kernels has no lock: a call that runs while its kernel is taken away reads freed
// memory. One that runs while a kernel is added finds torch's or the new one, as torch keeps those that were there.
std::vector<std::string> replace(const std::string& family);
// Just these families compute from now on; the calls of all others go to torch's own kernels. Beside any calls.
void switch_on(const std::vector<std::string>& families);
bool is_on(const std::string& family);

}  // namespace drystone::torch
