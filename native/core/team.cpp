#include "core/team.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace drystone {

static std::atomic<int> watches{0};
static thread_local TeamWatch* own = nullptr;

TeamWatch::TeamWatch() : outer_(std::exchange(own, this)) { watches++; }

TeamWatch::~TeamWatch() {
  own = outer_;
  watches--;
}

TeamWatch* TeamWatch::current() { return watches.load(std::memory_order_relaxed) ? own : nullptr; }

void TeamWatch::add(int threads, double seconds, double busy) {
  idle_ += std::max(0.0, seconds - busy / threads);
  regions_++;
}

double TeamWatch::take() {
  const double idle = regions_ ? idle_ : -1;
  idle_ = regions_ = 0;
  return idle;
}

}  // namespace drystone
