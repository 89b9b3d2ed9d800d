// What steps over own kernels share: the table of this machine's kernels, names, and when threads pay.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/isa.h"
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

}  // namespace drystone
