#include "torch/operators.h"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "core/forkable_mutex.h"
#include "torch/dispatch_table.h"

namespace drystone::torch {

namespace {

// The conventions by which torch fills the stack: those of 2.10, the first torch with lists.
constexpr uint64_t shim_version = (uint64_t{2} << 56) | (uint64_t{10} << 48);

ForkableMutex guard;
std::set<std::string> replaced, unboxed;  // by name
bool defined = false;

std::vector<Operator>& operators() {
  static std::vector<Operator> list;
  return list;
}

std::vector<Operator> members(const std::string& family) {
  std::vector<Operator> found;
  for (const Operator& op : operators())
    if (family == op.family) found.push_back(op);
  if (found.empty()) throw std::invalid_argument("drystone has no operator " + family);
  return found;
}

// Registers one kernel; false where this torch can't have it.
bool register_kernel(const Operator& op) {
  if (replaced.count(op.name)) return true;
  void* library;
  if (!op.find() || shim().init_impl("aten", "CPU", __FILE__, __LINE__, &library)) return false;
  const std::optional<DispatchTable> table = op.unboxed ? std::optional(DispatchTable(op.name)) : std::nullopt;
  if (shim().impl(library, op.name, op.under_torchs_name, shim_version)) {
    shim().delete_library(library);
    return false;
  }
  if (table && table->set_unboxed(op.under_torchs_name, op.unboxed)) unboxed.insert(op.name);
  replaced.insert(op.name);
  return true;
}

void check(int error, const std::string& what) {
  if (error) throw std::runtime_error("torch refused to register " + what);
}

}  // namespace

void enter(const Operator& op) { operators().push_back(op); }

std::vector<std::string> operator_names() {
  std::set<std::string> families;
  for (const Operator& op : operators()) families.insert(op.family);
  return {families.begin(), families.end()};
}

void define_operators() {
  std::lock_guard lock(guard);
  if (defined) return;
  void *definitions, *kernels;  // kept until the process ends, as torch's own are
  check(shim().init_def("drystone", __FILE__, __LINE__, &definitions), "drystone's operators");
  check(shim().init_impl("drystone", "CPU", __FILE__, __LINE__, &kernels), "drystone's kernels");
  for (const Operator& op : operators()) {
    if (!op.find()) continue;
    check(shim().def(definitions, (std::string(op.name) + op.signature).c_str()), op.name);
    check(shim().impl(kernels, op.name, op.under_drystones_name, shim_version), op.name);
  }
  defined = true;
}

std::vector<std::string> replace(const std::string& family) {
  std::lock_guard lock(guard);
  std::vector<std::string> missing;
  for (const Operator& op : members(family))
    if (!register_kernel(op)) missing.emplace_back(op.name);
  return missing;
}

void switch_on(const std::vector<std::string>& families) {
  std::lock_guard lock(guard);
  for (const Operator& op : operators())
    *op.on = replaced.count(op.name) && std::find(families.begin(), families.end(), op.family) != families.end();
}

std::vector<std::string> unboxed_operators() {
  std::lock_guard lock(guard);
  return {unboxed.begin(), unboxed.end()};
}

bool is_on(const std::string& family) {
  for (const Operator& op : members(family))
    if (*op.on) return true;
  return false;
}

}  // namespace drystone::torch
