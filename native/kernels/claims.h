// Items that threads share out as they go: each takes its own part, run by run, then the runs that are left of the others'. A thread that
// started late, or that waits longer for memory, does less.
#pragma once

#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

class Claims {
 public:
  // How far a part is, on a cache line of its own.
  struct alignas(64) Line {
    int64_t next;
  };

  // `lines`: one a part.
  Claims(Line* lines, int64_t items, int64_t run, int64_t parts) : lines_(lines), items_(items), run_(run), parts_(parts) {
    for (int64_t i = 0; i < parts; i++) lines[i].next = share(items, i, parts).begin;
  }

  // The next run for the thread of part `own`, empty if none are left. What threads write for their items is theirs alone, so nothing
  // need be ordered.
  Range take(int64_t own) const {
    for (int64_t i = 0; i < parts_; i++) {
      const int64_t part = (own + i) % parts_, end = share(items_, part, parts_).end;
      int64_t* next = &lines_[part].next;
      if (__atomic_load_n(next, __ATOMIC_RELAXED) >= end) continue;
      const int64_t begin = __atomic_fetch_add(next, run_, __ATOMIC_RELAXED);
      if (begin < end) return {begin, least(end, begin + run_)};
    }
    return {0, 0};
  }

 private:
  Line* lines_;
  int64_t items_, run_, parts_;
};

}  // namespace drystone::DRYSTONE_ISA
