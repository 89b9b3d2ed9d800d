// What steps over own kernels share: the table of this machine's kernels, names, and when threads pay.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/isa.h"
#include "core/program.h"
#include "kernels/table.h"

namespace drystone {

inline const KernelTable& require_kernels() {
  if (const KernelTable* table = kernels()) return *table;
  throw std::invalid_argument("no native kernels for this CPU (AVX2 and FMA are needed)");
}

// "pool:avx512", by the table that the kernel is of.
inline std::string kernel_name(const std::string& op) { return op + (has(Feature::avx512) ? ":avx512" : ":avx2"); }

// A fork of the threads costs about 2 us, in which one core moves some 16k elements.
inline int threads_for(int64_t elements, int threads) { return elements < 16384 ? 1 : threads; }

// A step over one kernel: its constructor fills the arguments, and says how many elements' work it is.
template <class Args>
class KernelStep : public Step {
 protected:
  KernelStep(const std::string& op, void (*KernelTable::*kernel)(const Args&)) : kernel_(require_kernels().*kernel) {
    implementation = kernel_name(op);
  }

  // With the tensors in the arguments.
  void launch(Args& args, int threads) const {
    args.threads = threads_for(elements_, threads);
    kernel_(args);
  }

  Args args_{};
  int64_t elements_ = 0;  // none: there is nothing to do

 private:
  void (*kernel_)(const Args&);
};

// Slots: input, output.
template <class Args>
class UnaryKernelStep : public KernelStep<Args> {
 public:
  void run(const Run& run, StepState*) const override {
    if (this->elements_ == 0) return;
    Args args = this->args_;
    args.input = run.slots[0];
    args.output = run.slots[1];
    this->launch(args, run.threads);
  }

 protected:
  using KernelStep<Args>::KernelStep;
};

}  // namespace drystone
