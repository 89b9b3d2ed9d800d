#include "core/memory.h"

#include <sys/mman.h>

namespace drystone {

void advise_huge_pages(uintptr_t address, int64_t bytes) {
  constexpr uintptr_t huge = uintptr_t(2) << 20;
  const uintptr_t begin = (address + huge - 1) / huge * huge, end = (address + static_cast<uintptr_t>(bytes)) / huge * huge;
  if (bytes > 0 && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace drystone
