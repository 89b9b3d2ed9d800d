// A mutex that a forked child finds free, whichever thread of its parent had it: fork() waits for that thread.
#pragma once

#include <mutex>

namespace drystone {

// Lives as long as the process. Who holds one takes no other.
class ForkableMutex {
 public:
  ForkableMutex();
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace drystone
