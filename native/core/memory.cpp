#include "core/memory.h"

#include <sys/mman.h>

#include <new>

namespace drystone {

namespace {

constexpr uintptr_t line = 64, huge = uintptr_t(2) << 20;

}  // namespace

void advise_huge_pages(uintptr_t address, int64_t bytes) {
  const uintptr_t begin = (address + huge - 1) / huge * huge, end = (address + static_cast<uintptr_t>(bytes)) / huge * huge;
  if (bytes > 0 && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

Memory::Memory(int64_t bytes) : bytes_(bytes) {
  const uintptr_t alignment = static_cast<uintptr_t>(bytes) < huge ? line : huge;
  const uintptr_t size = (static_cast<uintptr_t>(bytes) + alignment) / alignment * alignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, size)));
  if (!data_) throw std::bad_alloc();
  advise_huge_pages(reinterpret_cast<uintptr_t>(data()), static_cast<int64_t>(size));
}

}  // namespace drystone
