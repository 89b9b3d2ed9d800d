#include "core/program.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <stdexcept>

#include "core/team.h"

namespace drystone {

void Program::add(std::shared_ptr<const Step> step, std::vector<uint32_t> slots, bool exact) {
  for (uint32_t slot : slots) slot_count_ = std::max(slot_count_, slot + 1);
  calls_.push_back({std::move(step), std::move(slots), exact});
}

int64_t Program::scratchpad_bytes() const {
  int64_t most = 0;
  for (const Call& call : calls_) most = std::max(most, call.step->scratchpad_bytes);
  return most;
}

Frame::Frame(std::shared_ptr<const Program> program, std::vector<void*> addresses, std::vector<External> externals, void* scratchpad,
             int threads)
    : program_(std::move(program)),
      addresses_(std::move(addresses)),
      externals_(std::move(externals)),
      scratchpad_(static_cast<std::byte*>(scratchpad)),
      threads_(threads) {
  if (addresses_.size() < program_->slot_count()) throw std::invalid_argument("a frame needs an address for each slot of its program");
  for (const External& external : externals_)
    if (external.slot >= addresses_.size()) throw std::invalid_argument("an external slot that the program does not have");
  size_t most = 0;
  for (const auto& call : program_->calls_) {
    states_.push_back(call.step->make_state());
    most = std::max(most, call.slots.size());
  }
  operands_.resize(most);
}

void Frame::bind(const std::vector<uintptr_t>& arguments) {
  suspect_ = false;
  for (const External& external : externals_)
    addresses_[external.slot] = reinterpret_cast<std::byte*>(arguments.at(external.argument)) + external.offset;
}

void Frame::run_step(size_t index) {
  const auto& call = program_->calls_[index];
  for (size_t i = 0; i < call.slots.size(); i++) operands_[i] = addresses_[call.slots[i]];
  call.step->run({operands_.data(), scratchpad_, threads_, call.exact || suspect_, &suspect_}, states_[index].get());
}

// OpenMP's thread count belongs to the calling thread: a new Python thread starts with the process's default.
static void set_threads(int threads) {
  if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
}

void Frame::run(size_t begin, size_t end) {
  set_threads(threads_);
  for (size_t i = begin; i < std::min(end, program_->size()); i++) run_step(i);
}

std::vector<double> Frame::run_timed(size_t begin, size_t end, std::vector<double>* idle) {
  std::optional<TeamWatch> watch;
  if (idle) watch.emplace();
  using Clock = std::chrono::steady_clock;
  set_threads(threads_);
  std::vector<double> seconds;
  auto before = Clock::now();
  for (size_t i = begin; i < std::min(end, program_->size()); i++) {
    run_step(i);
    const auto now = Clock::now();
    seconds.push_back(std::chrono::duration<double>(now - before).count());
    if (watch) idle->push_back(watch->take());
    before = now;
  }
  return seconds;
}

}  // namespace drystone
