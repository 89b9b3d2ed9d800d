// A program is a flat list of steps over numbered slots; a frame is the memory of one call in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace drystone {

// What a step sees while it runs: its own slots in the order in which it was added, scratch memory, the thread count.
struct Run {
  void* const* slots;
  std::byte* scratchpad;
  int threads;
  bool exact = false;       // operands may hold NaN, infinities, or numbers so large that sums of them overflow
  bool* suspect = nullptr;  // where a guard says that it has seen one: the steps of the call after it run exact
};

// What a step keeps for each frame (oneDNN memory handles, say), so that calls in flight do not share it.
struct StepState {
  virtual ~StepState() = default;
};

// One kernel with everything decided: shapes, formats, packed weights. Immutable once made, shared by programs and threads.
class Step {
 public:
  virtual ~Step() = default;
  virtual std::unique_ptr<StepState> make_state() const { return nullptr; }
  virtual void run(const Run& run, StepState* state) const = 0;

  int64_t scratchpad_bytes = 0;
  std::string implementation;  // as explain() shows it
};

class Program {
 public:
  // Slots are the indices of the step's operands in the order in which its maker documents them. exact: in every call.
  void add(std::shared_ptr<const Step> step, std::vector<uint32_t> slots, bool exact = false);
  size_t size() const { return calls_.size(); }
  int64_t scratchpad_bytes() const;
  uint32_t slot_count() const { return slot_count_; }

 private:
  friend class Frame;
  struct Call {
    std::shared_ptr<const Step> step;
    std::vector<uint32_t> slots;
    bool exact;
  };
  std::vector<Call> calls_;
  uint32_t slot_count_ = 0;
};

class Frame {
 public:
  // A slot whose address is new at each call: that of argument `argument` (inputs, then outputs) plus an offset.
  struct External {
    uint32_t slot, argument;
    int64_t offset;
  };
  // addresses: one a slot, null for external ones. The program and all memory outlive the frame.
  Frame(std::shared_ptr<const Program> program, std::vector<void*> addresses, std::vector<External> externals, void* scratchpad,
        int threads);
  Frame(const Frame&) = delete;
  // A call begins.
  void bind(const std::vector<uintptr_t>& arguments);
  void run(size_t begin, size_t end);
  // Seconds of each step in [begin, end). idle: is given those that its threads waited for each other, as TeamWatch::take has them.
  std::vector<double> run_timed(size_t begin, size_t end, std::vector<double>* idle = nullptr);

 private:
  void run_step(size_t index);
  std::shared_ptr<const Program> program_;
  std::vector<void*> addresses_;
  std::vector<External> externals_;
  std::vector<std::unique_ptr<StepState>> states_;
  std::vector<void*> operands_;
  std::byte* scratchpad_;
  int threads_;
  bool suspect_ = false;
};

}  // namespace drystone
