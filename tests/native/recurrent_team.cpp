// The team of threads of recurrent layers, alone, under ThreadSanitizer, which does not see OpenMP's barriers: `make sanitize`.
//
// Every item of a phase reads all that the phase before wrote. Threads end a phase by nothing but the team's own counters.
#include "kernels/recurrent_team.h"

#include <cstdio>
#include <thread>
#include <vector>

#include "kernels/recurrent.h"

namespace {

using drystone::DRYSTONE_ISA::Team;
using Numbers = std::vector<int64_t>;

constexpr int phases = 3000;

int64_t next(const Numbers& from, int64_t item) {
  int64_t sum = item;
  for (int64_t value : from) sum += value;
  return sum % 1'000'003;
}

Numbers by_team(int size, int64_t count) {
  std::vector<Team::Line> lines(size + 1);
  Numbers even(count, 1), odd(count);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; rank++) {
    threads.emplace_back([&, rank] {
      Team team(lines.data(), rank, size);
      for (int phase = 0; phase < phases; phase++) {
        const Numbers& from = phase % 2 ? odd : even;
        Numbers& to = phase % 2 ? even : odd;
        team.run(count, phase % 3 == 0, [&](int64_t item) { to[item] = next(from, item); });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return even;
}

Numbers alone(int64_t count) {
  Numbers now(count, 1), then(count);
  for (int phase = 0; phase < phases; phase++) {
    for (int64_t item = 0; item < count; item++) then[item] = next(now, item);
    now.swap(then);
  }
  return now;
}

}  // namespace

int main() {
  for (int size : {1, 2, 3, 4, 7}) {
    for (int64_t count : {1, 2, 3, 5, 16, 33}) {
      if (by_team(size, count) == alone(count)) continue;
      std::printf("a team of %d is wrong about %lld items\n", size, static_cast<long long>(count));
      return 1;
    }
  }
}
