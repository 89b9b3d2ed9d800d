// A team of threads that computes one phase after the other, each of so many items that may run at once.
//
// Every thread has a share of the items, at each phase the same one, so that what these read stays in its caches. But no thread waits
// for another to come: who has done his own share takes what is left of the others', and a phase is over when its items are done. On a
// machine with other work, where the system takes threads from their cores, and may even set two of them on one, those that run go on
// alone.
#pragma once

#include <sched.h>

#include "kernels/block.h"
#include "kernels/recurrent.h"

namespace drystone::DRYSTONE_ISA {

class Team {
 public:
  // Memory that the team shares, zero before its threads begin.
  struct alignas(64) Line {
    uint64_t value;
  };
  static_assert(sizeof(Line) == recurrent_line_bytes);

  Team(void* lines, int rank, int size) : done(static_cast<Line*>(lines)), claimed(done + 1), rank(rank), size(size) {}

  // One phase: body(i) for each i of [0, count), by whichever thread; in falling order if `backwards`. All threads call it alike, and what
  // one wrote in a phase all read in the next.
  template <class F>
  void run(int64_t count, bool backwards, F&& body) {
    constexpr int patience = 30;  // some 0.5 us: another's items are in another's cache
    phase++;
    target += count;
    for (int i = 0; i < size && !is_over(i == 0 ? 0 : patience); i++) {
      const int owner = (rank + i) % size;
      const Range items = share(count, owner, size);
      uint64_t finished = 0;
      for (int64_t item; (item = claim(owner, items.end - items.begin)) >= 0; finished++)
        body(backwards ? items.end - 1 - item : items.begin + item);
      if (finished) __atomic_add_fetch(&done->value, finished, __ATOMIC_ACQ_REL);
    }
    while (!is_over(spins)) sched_yield();
  }

 private:
  static constexpr int spins = 400;  // some 6 us

  Line *done, *claimed;  // items in all; of each thread's share the phase, and in the lower half how many
  const int rank, size;
  uint64_t phase = 0, target = 0;

  bool is_over(int tries) const {
    for (int i = 0;; i++) {
      if (__atomic_load_n(&done->value, __ATOMIC_ACQUIRE) >= target) return true;
      if (i >= tries) return false;
      __builtin_ia32_pause();
    }
  }

  // The next of the `count` items of a share, or -1: all are taken, or the phase is over and the next one has begun.
  int64_t claim(int owner, int64_t count) {
    uint64_t* word = &claimed[owner].value;
    uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    for (;;) {
      const uint64_t taken = seen >> 32 == phase ? seen & 0xffffffff : 0;
      if (seen >> 32 > phase || static_cast<int64_t>(taken) >= count) return -1;
      const uint64_t next = (phase << 32) + taken + 1;
      if (__atomic_compare_exchange_n(word, &seen, next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return static_cast<int64_t>(taken);
    }
  }
};

}  // namespace drystone::DRYSTONE_ISA
