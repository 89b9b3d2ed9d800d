#include "torch/tensor.h"

#include <bit>
#include <memory>
#include <stdexcept>

#include "torch/memory_format.h"

namespace drystone::torch {

namespace {

thread_local int64_t served = 0;
void* nothing = nullptr;  // what all undefined tensors are: one, which nobody owns

void check(int error, const char* what) {
  if (error) throw std::runtime_error(std::string("torch could not ") + what);
}

}  // namespace

void find_undefined() { nothing = (*Handle::undefined()).impl; }

Handle Handle::borrowed(const Tensor& tensor) {
  Handle handle(const_cast<Tensor*>(&tensor));
  handle.is_borrowed_ = true;
  return handle;
}

Tensor Handle::take() && {
  const Tensor taken = *tensor_;
  tensor_->impl = nothing;
  return taken;
}

Handle Handle::of(Tensor returned) {
  Tensor* tensor;
  check(shim().new_tensor(&tensor), "make a tensor");
  tensor->impl = returned.impl;
  return Handle(tensor);
}

Handle Handle::undefined() {
  Tensor* tensor;
  check(shim().new_tensor(&tensor), "make a tensor");
  return Handle(tensor);
}

Handle Handle::empty(ScalarType dtype, const std::vector<int64_t>& sizes) {
  return empty(dtype, sizes, strides_of(sizes, Format::contiguous));
}

Handle Handle::empty(ScalarType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  constexpr int cpu = 0, any_index = -1;
  Tensor* tensor;
  if (shim().empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), static_cast<int32_t>(dtype), cpu, any_index,
                           &tensor))
    throw std::bad_alloc();
  Handle made(tensor);
  made.has_memory_ = true;
  return made;
}

ScalarType Handle::dtype() const {
  int32_t dtype;
  check(shim().get_dtype(tensor_, &dtype), "tell a dtype");
  return static_cast<ScalarType>(dtype);
}

int64_t Handle::rank() const {
  int64_t rank;
  check(shim().get_dim(tensor_, &rank), "tell a rank");
  return rank;
}

ArrayRef<int64_t> Handle::sizes() const {
  int64_t* sizes;
  check(shim().get_sizes(tensor_, &sizes), "tell sizes");
  return {sizes, static_cast<size_t>(rank())};
}

ArrayRef<int64_t> Handle::strides() const {
  int64_t* strides;
  check(shim().get_strides(tensor_, &strides), "tell strides");
  return {strides, static_cast<size_t>(rank())};
}

int64_t Handle::numel() const {
  int64_t numel;
  check(shim().get_numel(tensor_, &numel), "tell the number of elements");
  return numel;
}

void* Handle::data() const {
  if (!has_memory_ && !has_memory()) throw NoMemory();
  return address();
}

void* Handle::address() const {
  void* data;
  check(shim().get_data(tensor_, &data), "tell an address");
  return data;
}

bool Handle::has_memory() const {
  const auto sizes = this->sizes(), strides = this->strides();
  int64_t last = 0;  // fits, as torch has counted it
  for (size_t axis = 0; axis < sizes.size; axis++) {
    if (sizes.data[axis] == 0) return true;
    last += (sizes.data[axis] - 1) * strides.data[axis];
  }
  const int64_t width = size_of(dtype());
  int64_t offset, bytes;
  if (!width) return true;  // of a dtype that is torch's
  check(shim().get_storage_offset(tensor_, &offset), "tell where a tensor begins");
  check(shim().get_storage_size(tensor_, &bytes), "tell the size of a storage");
  return (offset + last + 1) * width <= bytes && reinterpret_cast<intptr_t>(address()) != offset * width;
}

bool Handle::is_contiguous() const {
  const auto sizes = this->sizes(), strides = this->strides();
  int64_t stride = 1;
  for (size_t axis = sizes.size; axis-- > 0;) {
    if (sizes.data[axis] != 1 && strides.data[axis] != stride) return false;
    stride *= sizes.data[axis];
  }
  return true;
}

bool Handle::is_dense() const {
  const auto sizes = this->sizes(), strides = this->strides();
  int64_t stride = 1;
  uint64_t seen = 0;  // axes, by bit
  for (size_t found = 0; found < sizes.size; found++) {
    size_t axis = 0;
    while (axis < sizes.size && ((seen >> axis & 1) || (sizes.data[axis] != 1 && strides.data[axis] != stride))) axis++;
    if (axis == sizes.size) return false;
    seen |= uint64_t{1} << axis;
    stride *= sizes.data[axis];
  }
  return true;
}

int64_t calls_served() { return served; }

void Arguments::count_served() { served++; }

Handle Arguments::tensor() { return is_borrowed_ ? Handle::borrowed(borrowed<Tensor>()) : Handle(reinterpret_cast<Tensor*>(*next_++)); }

double Arguments::real() { return std::bit_cast<double>(*next_++); }

std::string Arguments::string() {
  if (is_borrowed_) return std::string(borrowed<std::string_view>());
  void* string = reinterpret_cast<void*>(*next_++);
  const char* characters;
  check(shim().string_data(string, &characters), "read a string");
  std::string copy(characters);
  shim().delete_string(string);
  return copy;
}

Handle Arguments::optional_tensor() {
  Handle tensor;
  if (is_borrowed_) {
    if (const auto& given = borrowed<OptionalTensor>()) tensor = Handle::borrowed(*given);
  } else if (const std::unique_ptr<StableIValue> boxed(reinterpret_cast<StableIValue*>(*next_++)); boxed) {
    tensor = Handle(reinterpret_cast<Tensor*>(*boxed));
  }
  return tensor && (*tensor).impl != nothing ? std::move(tensor) : Handle();
}

std::optional<int64_t> Arguments::optional_integer() {
  if (is_borrowed_) return borrowed<std::optional<int64_t>>();
  const std::unique_ptr<StableIValue> boxed(reinterpret_cast<StableIValue*>(*next_++));
  return boxed ? std::optional(static_cast<int64_t>(*boxed)) : std::nullopt;
}

// take(item) for each item of a list, which is released.
template <class Take>
static void read_list(StableIValue argument, const Take& take) {
  void* list = reinterpret_cast<void*>(argument);
  size_t size;
  check(shim().list_size(list, &size), "tell the length of a list");
  for (size_t i = 0; i < size; ++i) {
    StableIValue item;
    check(shim().list_get(list, i, &item), "read a list");
    take(item);
  }
  shim().delete_list(list);
}

std::vector<Handle> Arguments::tensors() {
  std::vector<Handle> tensors;
  if (is_borrowed_) {
    const ArrayRef<Tensor>& list = borrowed<TensorListRef>().tensors;
    tensors.reserve(list.size);
    for (size_t i = 0; i < list.size; i++) tensors.push_back(Handle::borrowed(list.data[i]));
    return tensors;
  }
  read_list(*next_++, [&](StableIValue item) { tensors.emplace_back(reinterpret_cast<Tensor*>(item)); });
  return tensors;
}

static std::vector<int64_t> integers_of(StableIValue argument) {
  std::vector<int64_t> integers;
  integers.reserve(4);
  read_list(argument, [&](StableIValue item) { integers.push_back(static_cast<int64_t>(item)); });
  return integers;
}

std::vector<int64_t> Arguments::integers() {
  if (!is_borrowed_) return integers_of(*next_++);
  const auto& list = borrowed<Integers>();
  return {list.data, list.data + list.size};
}

std::vector<bool> Arguments::booleans() {
  std::vector<bool> booleans;
  read_list(*next_++, [&](StableIValue item) { booleans.push_back((item & 1) != 0); });
  return booleans;
}

std::optional<std::vector<int64_t>> Arguments::optional_integers() {
  auto* boxed = reinterpret_cast<StableIValue*>(*next_++);
  if (!boxed) return {};
  const std::optional<std::vector<int64_t>> integers = integers_of(*boxed);
  delete boxed;
  return integers;
}

}  // namespace drystone::torch
