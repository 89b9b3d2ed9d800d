#pragma once

namespace drystone {

// While one lives, the parallel regions that its thread starts are looked at. Only regions of code in this library are, not oneDNN's.
class TeamWatch {
 public:
  TeamWatch();
  ~TeamWatch();
  TeamWatch(const TeamWatch&) = delete;
  // That of the calling thread, or null: the usual case costs one load.
  static TeamWatch* current();
  // A region of `threads` threads took `seconds`, in which they were busy for `busy` seconds together.
  void add(int threads, double seconds, double busy);
  // Seconds that a thread waited for others, in the mean, since this was asked last; below 0 where no region was seen.
  double take();

 private:
  TeamWatch* outer_;
  double idle_ = 0;
  int regions_ = 0;
};

}  // namespace drystone
