#include "core/groups.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace drystone {

float from_half(uint16_t half) {
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  const uint32_t rest = half & 0x7fff;
  if (rest < 0x400) return sign * static_cast<float>(rest) * 0x1p-24f;
  return sign * std::bit_cast<float>((rest << 13) + 0x38000000);
}

namespace {

constexpr int lanes = 8;  // of sums side by side: numbers are followed by zeros up to a multiple

// By how many codes more or less the largest number is to be reached.
constexpr float reaches[] = {0.0f, -1.2f, -0.8f, -0.4f, 0.4f, 0.8f, 1.2f};

// float16, to nearest, ties to even; what is too large becomes the largest.
uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (size >= 65504.0f) return static_cast<uint16_t>(sign | 0x7bff);
  if (size < 0x1p-14f) return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f)));
  const uint32_t rest = bits & 0x7fffffff;
  return static_cast<uint16_t>(sign | (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13);
}

// To the nearest integer, of what is far below 2^22.
inline float nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

inline float rounded(float number, float inverse, float zero) { return std::clamp(nearest(number * inverse), -zero, zero - 1); }

uint16_t best_scale(const float* numbers, int64_t count, int bits) {
  const float zero = static_cast<float>(1 << (bits - 1));
  float low = 0, high = 0;
  for (int64_t i = 0; i < count; i++) {
    low = std::min(low, numbers[i]);
    high = std::max(high, numbers[i]);
  }
  const float largest = -low >= high ? low : high;  // it meets the lowest code, of which there is one more
  if (largest == 0) return 0;
  uint16_t best = 0;
  float most = 0;
  for (const float reach : reaches) {
    const float inverse = -(zero + reach) / largest;
    if (!std::isfinite(inverse)) break;
    float products[lanes] = {}, squares[lanes] = {};
    for (int64_t i = 0; i < count; i += lanes) {
      for (int j = 0; j < lanes; j++) {
        const float code = rounded(numbers[i + j], inverse, zero);
        products[j] += numbers[i + j] * code;
        squares[j] += code * code;
      }
    }
    float product = 0, square = 0;
    for (int j = 0; j < lanes; j++) {
      product += products[j];
      square += squares[j];
    }
    const uint16_t half = to_half(product / square);
    const float scale = from_half(half), gain = scale * (2 * product - scale * square);  // by how much less the squares of the rest are
    if (gain > most) {
      most = gain;
      best = half;
    }
    if (bits == 8) break;  // so many codes leave little to gain
  }
  return best;
}

}  // namespace

void group_weights(DType dtype, const void* weights, int64_t n, int64_t k, int bits, int64_t group, uint8_t* codes, uint16_t* scales) {
  const int64_t groups = k / group;
#pragma omp parallel
  {
    std::vector<float> numbers(group + lanes);
    std::vector<uint8_t> made(k);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; row++) {
      for (int64_t g = 0; g < groups; g++) {
        const int64_t first = row * k + g * group;
        for (int64_t i = 0; i < group; i++) {
          numbers[i] = dtype == DType::f32 ? static_cast<const float*>(weights)[first + i]
                                           : std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(weights)[first + i]} << 16);
        }
        const uint16_t scale = best_scale(numbers.data(), group, bits);
        scales[row * groups + g] = scale;
        const float zero = static_cast<float>(1 << (bits - 1)), wide = from_half(scale);
        const float inverse = wide == 0 ? 0.0f : std::min(1 / std::fabs(wide), 0x1p100f) * (wide < 0 ? -1.0f : 1.0f);
        for (int64_t i = 0; i < group; i++) made[g * group + i] = static_cast<uint8_t>(rounded(numbers[i], inverse, zero) + zero);
      }
      if (bits == 8)
        std::copy(made.begin(), made.end(), codes + row * k);
      else
        for (int64_t i = 0; i < k / 2; i++) codes[row * (k / 2) + i] = static_cast<uint8_t>(made[2 * i] | made[2 * i + 1] << 4);
    }
  }
}

}  // namespace drystone
