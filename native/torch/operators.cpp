#include "torch/operators.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <set>
#include <stdexcept>
#include <utility>

#include "torch/forkable_mutex.h"

namespace drystone::torch {

extern const Operator avg_pool3d, max_pool3d;
extern const Operator batch_norm;
extern const Operator cat, cat_out;
extern const Operator clone;
extern const Operator convolution, convolution_backward;
extern const Operator embedding, embedding_dense_backward;
extern const Operator embedding_bag, embedding_bag_forward_only, embedding_bag_dense_backward;
extern const Operator gelu, sigmoid, silu, tanh;
extern const Operator index_select, index_select_out;
extern const Operator layer_norm, softmax;
extern const Operator mm;
extern const Operator topk;

namespace {

const Operator* const operators[] = {
    &avg_pool3d,
    &batch_norm,
    &cat,
    &cat_out,
    &clone,
    &convolution,
    &convolution_backward,
    &embedding,
    &embedding_dense_backward,
    &embedding_bag,
    &embedding_bag_forward_only,
    &embedding_bag_dense_backward,
    &gelu,
    &sigmoid,
    &silu,
    &tanh,
    &index_select,
    &index_select_out,
    &layer_norm,
    &max_pool3d,
    &softmax,
    &mm,
    &topk,
};

// The conventions by which torch fills the stack: those of 2.10, the first torch with lists.
constexpr uint64_t shim_version = (uint64_t{2} << 56) | (uint64_t{10} << 48);

constexpr size_t count = std::size(operators);

ForkableMutex guard;
std::set<std::string> replaced;  // by name
bool defined = false;
std::atomic<bool> on[count];  // read by each call

// What torch calls under its own name, and under drystone's. By place in the table: torch hands a kernel no data of its own.
template <size_t place>
void under_torchs_name(StableIValue* stack, uint64_t, uint64_t) {
  Arguments arguments(stack, on[place].load(std::memory_order_relaxed));
  operators[place]->kernel(arguments);
}

template <size_t place>
void under_drystones_name(StableIValue* stack, uint64_t, uint64_t) {
  Arguments arguments(stack, true);
  operators[place]->kernel(arguments);
}

struct Registered {
  BoxedKernel torchs, drystones;
};

template <size_t... places>
constexpr std::array<Registered, count> registered_of(std::index_sequence<places...>) {
  return {{{under_torchs_name<places>, under_drystones_name<places>}...}};
}
constexpr std::array<Registered, count> registered = registered_of(std::make_index_sequence<count>());

// Places in the table.
std::vector<size_t> members(const std::string& family) {
  std::vector<size_t> found;
  for (size_t place = 0; place < count; place++)
    if (family == operators[place]->family) found.push_back(place);
  if (found.empty()) throw std::invalid_argument("drystone has no operator " + family);
  return found;
}

// Registers one kernel; false where this torch can't have it.
bool register_kernel(size_t place) {
  const Operator& op = *operators[place];
  if (replaced.count(op.name)) return true;
  void* library;
  if (!op.find() || shim().init_impl("aten", "CPU", __FILE__, __LINE__, &library)) return false;
  if (shim().impl(library, op.name, registered[place].torchs, shim_version)) {
    shim().delete_library(library);
    return false;
  }
  replaced.insert(op.name);
  return true;
}

void check(int error, const std::string& what) {
  if (error) throw std::runtime_error("torch refused to register " + what);
}

}  // namespace

std::vector<std::string> operator_names() {
  std::set<std::string> families;
  for (const Operator* op : operators) families.insert(op->family);
  return {families.begin(), families.end()};
}

void define_operators() {
  std::lock_guard lock(guard);
  if (defined) return;
  void *definitions, *kernels;  // kept until the process ends, as torch's own are
  check(shim().init_def("drystone", __FILE__, __LINE__, &definitions), "drystone's operators");
  check(shim().init_impl("drystone", "CPU", __FILE__, __LINE__, &kernels), "drystone's kernels");
  for (size_t place = 0; place < count; place++) {
    const Operator* op = operators[place];
    if (!op->find()) continue;
    check(shim().def(definitions, (std::string(op->name) + op->signature).c_str()), op->name);
    check(shim().impl(kernels, op->name, registered[place].drystones, shim_version), op->name);
  }
  defined = true;
}

std::vector<std::string> replace(const std::string& family) {
  std::lock_guard lock(guard);
  std::vector<std::string> missing;
  for (const size_t place : members(family))
    if (!register_kernel(place)) missing.push_back(operators[place]->name);
  return missing;
}

void switch_on(const std::vector<std::string>& families) {
  std::lock_guard lock(guard);
  for (size_t place = 0; place < count; place++) {
    const Operator& op = *operators[place];
    on[place] = replaced.count(op.name) && std::find(families.begin(), families.end(), op.family) != families.end();
  }
}

bool is_on(const std::string& family) {
  for (const size_t place : members(family))
    if (on[place]) return true;
  return false;
}

}  // namespace drystone::torch
