#include "steps/grouped_strips.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/isa.h"
#include "kernels/gemm.h"
#include "steps/kernel_step.h"

namespace drystone {

// The one that holds a row (of the weights, so a column of the strip): [group] of scales, minima, words [word of k][column].
struct GroupedStrips::Strip {
  int64_t first, columns, width, offset;
};

GroupedStrips::GroupedStrips(int64_t n, int64_t k, const Groups& kind) : kind(kind), n(n), k(k), lanes(vector_lanes()) {
  require_kernels();
  strip = gemm_tile(GemmArithmetic::f32, static_cast<int>(lanes)).vectors * lanes;
  const std::string groups = "groups of " + std::to_string(kind.group);
  if (n < 1 || k < 1 || n > INT32_MAX || k > INT32_MAX)
    throw std::invalid_argument("weights in groups have 1 to 2^31 - 1 rows and columns");
  if (kind.bits != 4 && kind.bits != 8) throw std::invalid_argument("weights have codes of 4 or 8 bits");
  if (kind.dtype != DType::f16 && kind.dtype != DType::f32) throw std::invalid_argument("scales are f16 or f32");
  if (kind.bits == 4 && k % 2) throw std::invalid_argument("codes of 4 bits have an even K");
  if (kind.group < 1 || k % kind.group) throw std::invalid_argument(groups + " do not divide K = " + std::to_string(k));
  if (kind.group < k && kind.group % kind.unit())
    throw std::invalid_argument(groups + " are no multiple of " + std::to_string(kind.unit()));
}

GroupedStrips::Strip GroupedStrips::at(int64_t row) const {
  const int64_t first = row / strip * strip, columns = std::min(strip, n - first);
  return {first, columns, (columns + lanes - 1) / lanes * lanes, first * (k / kind.group) * kind.column_bytes()};
}

int64_t GroupedStrips::packed_bytes() const {
  const Strip last = at(n - 1);
  return last.offset + last.width * (k / kind.group) * kind.column_bytes();
}

std::string GroupedStrips::packed_key() const {
  return "groups" + std::to_string(kind.bits) + (kind.minima ? "+" : "") + ";" + std::to_string(kind.group) + name_of(kind.dtype) + ";" +
         std::to_string(strip) + ";" + std::to_string(n) + "," + std::to_string(k);
}

void GroupedStrips::pack(const void* codes, const void* scales, const void* minima, void* packed) const {
  if (!minima == kind.minima) throw std::invalid_argument(kind.minima ? "minima are missing" : "these weights have no minima");
  const int64_t groups = k / kind.group, number = size_of(kind.dtype), unit = kind.unit();
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < n; first += strip) {
    const Strip in = at(first);
    std::byte* to = static_cast<std::byte*>(packed) + in.offset;
    std::memset(to, 0, in.width * groups * kind.column_bytes());
    for (int64_t g = 0; g < groups; g++, to += in.width * kind.column_bytes()) {
      for (int64_t c = 0; c < in.columns; c++) {
        const int64_t row = first + c, begin = row * k + g * kind.group;
        std::memcpy(to + c * number, static_cast<const std::byte*>(scales) + (row * groups + g) * number, number);
        if (minima) std::memcpy(to + (in.width + c) * number, static_cast<const std::byte*>(minima) + (row * groups + g) * number, number);
        const auto* from = static_cast<const uint8_t*>(codes);
        for (int64_t word = 0; word < kind.words(); word++) {
          uint32_t bits = 0;
          for (int64_t i = 0; i < std::min(unit, kind.group - word * unit); i++) {
            const int64_t at = begin + word * unit + i;
            const uint32_t code = kind.bits == 8 ? from[at] : from[at / 2] >> at % 2 * 4 & 15;
            bits |= code << group_bit(kind.bits, static_cast<int>(i));
          }
          std::memcpy(to + in.width * kind.header_bytes() + (word * in.width + c) * 4, &bits, 4);
        }
      }
    }
  }
}

void GroupedStrips::decode(const std::byte* packed, int64_t row, float* to) const {
  const Strip in = at(row);
  const int64_t column = row - in.first, unit = kind.unit();
  const auto number = [&](const std::byte* from) {
    if (kind.dtype == DType::f16) {
      uint16_t half;
      std::memcpy(&half, from, sizeof half);
      return from_half(half);
    }
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  const std::byte* group = packed + in.offset;
  for (int64_t begin = 0; begin < k; begin += kind.group, group += in.width * kind.column_bytes()) {
    const float scale = number(group + column * size_of(kind.dtype));
    const float least = kind.minima ? number(group + (in.width + column) * size_of(kind.dtype)) : 0.0f;
    const float zero = kind.minima ? 0.0f : kind.zero();
    const std::byte* words = group + in.width * kind.header_bytes() + column * 4;
    for (int64_t at = 0; at < kind.group; at += unit, words += in.width * 4) {
      uint32_t word;
      std::memcpy(&word, words, sizeof word);
      for (int64_t i = 0; i < std::min(unit, kind.group - at); i++) {
        const uint32_t code = word >> group_bit(kind.bits, static_cast<int>(i)) & ((1u << kind.bits) - 1);
        to[begin + at + i] = scale * (static_cast<float>(code) - zero) + least;
      }
    }
  }
}

}  // namespace drystone
