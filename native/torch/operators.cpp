#include "torch/operators.h"

#include <map>
#include <mutex>
#include <stdexcept>

namespace drystone::torch {

extern const Operator embedding, gelu, layer_norm, sigmoid, silu, softmax, tanh;
extern const Operator cat, cat_out, embedding_dense_backward, index_select, index_select_out;
extern const Operator embedding_bag, embedding_bag_forward_only, embedding_bag_dense_backward;

namespace {

const Operator* const operators[] = {
    &embedding,
    &gelu,
    &layer_norm,
    &sigmoid,
    &silu,
    &softmax,
    &tanh,  //
    &cat,
    &cat_out,
    &embedding_dense_backward,
    &index_select,
    &index_select_out,
    &embedding_bag,
    &embedding_bag_forward_only,
    &embedding_bag_dense_backward,
};

// The conventions by which torch fills the stack: those of 2.10, the first torch with lists.
constexpr uint64_t shim_version = (uint64_t{2} << 56) | (uint64_t{10} << 48);

std::mutex guard;
std::map<std::string, void*> replaced;  // by name, what torch knows the registration by
bool defined = false;

const Operator& named(const std::string& name) {
  for (const Operator* op : operators)
    if (name == op->name) return *op;
  throw std::invalid_argument("drystone has no operator " + name);
}

void check(int error, const std::string& what) {
  if (error) throw std::runtime_error("torch refused to register " + what);
}

}  // namespace

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const Operator* op : operators) names.push_back(op->name);
  return names;
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

bool replace(const std::string& name) {
  std::lock_guard lock(guard);
  const Operator& op = named(name);
  if (replaced.count(name)) return true;
  if (!op.find()) return false;
  void* library;
  check(shim().init_impl("aten", "CPU", __FILE__, __LINE__, &library), name);
  if (shim().impl(library, op.name, op.kernel, shim_version)) {
    shim().delete_library(library);
    return false;
  }
  replaced[name] = library;
  return true;
}

void restore(const std::string& name) {
  std::lock_guard lock(guard);
  const auto entry = replaced.find(name);
  if (entry == replaced.end()) return;
  shim().delete_library(entry->second);
  replaced.erase(entry);
}

bool is_replaced(const std::string& name) {
  std::lock_guard lock(guard);
  return replaced.count(name) != 0;
}

}  // namespace drystone::torch
