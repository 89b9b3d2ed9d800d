// Where GCC's code starts a parallel region and waits in one: the linker has GNU OpenMP's two entries go through here (--wrap), so that
// no kernel needs a line for it.
#include "core/team.h"

#include <omp.h>

#include <chrono>
#include <vector>

extern "C" {
void __real_GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
void __real_GOMP_barrier();
}

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// A cache line a thread.
struct alignas(64) Busy {
  double seconds = 0;
};

struct Region {
  void (*body)(void*);
  void* data;
  std::vector<Busy> busy;
};

// Of this thread in the region: seconds in barriers. Null outside of one that is looked at.
thread_local double* waited = nullptr;

void run_watched(void* given) {
  auto& region = *static_cast<Region*>(given);
  double in_barriers = 0;
  waited = &in_barriers;
  const auto begin = Clock::now();
  region.body(region.data);
  waited = nullptr;
  region.busy[omp_get_thread_num()].seconds = since(begin) - in_barriers;
}

}  // namespace

extern "C" {

void __wrap_GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) {
  auto* watch = drystone::TeamWatch::current();
  // Within a region this is another one, of threads that the outer one accounts for. A single thread waits for none.
  if (!watch || waited || threads == 1) return __real_GOMP_parallel(body, data, threads, flags);
  Region region{body, data, std::vector<Busy>(threads ? threads : omp_get_max_threads())};
  const auto begin = Clock::now();
  __real_GOMP_parallel(run_watched, &region, threads, flags);
  const double seconds = since(begin);
  double busy = 0;
  for (const Busy& each : region.busy) busy += each.seconds;
  watch->add(static_cast<int>(region.busy.size()), seconds, busy);
}

void __wrap_GOMP_barrier() {
  if (!waited) return __real_GOMP_barrier();
  const auto begin = Clock::now();
  __real_GOMP_barrier();
  *waited += since(begin);
}

}  // extern "C"
