// How the axes of a tensor (N, C, spatial…) lie in memory: a value, and the table of those that there are.
#pragma once

#include <cstdint>
#include <vector>

namespace drystone {

enum class Order : uint8_t { channels_first, channels_last };  // N, C, spatial… and N, spatial…, C

struct Format {
  const char* name;
  Order order;
  int64_t block;  // so many neighbouring channels lie together, innermost, and axis 1 leads from block to block; 1: no blocks

  bool operator==(const Format& other) const { return order == other.order && block == other.block; }

  static const Format plain, channels_last;
};

// plain has any rank, the others 3 to 5.
inline constexpr Format formats[] = {
    {"plain", Order::channels_first, 1},
    {"channels_last", Order::channels_last, 1},
    {"blocked16", Order::channels_first, 16},
    {"blocked8", Order::channels_first, 8},
};
inline constexpr Format Format::plain = formats[0], Format::channels_last = formats[1];

// The blocks that the CPU in force computes in: one fills a vector of float32.
const Format& blocked();

// The logical axes as they lie, outermost first. In blocks, what lies in one is an axis more, innermost.
std::vector<int64_t> axes_in_memory(const Format& format, int64_t rank);

}  // namespace drystone
