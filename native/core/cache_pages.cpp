#include "core/cache_pages.h"

#include <map>
#include <mutex>
#include <stdexcept>

#include "core/forkable_mutex.h"

namespace drystone {

namespace {

struct Extent {
  uintptr_t end;
  PageShape shape;
};

ForkableMutex& mutex() {
  static auto* const made = new ForkableMutex;
  return *made;
}
// By where they begin.
std::map<uintptr_t, Extent>& slabs() {
  static auto* const made = new std::map<uintptr_t, Extent>;
  return *made;
}

constexpr int64_t most = 1 << 16;  // heads, or features of one
constexpr int64_t slack = 64;      // a vector that begins in the last row of values may end beyond it

const PageShape& checked(const PageShape& shape, int64_t count) {
  if (shape.dtype != DType::f32 && shape.dtype != DType::bf16 && shape.dtype != DType::s8)
    throw std::invalid_argument("a cache holds float32, bfloat16 or int8");
  for (const int64_t size : {shape.heads, shape.depth, shape.width})
    if (size < 1 || size > most) throw std::invalid_argument("a cache has from 1 to 65536 heads, of as many features");
  if (count < 1 || count > (int64_t{1} << 46) / shape.bytes()) throw std::invalid_argument("no memory has so many pages");
  return shape;
}

}  // namespace

PageSlab::PageSlab(const PageShape& shape, int64_t count) : shape_(checked(shape, count)), count_(count), memory_(bytes() + slack) {
  const std::lock_guard lock(mutex());
  slabs()[begin()] = {begin() + bytes(), shape_};
}

PageSlab::~PageSlab() {
  const std::lock_guard lock(mutex());
  slabs().erase(begin());
}

const PageShape* PageFinder::find(uintptr_t address) {
  if (address < begin_ || address >= end_) {
    const std::lock_guard lock(mutex());
    auto next = slabs().upper_bound(address);
    if (next == slabs().begin() || address >= std::prev(next)->second.end) return nullptr;
    const auto& [begin, extent] = *std::prev(next);
    begin_ = begin, end_ = extent.end, shape_ = extent.shape;
  }
  return (address - begin_) % shape_.bytes() == 0 ? &shape_ : nullptr;
}

}  // namespace drystone
