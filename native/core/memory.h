// Memory of the native side's own, and advice to the system about what torch allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace drystone {

// Asks for 2 MB pages in the whole ones within [address, address + bytes): fewer page faults at the first touch and fewer
// misses of the address cache afterwards. Does nothing where the system has none; never fails.
void advise_huge_pages(uintptr_t address, int64_t bytes);

// Uninitialised bytes, aligned to cache lines, in 2 MB pages from there on where the system has them.
class Memory {
 public:
  Memory() = default;
  // Throws std::bad_alloc.
  explicit Memory(int64_t bytes);
  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  int64_t bytes_ = 0;
};

}  // namespace drystone
