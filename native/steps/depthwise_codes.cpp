#include "steps/depthwise_codes.h"

#include <algorithm>
#include <cstring>

#include "steps/kernel_step.h"

namespace drystone {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::optional<DepthwiseCodes> DepthwiseCodes::of(const DepthwiseArgs& args, int32_t zero_point, int64_t threads) {
  const bool lies = args.across && args.in_map.lane == 1 && args.out_map.lane == 1 && args.in_map.block_stride == 0;
  const bool is_flat = args.kernel[0] == 1 && args.stride[0] == 1 && args.padding[0] == 0;
  if (!is_code(args.dtype) || !lies || !is_flat || args.outputs != 1) return std::nullopt;
  DepthwiseCodes made;
  DepthwiseCodesArgs& own = made.args_;
  own.common = args;
  own.dot = has(Feature::avx512) ? has(Feature::avx512_vnni) : has(Feature::avx_vnni);
  own.zero = zero_point + (args.dtype == DType::s8 ? 128 : 0);
  made.lanes_ = vector_lanes();
  const int64_t taps = depthwise_codes_taps(own.dot), reach = taps * args.dilation[2];
  own.together = ceil_div(args.kernel[2], taps);
  if (own.together > 1 && reach % args.stride[2]) return std::nullopt;  // taps that no output begins at
  own.apart = reach / args.stride[2];
  constexpr double most_bytes = 64 << 20;
  const double span = static_cast<double>(args.kernel[1] - 1) * static_cast<double>(args.dilation[1]) + 2;
  const double entries = static_cast<double>(own.together) * static_cast<double>(own.apart) + static_cast<double>(args.out_size[2]);
  if (span * entries * 256 > most_bytes) return std::nullopt;
  made.plan(threads);
  return made;
}

// Parts of columns whose rows stay in the first level cache (32 KB), but not so narrow that what they share is most of it.
void DepthwiseCodes::plan(int64_t threads) {
  constexpr int64_t cache = 24 << 10, narrowest = 14;
  DepthwiseArgs& a = args_.common;
  const int64_t entry = depthwise_codes_vectors * lanes_, shared = (args_.together - 1) * args_.apart;
  a.span = (a.kernel[1] - 1) * a.dilation[1] + 1;
  const int64_t columns = std::clamp(cache / (a.span * entry * 4) - shared, std::min(narrowest, a.out_size[2]), a.out_size[2]);
  a.column_parts = ceil_div(a.out_size[2], columns);
  const int64_t widest = ceil_div(a.out_size[2], a.column_parts);
  a.row_floats = (widest + shared) * entry;
  a.line_pitch = widest * entry;
  const int64_t items = a.batch * a.out_size[0] * a.column_parts * ceil_div(a.channels, entry);
  a.row_parts = threads == 1 ? 1 : std::min(a.out_size[1], ceil_div(4 * threads, items));
  const int64_t floats = (a.span + 1) * a.row_floats + 2 * a.line_pitch;
  a.thread_bytes = ceil_div(floats * 4 + a.kernel[1] * static_cast<int64_t>(sizeof(void*)), 64) * 64;
}

void DepthwiseCodes::run(const DepthwiseArgs& args, const void* weights) const {
  DepthwiseCodesArgs all = args_;
  all.common = args;
  all.weights = static_cast<const std::byte*>(weights);
  all.weight_sums = reinterpret_cast<const int32_t*>(all.weights + weights_bytes());
  kernels()->depthwise_codes(all);
}

int64_t DepthwiseCodes::vectors() const { return ceil_div(args_.common.channels, lanes_); }

std::string DepthwiseCodes::packed_key() const {
  const auto& kernel = args_.common.kernel;
  return "depthwise_codes" + std::to_string(lanes_) + (args_.dot ? ",4;" : ",2;") + std::to_string(args_.common.channels) + "," +
         std::to_string(kernel[1]) + "," + std::to_string(kernel[2]);
}

void DepthwiseCodes::pack(const int8_t* source, std::byte* packed) const {
  const DepthwiseArgs& a = args_.common;
  const int64_t taps = depthwise_codes_taps(args_.dot), count = a.kernel[1] * a.kernel[2];
  std::memset(packed, 0, static_cast<size_t>(packed_bytes()));
  auto* sums = reinterpret_cast<int32_t*>(packed + weights_bytes());
  for (int64_t c = 0; c < a.channels; c++, source += count) {
    const int64_t vector = c / lanes_, first = vector / depthwise_codes_vectors * depthwise_codes_vectors;
    const int64_t together = std::min(vectors() - first, depthwise_codes_vectors);
    for (int64_t tap = 0; tap < count; tap++) {
      const int64_t row = tap / a.kernel[2], column = tap % a.kernel[2];
      const int64_t before = first * a.kernel[1] * args_.together + (row * args_.together + column / taps) * together + vector - first;
      std::byte* to = packed + (before * lanes_ + c % lanes_) * 4;
      if (args_.dot) {
        reinterpret_cast<int8_t*>(to)[column % taps] = source[tap];
      } else {
        reinterpret_cast<int16_t*>(to)[column % taps] = source[tap];
      }
      sums[c] += source[tap];
    }
  }
}

}  // namespace drystone
