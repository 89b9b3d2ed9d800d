#include "core/isa.h"
#include "kernels/table.h"

namespace drystone {

const KernelTable* kernels() {
  switch (isa()) {
    case Isa::none: return nullptr;
    case Isa::avx2: return &avx2::table;
    default: return &avx512::table;
  }
}

}  // namespace drystone
