#include "core/forkable_mutex.h"

#include <pthread.h>

#include <vector>

namespace drystone {

namespace {

// Never destroyed: processes fork until their end.
struct All {
  std::mutex guard;
  std::vector<ForkableMutex*> mutexes;

  static All& only() {
    static All* all = new All;
    return *all;
  }

  static void lock() {
    only().guard.lock();
    for (ForkableMutex* mutex : only().mutexes) mutex->lock();
  }
  static void unlock() {
    for (ForkableMutex* mutex : only().mutexes) mutex->unlock();
    only().guard.unlock();
  }
};

}  // namespace

ForkableMutex::ForkableMutex() {
  static const int registered = pthread_atfork(&All::lock, &All::unlock, &All::unlock);
  static_cast<void>(registered);
  std::lock_guard lock(All::only().guard);
  All::only().mutexes.push_back(this);
}

}  // namespace drystone
