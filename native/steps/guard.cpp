#include "steps/guard.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "steps/axes.h"
#include "steps/kernel_step.h"

namespace drystone {

Guard::Guard(const TensorDesc& desc, float limit) {
  require_kernels();
  implementation = kernel_name("guard");
  check_operand(desc, "a guarded tensor");
  if (desc.has_padding()) throw std::invalid_argument("a guarded tensor (" + desc.str() + ") has padded channels");
  const Physical lies = physical(desc);
  std::vector<Axis> axes;
  for (size_t i = 0; i < lies.sizes.size(); i++)
    if (lies.strides[i] != 0 || lies.sizes[i] == 0) axes.push_back({lies.sizes[i], {lies.strides[i]}});
  std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.strides[0] > b.strides[0]; });
  axes = collapse(axes);
  if (axes.empty() || axes.back().strides[0] != 1) axes.push_back({1, {1}});
  if (axes.size() > guard_max_axes + 1) throw std::invalid_argument("a guarded tensor (" + desc.str() + ") needs too many axes");
  args_.dtype = desc.dtype;
  args_.limit = limit;
  args_.columns = axes.back().size;
  args_.rows = 1;
  for (size_t i = 0; i + 1 < axes.size(); i++) {
    args_.sizes[args_.axes] = axes[i].size;
    args_.strides[args_.axes++] = axes[i].strides[0];
    args_.rows *= axes[i].size;
  }
}

void Guard::run(const Run& run, StepState*) const {
  if (run.exact || run.suspect == nullptr || args_.rows * args_.columns == 0) return;
  GuardArgs args = args_;
  args.data = run.slots[0];
  args.threads = threads_for(args.rows * args.columns / 4, run.threads);
  if (kernels()->guard(args)) *run.suspect = true;
}

bool all_finite(const void* data, DType dtype, int64_t count, int threads) {
  const GuardArgs args = {data, dtype, 0, {}, {}, 1, count, std::numeric_limits<float>::max(), threads};
  return !kernels()->guard(args);
}

}  // namespace drystone
