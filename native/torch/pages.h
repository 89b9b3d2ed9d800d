// Memory of large tensors, used again instead of given back to the system.
//
// The C library returns blocks of more than 32 MB to the system at every free, so each new result is paid for in page faults (0.25 us for
// each 4 KB: longer than it takes to write them). While this is on, torch's large CPU tensors come from blocks that earlier ones left.
#pragma once

#include <cstddef>
#include <cstdint>

namespace drystone::torch {

struct PageState {
  bool on;
  int64_t kept, limit;    // bytes in blocks that wait for use, and their bound
  int64_t reused, fresh;  // large allocations so far
};

// False where this torch's allocator is not the one this code knows.
bool can_keep_pages();
// At most `limit` bytes wait for use; the oldest go first. Only where pages can be kept.
void keep_pages(int64_t limit);
// torch's own allocator again, and what waited is freed. Tensors that live keep their memory.
void release_pages();
PageState page_state();

}  // namespace drystone::torch
