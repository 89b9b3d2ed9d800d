// Pages of a cache of keys and values: how one lies in memory, and which addresses are pages.
//
// A page has room for page_positions positions of one layer of one sequence. It holds, head by head: keys (depth units, positions), values
// (position units, width), and for s8 a float32 scale for each position's key, then for each position's value. A unit is one element, or
// for bf16 a pair: of neighbouring features of a key, of a feature at neighbouring positions of values. So products run along the lanes of
// vectors without packing or sums across lanes, and a pair is what VDPBF16PS takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"

namespace drystone {

constexpr int64_t page_positions = 64;

struct PageShape {
  DType dtype;                  // f32, bf16 or s8
  int64_t heads, depth, width;  // depth: of a key; width: of a value

  bool operator==(const PageShape&) const = default;
  int64_t pair() const { return dtype == DType::bf16 ? 2 : 1; }
  // In bytes from the start of a head:
  int64_t values() const { return (depth + pair() - 1) / pair() * pair() * page_positions * size_of(dtype); }
  int64_t scales() const { return values() + page_positions * width * size_of(dtype); }
  int64_t head_bytes() const { return (scales() + (dtype == DType::s8 ? 2 * page_positions * 4 : 0) + 63) / 64 * 64; }
  int64_t bytes() const { return heads * head_bytes(); }
};

// Uninitialised memory of `count` pages, which a PageFinder finds while it lives.
class PageSlab {
 public:
  // Throws std::invalid_argument for other shapes than those of caches, std::bad_alloc.
  PageSlab(const PageShape& shape, int64_t count);
  ~PageSlab();
  PageSlab(const PageSlab&) = delete;
  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(memory_.data()); }
  const PageShape& shape() const { return shape_; }
  int64_t bytes() const { return count_ * shape_.bytes(); }

 private:
  PageShape shape_;
  int64_t count_;
  Memory memory_;
};

// Looks addresses up: what does not begin a page is never read or written. For one call, as it remembers where it looked last.
class PageFinder {
 public:
  // The shape of the page that begins there; null where none does.
  const PageShape* find(uintptr_t address);

 private:
  uintptr_t begin_ = 0, end_ = 0;
  PageShape shape_{};
};

}  // namespace drystone
