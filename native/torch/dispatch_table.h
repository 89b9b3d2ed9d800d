// torch's table of kernels: an operator that was registered through the C shim, where C++ callers can call it without a stack of IValues.
//
// The shim registers boxed kernels alone: each call from C++ has its arguments boxed for torch's stack, copied to the shim's and allocated
// one by one, 0.2 to 1 us that a small call does not take itself. c10::KernelFunction has room for a second address, of a function that
// takes the arguments as they are; it is null for a boxed kernel. Here it is set.
#pragma once

#include <string>
#include <vector>

#include "torch/libtorch.h"

namespace drystone::torch {

// One operator's entries in torch's table, before and after a kernel of it is registered for the CPU.
class DispatchTable {
 public:
  // Of "aten::" and this name; as it is now. Reads torch's memory without following what is no pointer.
  explicit DispatchTable(const std::string& name);
  // Once `boxed` is registered: has C++ callers call `unboxed` in its place, with an OperatorKernel* and a DispatchKeySet before the
  // arguments. False, and nothing is changed, unless torch's structures are all those that are known, in each thing that tells: the list of
  // operators, the entry that was torch's own kernel and is now this one, and the order of the two addresses in it.
  //
  // It holds until someone else registers a kernel of this operator. Then torch fills the entry anew, and calls are boxed.
  bool set_unboxed(BoxedKernel boxed, void* unboxed) const;

 private:
  uintptr_t address_ = 0;         // of the operator; 0 where it is not found
  std::vector<uintptr_t> words_;  // its memory
};

}  // namespace drystone::torch
