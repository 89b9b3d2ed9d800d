#include "torch/operators.h"

#include <map>
#include <set>
#include <stdexcept>

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

ForkableMutex guard;
std::map<std::string, void*> replaced;  // by name, what torch knows the registration by
bool defined = false;

std::vector<const Operator*> members(const std::string& family) {
  std::vector<const Operator*> found;
  for (const Operator* op : operators)
    if (family == op->family) found.push_back(op);
  if (found.empty()) throw std::invalid_argument("drystone has no operator " + family);
  return found;
}

// Registers one kernel; false where this torch can't have it.
bool register_kernel(const Operator& op) {
  if (replaced.count(op.name)) return true;
  void* library;
  if (!op.find() || shim().init_impl("aten", "CPU", __FILE__, __LINE__, &library)) return false;
  if (shim().impl(library, op.name, op.kernel, shim_version)) {
    shim().delete_library(library);
    return false;
  }
  replaced[op.name] = library;
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
  for (const Operator* op : operators) {
    if (!op->find()) continue;
    check(shim().def(definitions, (std::string(op->name) + op->signature).c_str()), op->name);
    check(shim().impl(kernels, op->name, op->kernel, shim_version), op->name);
  }
  defined = true;
}

std::vector<std::string> replace(const std::string& family) {
  std::lock_guard lock(guard);
  std::vector<std::string> missing;
  for (const Operator* op : members(family))
    if (!register_kernel(*op)) missing.push_back(op->name);
  return missing;
}

void restore(const std::string& family) {
  std::lock_guard lock(guard);
  for (const Operator* op : members(family)) {
    const auto entry = replaced.find(op->name);
    if (entry == replaced.end()) continue;
    shim().delete_library(entry->second);
    replaced.erase(entry);
  }
}

bool is_replaced(const std::string& family) {
  std::lock_guard lock(guard);
  for (const Operator* op : members(family))
    if (replaced.count(op->name)) return true;
  return false;
}

}  // namespace drystone::torch
