#include "torch/pages.h"

#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <new>

#include "core/forkable_mutex.h"
#include "torch/libtorch.h"

namespace drystone::torch {

// c10::DataPtr and c10::Allocator, member by member and virtual function by virtual function. (Not in the unnamed namespace: the
// compiler would believe that it sees every class derived from it, and call Pages's functions for torch's.)
struct DataPtr {
  void* data;
  std::unique_ptr<void, void (*)(void*)> context;
  int8_t device, index;
};

struct Allocator {
  virtual ~Allocator() = default;
  virtual DataPtr allocate(size_t bytes) = 0;
  virtual bool is_simple_data_ptr(const DataPtr& pointer) const = 0;
  virtual void (*raw_deleter() const)(void*) = 0;
  virtual void copy_data(void* to, const void* from, size_t bytes) const = 0;
};

namespace {

constexpr size_t vtable_bytes = 8 * sizeof(void*);  // offset, type, two destructors, four functions

// Below that the C library keeps what is freed, after its first return, and hands it out warmer than a pool does.
constexpr size_t least_bytes = 1 << 24;
constexpr size_t page = 4096, least_huge_bytes = 4 << 20;

constexpr int64_t bytes_that_may_wait = INT64_MAX;  // as the pool's limit has it

// Blocks are the C library's, as torch's own are: each can be freed by the other's means, whoever allocated it, and when.
size_t size_of(void* block) { return malloc_usable_size(block); }

// Blocks have few sizes, four to a power of two, so that a tensor that grows from call to call (keys and values of a text that is being
// written) finds the block of the one before. What is never written costs no memory.
size_t size_class(size_t bytes) {
  const size_t step = std::bit_floor(bytes) / 4;
  return (bytes + step - 1) / step * step;
}

class Pool {
 public:
  // Never destroyed: tensors may outlive all else.
  static Pool& only() {
    static Pool* pool = new Pool;
    return *pool;
  }

  void* take(size_t bytes) {
    {
      std::lock_guard lock(guard_);
      // The smallest that serves; one that would waste a quarter does not.
      auto best = waiting_.end();
      for (auto block = waiting_.begin(); block != waiting_.end(); ++block)
        if (size_of(*block) >= bytes && size_of(*block) <= bytes + bytes / 4 &&
            (best == waiting_.end() || size_of(*block) < size_of(*best)))
          best = block;
      if (best != waiting_.end()) {
        void* block = *best;
        waiting_.erase(best);
        state_.kept -= static_cast<int64_t>(size_of(block));
        ++state_.reused;
        return block;
      }
      ++state_.fresh;
    }
    const size_t whole = size_class(bytes);
    void* block = std::aligned_alloc(page, whole);
    if (!block) {
      drop(0);
      block = std::aligned_alloc(page, whole);
    }
    if (block && whole >= least_huge_bytes) madvise(block, whole, MADV_HUGEPAGE);
    return block;
  }

  void give(void* block) {
    const auto bytes = static_cast<int64_t>(size_of(block));
    bool kept = false;
    {
      std::lock_guard lock(guard_);
      // One that is larger than all that may wait would push out the others, and itself.
      if (bytes >= static_cast<int64_t>(least_bytes) && bytes <= state_.limit) {
        waiting_.push_front(block);
        state_.kept += bytes;
        kept = true;
      }
    }
    if (!kept) return std::free(block);
    drop(bytes_that_may_wait);
  }

  // Frees the blocks that have waited longest, until at most `limit` bytes wait, and no more than may.
  void drop(int64_t limit) {
    std::list<void*> dropped;
    {
      std::lock_guard lock(guard_);
      while (state_.kept > std::min(limit, state_.limit)) {
        state_.kept -= static_cast<int64_t>(size_of(waiting_.back()));
        dropped.splice(dropped.end(), waiting_, std::prev(waiting_.end()));
      }
    }
    for (void* block : dropped) std::free(block);
  }

  void turn(bool on, int64_t limit) {
    {
      std::lock_guard lock(guard_);
      state_.on = on;
      state_.limit = limit;
    }
    drop(bytes_that_may_wait);
  }

  PageState state() {
    std::lock_guard lock(guard_);
    return state_;
  }

 private:
  ForkableMutex guard_;
  std::list<void*> waiting_;  // the latest first
  PageState state_{};
};

void give(void* block) {
  if (block) Pool::only().give(block);
}

// Large blocks from the pool, all else from torch's own allocator.
class Pages final : public Allocator {
 public:
  explicit Pages(Allocator* own) : own_(own) {}
  DataPtr allocate(size_t bytes) override {
    if (bytes >= least_bytes)
      if (void* data = Pool::only().take(bytes)) return {data, {data, &give}, 0, -1};
    return own_->allocate(bytes);  // which says what it lacks, where memory is out
  }
  bool is_simple_data_ptr(const DataPtr& pointer) const override { return pointer.data == pointer.context.get(); }
  // For those who carry bare pointers (oneDNN within torch does), from either allocator.
  void (*raw_deleter() const)(void*) override { return &give; }
  void copy_data(void* to, const void* from, size_t bytes) const override { own_->copy_data(to, from, bytes); }

 private:
  Allocator* own_;
};

struct Hook {
  void (*set)(Allocator* allocator, uint8_t priority);
  Allocator* own;
  Pages* pages;
};

// Whether a block of torch's allocator is what DataPtr makes of it: on the CPU, and freed as raw_deleter() says.
bool is_as_known(Allocator* own) {
  const DataPtr block = own->allocate(64);
  return block.data && block.data == block.context.get() && block.device == 0 && block.index == -1 && own->is_simple_data_ptr(block) &&
         own->raw_deleter() == block.context.get_deleter();
}

// Null where torch's allocator is not the one that Allocator mirrors: told by the size of its table of virtual functions, and by a block.
Hook* find_hook() {
  static Hook* hook = []() -> Hook* {
    auto* get = reinterpret_cast<Allocator* (*)()>(find("_ZN3c1022GetDefaultCPUAllocatorEv"));
    auto* set = reinterpret_cast<void (*)(Allocator*, uint8_t)>(find("_ZN3c1015SetCPUAllocatorEPNS_9AllocatorEh"));
    void* table = find("_ZTVN3c1019DefaultCPUAllocatorE");
    Dl_info info;
    ElfW(Sym)* symbol = nullptr;
    if (!get || !set || !table || !dladdr1(table, &info, reinterpret_cast<void**>(&symbol), RTLD_DL_SYMENT) || !symbol ||
        symbol->st_size != vtable_bytes || !is_as_known(get()))
      return nullptr;
    return new Hook{set, get(), new Pages(get())};
  }();
  return hook;
}

constexpr uint8_t priority = 0;  // as torch's own, so that whoever sets an allocator of more weight keeps it

}  // namespace

bool can_keep_pages() { return find_hook() != nullptr; }

void keep_pages(int64_t limit) {
  Hook* hook = find_hook();
  if (!hook) return;
  Pool::only().turn(true, limit);
  hook->set(hook->pages, priority);
}

void release_pages() {
  if (!Pool::only().state().on) return;
  Hook* hook = find_hook();
  hook->set(hook->own, priority);
  Pool::only().turn(false, 0);
}

PageState page_state() { return Pool::only().state(); }

}  // namespace drystone::torch
