#include "torch/layouts.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "torch/tensor.h"

namespace drystone::torch {

namespace {

void require(bool holds, const char* structure) {
  if (!holds) throw std::runtime_error(std::string("this torch lays out ") + structure + " otherwise than drystone knows");
}

template <class Function>
void require(Function& function, const char* structure, const char* name) {
  if (!find(function, name))
    throw std::runtime_error(std::string("this torch has no ") + name + ", which tells how it lays out " + structure);
}

bool equal(ArrayRef<int64_t> list, const std::vector<int64_t>& expected) {
  return list.size == expected.size() && std::equal(expected.begin(), expected.end(), list.data);
}

const std::vector<int64_t> sizes{2, 3}, strides{3, 1};

// at::Tensor is a pointer that all references to one tensor share.
void check_tensor(const Handle& tensor, const Handle& other) {
  constexpr const char* what = "a tensor";
  require(tensor.rank() == 2 && equal(tensor.sizes(), sizes) && equal(tensor.strides(), strides), what);
  require(tensor.dtype() == ScalarType::f32 && other.dtype() == ScalarType::f64 && tensor.numel() == 6 && tensor.has_memory(), what);
  Tensor* taken = nullptr;
  require(!shim().new_reference(tensor.get(), &taken), what);
  const Handle another(taken);
  require((*tensor).impl && (*tensor).impl == (*another).impl && (*tensor).impl != (*other).impl, what);
}

// Returned in two registers, as ours is. A larger one would be written where the first argument points and read from the second, which
// are the same here: that spoils the tensor, which is then left alone, but touches no other memory.
void check_array(Handle tensor) {
  constexpr const char* what = "an array";
  static_assert(std::is_trivially_copyable_v<ArrayRef<int64_t>> && sizeof(ArrayRef<int64_t>) == 16);
  ArrayRef<int64_t> (*sizes_of)(void* impl, void* same);
  require(sizes_of, what, "_ZNK3c1010TensorImpl12sizes_customEv");
  const int64_t* address = tensor.sizes().data;
  auto* kept = reinterpret_cast<Tensor*>(tensor.release());
  const ArrayRef<int64_t> read = sizes_of(kept->impl, kept->impl);
  require(read.data == address && read.size == sizes.size(), what);
  tensor = Handle(kept);
}

// Another kind of list would be read as an empty one, as its first two words are equal; of larger tensors, every other word.
void check_list(const Handle& tensor, const Handle& other) {
  constexpr const char* what = "a list of tensors";
  int8_t (*result_type)(TensorListRef list);
  require(result_type, what, "_ZN2at6native11result_typeEN3c108IListRefINS_6TensorEEE");
  std::vector<Tensor> list(8, *tensor);
  list[3].impl = (*other).impl;
  const auto promoted = [&](size_t size) -> int {
    try {
      return result_type({{list.data(), size}});
    } catch (const std::exception&) {  // there is no such kind of list
      return -1;
    }
  };
  require(promoted(4) == static_cast<int>(ScalarType::f64) && promoted(3) == static_cast<int>(ScalarType::f32), what);
}

}  // namespace

void check_layouts() {
  const Handle tensor = Handle::empty(ScalarType::f32, sizes, strides), other = Handle::empty(ScalarType::f64, sizes, strides);
  check_tensor(tensor, other);
  check_array(Handle::empty(ScalarType::f32, sizes, strides));
  check_list(tensor, other);
}

}  // namespace drystone::torch
