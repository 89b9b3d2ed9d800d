#include "core/snapshot.h"

#include <cstring>

namespace drystone {

namespace {

const std::byte* at(uintptr_t address) { return reinterpret_cast<const std::byte*>(address); }

}  // namespace

Snapshot::Snapshot(std::vector<std::pair<uintptr_t, size_t>> places) : places_(std::move(places)) {
  for (auto [address, count] : places_) bytes_.insert(bytes_.end(), at(address), at(address) + count);
}

bool Snapshot::unchanged() const {
  const std::byte* before = bytes_.data();
  for (auto [address, count] : places_) {
    if (count && std::memcmp(at(address), before, count) != 0) return false;
    before += count;
  }
  return true;
}

std::vector<size_t> Snapshot::changed() const {
  std::vector<size_t> found;
  const std::byte* before = bytes_.data();
  for (size_t i = 0; i < places_.size(); i++) {
    auto [address, count] = places_[i];
    if (count && std::memcmp(at(address), before, count) != 0) found.push_back(i);
    before += count;
  }
  return found;
}

}  // namespace drystone
