#include "core/isa.h"
#include "kernels/table.h"

namespace drystone {

const KernelTable* kernels() {
  if (has(Feature::avx512)) return &avx512::table;
  return has(Feature::avx2) ? &avx2::table : nullptr;
}

}  // namespace drystone
