// The tensors that a registered kernel is called with, and those that it returns.
#pragma once

#include <array>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "torch/libtorch.h"

namespace drystone::torch {

// As torch's functions take lists of integers.
using Integers = ArrayRef<int64_t>;
inline Integers ref(const std::vector<int64_t>& list) { return {list.data(), list.size()}; }
inline std::vector<int64_t> dims_of(Integers list) { return {list.data, list.data + list.size}; }

// Thrown for the address of a tensor that has no memory for all of its elements: its storage was freed or shrunk, or it is of a subclass
// that keeps its data elsewhere.
struct NoMemory {};

// A reference to a tensor of torch; owned, unless it is borrowed.
class Handle {
 public:
  Handle() = default;
  explicit Handle(Tensor* taken) : tensor_(taken) {}
  Handle(Handle&& other) noexcept
      : tensor_(std::exchange(other.tensor_, nullptr)), is_borrowed_(other.is_borrowed_), has_memory_(other.has_memory_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(tensor_, other.tensor_);
    std::swap(is_borrowed_, other.is_borrowed_);
    std::swap(has_memory_, other.has_memory_);
    return *this;
  }
  ~Handle() {
    if (tensor_ && !is_borrowed_) shim().delete_tensor(tensor_);
  }
  // One that outlives it.
  static Handle borrowed(const Tensor& tensor);
  // What a C++ function of libtorch returned.
  static Handle of(Tensor returned);
  // The tensor that stands for none among results.
  static Handle undefined();
  // New memory, not initialised; `strides` in elements, dense and row-major where left out. Throws std::bad_alloc.
  static Handle empty(ScalarType dtype, const std::vector<int64_t>& sizes);
  static Handle empty(ScalarType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides);

  explicit operator bool() const { return tensor_ != nullptr; }
  const Tensor& operator*() const { return *tensor_; }
  Tensor* get() const { return tensor_; }
  StableIValue release() { return reinterpret_cast<StableIValue>(std::exchange(tensor_, nullptr)); }
  Tensor take() &&;  // as a C++ function returns it; of a handle that owns it

  ScalarType dtype() const;
  ArrayRef<int64_t> sizes() const;
  ArrayRef<int64_t> strides() const;  // in elements
  int64_t rank() const;
  int64_t numel() const;
  void* data() const;  // throws NoMemory
  bool has_memory() const;
  bool is_contiguous() const;
  bool is_dense() const;  // in some order of its axes: the elements fill their memory, each once

 private:
  void* address() const;

  Tensor* tensor_ = nullptr;
  bool is_borrowed_ = false;
  bool has_memory_ = false;  // as is known of new memory
};

// What undefined tensors are told by, and made of; once libtorch is found, before any call.
void find_undefined();

// As torch's functions take an argument that may be None, which an empty handle stands for.
inline OptionalTensor optional(const Handle& tensor) { return tensor ? OptionalTensor(*tensor) : std::nullopt; }

// Null for an empty handle.
inline void* data_of(const Handle& tensor) { return tensor ? tensor.data() : nullptr; }

// What an operator of several results makes, in the order of the schema, an empty handle for one that is not asked for; or nothing.
template <size_t N>
using Results = std::optional<std::array<Handle, N>>;

template <class... Handles>
Results<sizeof...(Handles)> results(Handles&&... made) {
  return std::array<Handle, sizeof...(Handles)>{std::move(made)...};
}

// What C++ functions of libtorch returned.
inline Handle owned(Tensor returned) { return Handle::of(returned); }
template <class... Tensors>
Results<sizeof...(Tensors)> owned(const std::tuple<Tensors...>& returned) {
  return std::apply([](const auto&... tensors) { return results(Handle::of(tensors)...); }, returned);
}

template <class Type, class... Types>
constexpr bool is_one_of = (std::is_same_v<Type, Types> || ...);

// The calls that drystone's kernels have served on this thread: results are too much like torch's to tell.
int64_t calls_served();

// One call of a registered kernel. Its arguments lie on a stack, in the order of the schema; each is read once. The results take their
// place. On the shim's stack arguments are owned from then on, and results are handles. On that of a call from C++ (operators.h) arguments
// are borrowed: a tensor, list, string or optional is the address of that of the caller. Results are what at::Tensor holds.
class Arguments {
 public:
  enum class Stack { shim, borrowed };
  template <class Type>
  static constexpr bool borrows =
      is_one_of<Type, Tensor, OptionalTensor, TensorListRef, Integers, std::string_view, std::optional<int64_t>>;
  // Not `on`: the operator is switched off, and torch's own kernel computes it.
  Arguments(StableIValue* stack, bool on, Stack kind = Stack::shim)
      : stack_(stack), next_(stack), serves_(on), is_borrowed_(kind == Stack::borrowed) {}
  Arguments(const Arguments&) = delete;
  Handle tensor();
  Handle optional_tensor();  // an empty handle for None, and for the undefined tensor that C++ hands on for it
  std::vector<Handle> tensors();
  int64_t integer() { return static_cast<int64_t>(*next_++); }
  std::optional<int64_t> optional_integer();
  bool boolean() { return (*next_++ & 1) != 0; }
  double real();
  std::string string();
  std::vector<int64_t> integers();
  std::optional<std::vector<int64_t>> optional_integers();
  std::vector<bool> booleans();

  // Once all arguments are read: gives back what `ours` makes, a Handle or Results, or what `torchs`, torch's own kernel, returns where
  // that is nothing. So it is where the operator is switched off, a step refuses the call, a tensor has no memory, or there is none for
  // results (torch says how much it lacks).
  template <class Ours, class Torchs>
  void answer(const Ours& ours, const Torchs& torchs) {
    if (auto made = attempt(ours))
      give_back(made);
    else
      hand_on(torchs());
  }

  // The same for an operator that writes to `out`: `ours` says whether it did.
  template <class Ours, class Torchs>
  void answer_into(Handle& out, const Ours& ours, const Torchs& torchs) {
    if (!attempt(ours)) torchs();
    if (!is_borrowed_) give_back(out);
  }

 private:
  static void count_served();

  template <class Make>
  auto attempt(const Make& make) const -> decltype(make()) {
    if (!serves_) return {};
    try {
      auto made = make();
      if (made) count_served();
      return made;
    } catch (const std::bad_alloc&) {
      return {};
    } catch (const std::invalid_argument&) {
      return {};
    } catch (const NoMemory&) {
      return {};
    }
  }

  template <class Type>
  const Type& borrowed() {
    return *reinterpret_cast<const Type*>(*next_++);
  }

  // What C++ functions of libtorch returned.
  template <class Returned>
  void hand_on(const Returned& returned) {
    if (is_borrowed_) {
      hand_on_as_it_is(returned);
    } else {
      auto made = owned(returned);
      give_back(made);
    }
  }
  void hand_on_as_it_is(const Tensor& returned) { *stack_ = reinterpret_cast<StableIValue>(returned.impl); }
  template <class... Tensors>
  void hand_on_as_it_is(const std::tuple<Tensors...>& returned) {
    StableIValue* place = stack_;
    std::apply([&](const auto&... tensors) { ((*place++ = reinterpret_cast<StableIValue>(tensors.impl)), ...); }, returned);
  }

  void give_back(Handle& result, size_t place = 0) {
    stack_[place] = is_borrowed_ ? reinterpret_cast<StableIValue>(std::move(result).take().impl) : result.release();
  }
  template <size_t N>
  void give_back(Results<N>& results) {
    for (size_t i = 0; i < N; i++) {
      Handle& result = (*results)[i];
      if (!result) result = Handle::undefined();
      give_back(result, i);
    }
  }

  StableIValue *stack_, *next_;
  bool serves_, is_borrowed_;
};

}  // namespace drystone::torch
