#include "torch/thresholds.h"

#include <array>
#include <atomic>
#include <iterator>
#include <stdexcept>

#include "core/isa.h"

namespace drystone::torch {

namespace {

constexpr const auto& rows = threshold_rows;
constexpr size_t count = std::size(rows);

constexpr bool rows_are_in_order() {
  for (size_t i = 0; i < count; i++)
    if (static_cast<size_t>(rows[i].which) != i) return false;
  return count == static_cast<size_t>(Threshold::count);
}
static_assert(rows_are_in_order(), "each threshold has its row");

struct InForce {
  std::array<std::atomic<int64_t>, count> figures;

  InForce() {
    const Level cpu = level();
    for (size_t i = 0; i < count; i++) figures[i] = cpu == Level::amx ? rows[i].amx : cpu == Level::avx512 ? rows[i].avx512 : rows[i].avx2;
  }
};

std::atomic<int64_t>& in_force(size_t place) {
  static InForce chosen;
  return chosen.figures[place];
}

}  // namespace

int64_t threshold(Threshold which) { return in_force(static_cast<size_t>(which)).load(std::memory_order_relaxed); }

void set_threshold(const std::string& name, int64_t value) {
  for (size_t i = 0; i < count; i++) {
    if (name != rows[i].name) continue;
    in_force(i) = value;
    return;
  }
  throw std::invalid_argument("drystone has no threshold " + name);
}

}  // namespace drystone::torch
