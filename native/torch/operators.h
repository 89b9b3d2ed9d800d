// The operators that drystone puts under torch's own names: how they get there, and how they are switched on and off.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "torch/tensor.h"

namespace drystone::torch {

// One operator. Its kernel takes the calls where it was measured to win, and hands all others to torch's own.
struct Operator {
  const char* family;     // the name it goes by for users, alone or with its out= variant and its gradient
  const char* name;       // of aten, with the overload: "topk", "index_select.out"
  const char* signature;  // what follows the name in its schema, for the same operator under drystone's name
  bool (*find)();         // looks up what it hands calls to; false where this torch has no such function
  BoxedKernel under_torchs_name, under_drystones_name;
  void* unboxed;          // the first for calls from C++, or null
  std::atomic<bool>* on;  // read by each call under torch's name
};

void enter(const Operator& op);

// An argument of a call from C++, as a word on the stack of Arguments.
template <class Type>
struct Lent {
  StableIValue word;
  explicit Lent(const Type& given) {
    if constexpr (std::is_integral_v<Type>) {
      word = static_cast<StableIValue>(given);
    } else if constexpr (std::is_floating_point_v<Type>) {
      word = std::bit_cast<StableIValue>(given);
    } else {
      static_assert(Arguments::borrows<Type>, "Arguments can't read it");
      word = reinterpret_cast<StableIValue>(&given);
    }
  }
};

// Of a number that has a type of its own.
template <class Enum>
  requires std::is_enum_v<Enum>
struct Lent<std::optional<Enum>> {
  std::optional<int64_t> number;
  StableIValue word = reinterpret_cast<StableIValue>(&number);
  explicit Lent(const std::optional<Enum>& given) {
    if (given) number = static_cast<int64_t>(*given);
  }
  Lent(const Lent&) = delete;
};

template <class Type>
bool can_be_lent(const Type&) {
  return true;
}
inline bool can_be_lent(const TensorListRef& list) { return list.tag == TensorListRef().tag; }

constexpr auto declines_nothing = [](const auto&...) { return false; };

// The kernel as a function of the arguments that torch's own kernel takes, which it hands calls to.
template <void (*kernel)(Arguments& arguments), auto* torchs, auto declines, class = std::remove_pointer_t<decltype(torchs)>>
class Unboxed;

template <void (*kernel)(Arguments& arguments), auto* torchs, auto declines, class Result, class... Types>
class Unboxed<kernel, torchs, declines, Result (*)(Types...)> {
 public:
  static inline std::atomic<bool>* on;

  static Result call(void* /* OperatorKernel */, uint64_t /* DispatchKeySet */, Types... given) {
    if (!on->load(std::memory_order_relaxed) || !(can_be_lent(given) && ...) || declines(given...)) return (*torchs)(given...);
    const std::tuple<Lent<std::remove_cvref_t<Types>>...> lent(given...);
    StableIValue stack[std::max<size_t>(sizeof...(Types), most_results)];
    std::apply([&](const auto&... each) { put(stack, each.word...); }, lent);
    Arguments arguments(stack, true, Arguments::Stack::borrowed);
    kernel(arguments);
    if constexpr (std::is_reference_v<Result>)
      return std::get<sizeof...(Types) - 1>(std::forward_as_tuple(given...));
    else
      return returned(stack, static_cast<Result*>(nullptr));
  }

 private:
  static constexpr size_t most_results = 4;

  template <class... Words>
  static void put(StableIValue* place, Words... words) {
    ((*place++ = words), ...);
  }

  static Tensor tensor(StableIValue word) {
    Tensor tensor;
    tensor.impl = reinterpret_cast<void*>(word);
    return tensor;
  }
  static Tensor returned(const StableIValue* stack, Tensor*) { return tensor(*stack); }
  template <class... Tensors>
  static std::tuple<Tensors...> returned(const StableIValue* stack, std::tuple<Tensors...>*) {
    static_assert(sizeof...(Tensors) <= most_results);
    return [&]<size_t... i>(std::index_sequence<i...>) {
      return std::tuple<Tensors...>(tensor(stack[i])...);
    }(std::index_sequence_for<Tensors...>());
  }
};

// Enters an operator into the list of all as the core is loaded: each file here defines its own. By kernel: torch hands it no data.
// `torchs`: the pointer to torch's own kernel, which takes what the operator does; calls from C++ then come without a stack of torch's,
// which takes longer than a small call. `declines`: of these calls, by what torch's kernel is given and before anything is read for ours,
// whether it is one that ours would not serve; calls on a stack and of drystone's name are not asked about.
template <void (*kernel)(Arguments& arguments), auto* torchs = static_cast<void**>(nullptr), auto declines = declines_nothing>
class Entry {
 public:
  Entry(const char* family, const char* name, const char* signature, bool (*find)()) {
    void* unboxed = nullptr;
    if constexpr (!std::is_same_v<decltype(torchs), void**>) {
      Unboxed<kernel, torchs, declines>::on = &on;
      unboxed = reinterpret_cast<void*>(Unboxed<kernel, torchs, declines>::call);
    }
    enter({family, name, signature, find, under_torchs_name, under_drystones_name, unboxed, &on});
  }

 private:
  static void under_torchs_name(StableIValue* stack, uint64_t, uint64_t) {
    Arguments arguments(stack, on.load(std::memory_order_relaxed));
    kernel(arguments);
  }

  static void under_drystones_name(StableIValue* stack, uint64_t, uint64_t) {
    Arguments arguments(stack, true);
    kernel(arguments);
  }

  static inline std::atomic<bool> on;
};

// All families, in alphabetical order.
std::vector<std::string> operator_names();

// Makes torch.ops.drystone.NAME of all operators that this torch can have. Once in a process.
void define_operators();

// A family under torch's own names, for CPU tensors, switched off. Twice is as once. Gives those of it that this torch can't have.
//
// It stays until the process ends. torch's table of kernels has no lock: a call that runs while its kernel is taken away reads freed
// memory. One that runs while a kernel is added finds torch's or the new one, as torch keeps those that were there.
std::vector<std::string> replace(const std::string& family);
// Just these families compute from now on; the calls of all others go to torch's own kernels. Beside any calls.
void switch_on(const std::vector<std::string>& families);
// The operators under torch's own names that C++ calls without a stack.
std::vector<std::string> unboxed_operators();
bool is_on(const std::string& family);

}  // namespace drystone::torch
