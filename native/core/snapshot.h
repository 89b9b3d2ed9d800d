// The bytes at some addresses as they were once, to tell later whether they are still the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace drystone {

class Snapshot {
 public:
  // Each place is an address and the number of bytes from there on.
  explicit Snapshot(std::vector<std::pair<uintptr_t, size_t>> places);
  // Looks no further than to the first place whose bytes are others: those after it need not be readable then.
  bool unchanged() const;
  // The places whose bytes are others now, by their index. All of them have to be readable.
  std::vector<size_t> changed() const;

 private:
  std::vector<std::pair<uintptr_t, size_t>> places_;
  std::vector<std::byte> bytes_;
};

}  // namespace drystone
