// Plans of calls: steps that are made once for all calls of the same problem, and run on memory of torch's.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "core/forkable_mutex.h"
#include "onednn/onednn.h"
#include "steps/guard.h"
#include "torch/tensor.h"

namespace drystone::torch {

inline Handle memory_of(int64_t bytes) { return Handle::empty(ScalarType::u8, {std::max<int64_t>(bytes, 1)}); }

// operands: of the slots; null for those that this step does not have.
void run_step(const Step& step, std::initializer_list<const void*> operands, int threads);

// A plan of one step, which the problem makes.
template <class OfStep>
class StepPlan {
 public:
  using Problem = OfStep;
  explicit StepPlan(const Problem& problem) : step_(problem.make_step()) {}
  void run(std::initializer_list<const void*> operands) const { run_step(*step_, operands, shim().threads()); }

 private:
  std::shared_ptr<const Step> step_;
};

template <class Plan>
struct KeptPlans {
  ForkableMutex guard;
  std::list<std::pair<typename Plan::Problem, std::shared_ptr<const Plan>>> entries;  // the last used first
};
// Not made at the first call: a process that forks meanwhile would leave its child with half a mutex.
template <class Plan>
inline KeptPlans<Plan> kept_plans;

// The plan of one of the last problems; null where no step serves it.
template <class Plan>
std::shared_ptr<const Plan> plan_of(const typename Plan::Problem& problem) {
  constexpr size_t kept = 128;
  auto& [guard, entries] = kept_plans<Plan>;
  {
    std::lock_guard lock(guard);
    for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
      if (entry->first != problem) continue;
      entries.splice(entries.begin(), entries, entry);
      return entry->second;
    }
  }
  std::shared_ptr<const Plan> plan;
  try {
    plan = std::make_shared<Plan>(problem);
  } catch (const std::invalid_argument&) {
  } catch (const dnnl::error&) {
  }
  std::lock_guard lock(guard);
  entries.emplace_front(problem, plan);
  if (entries.size() > kept) entries.pop_back();
  return plan;
}

template <class Problem>
std::shared_ptr<const StepPlan<Problem>> step_of(const Problem& problem) {
  return plan_of<StepPlan<Problem>>(problem);
}

}  // namespace drystone::torch
