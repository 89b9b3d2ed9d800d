#include "kernels/table.h"

namespace drystone::DRYSTONE_ISA {

// Hidden, so that the linker misses a kernel that is not defined.
#define KERNEL(result, name, Args) [[gnu::visibility("hidden")]] result name(const Args&);
DRYSTONE_KERNELS(KERNEL)
#undef KERNEL

const KernelTable table = {
#define KERNEL(result, name, Args) .name = name,
    DRYSTONE_KERNELS(KERNEL)
#undef KERNEL
};

}  // namespace drystone::DRYSTONE_ISA
