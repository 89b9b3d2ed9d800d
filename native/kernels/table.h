// The kernels of one ISA, as function pointers. Each .cpp here is compiled once per ISA with that ISA's flags, inside
// namespace drystone::DRYSTONE_ISA, and table.cpp fills the struct; kernels() picks the one for this machine.
//
// Two rules keep instructions of one ISA out of code that runs on another: a kernel source includes no header with inline
// functions that other sources share (no <vector>, <algorithm>, <string>), and all it defines lies in its own namespace.
#pragma once

#include "kernels/list.h"

namespace drystone {

#define KERNEL(result, name, Args) struct Args;
DRYSTONE_KERNELS(KERNEL)
#undef KERNEL

struct KernelTable {
#define KERNEL(result, name, Args) result (*name)(const Args&);
  DRYSTONE_KERNELS(KERNEL)
#undef KERNEL
};

// Null where the machine has no ISA that drystone serves.
const KernelTable* kernels();

namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}

}  // namespace drystone
