#include "torch/libtorch.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "torch/layouts.h"
#include "torch/tensor.h"

namespace drystone::torch {

namespace {

void* library = nullptr;
Shim found{};

template <class Function>
void require(Function& function, const char* name) {
  if (!find(function, name)) throw std::runtime_error(std::string("this torch has no ") + name + "; torch 2.10 is the first that has all");
}

}  // namespace

std::optional<DType> dtype_of(ScalarType dtype) {
  switch (dtype) {
#define DTYPE(name, ...) \
  case ScalarType::name: return DType::name;
    DRYSTONE_DTYPES(DTYPE)
#undef DTYPE
  }
  return {};
}

int64_t size_of(ScalarType dtype) {
  const auto known = dtype_of(dtype);
  return known ? size_of(*known) : 0;
}

void* find(const char* mangled_name) { return library ? dlsym(library, mangled_name) : nullptr; }

const Shim& shim() { return found; }

void find_libtorch(const char* path) {
  if (library) return;
  library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);  // torch has been imported; libc10.so is found through it
  if (!library) throw std::runtime_error(std::string("torch has not loaded ") + path);
  try {
    require(found.init_impl, "aoti_torch_library_init_impl");
    require(found.init_def, "aoti_torch_library_init_def");
    require(found.def, "aoti_torch_library_def");
    require(found.impl, "torch_library_impl");
    require(found.delete_library, "aoti_torch_delete_library_object");
    require(found.list_size, "torch_list_size");
    require(found.list_get, "torch_list_get_item");
    require(found.delete_list, "torch_delete_list");
    require(found.string_data, "torch_string_c_str");
    require(found.delete_string, "torch_delete_string");
    require(found.new_tensor, "aoti_torch_new_uninitialized_tensor");
    require(found.delete_tensor, "aoti_torch_delete_tensor_object");
    require(found.new_reference, "aoti_torch_new_tensor_handle");
    require(found.empty_strided, "aoti_torch_empty_strided");
    require(found.get_data, "aoti_torch_get_data_ptr");
    require(found.get_storage_offset, "aoti_torch_get_storage_offset");
    require(found.get_storage_size, "aoti_torch_get_storage_size");
    require(found.get_dim, "aoti_torch_get_dim");
    require(found.get_sizes, "aoti_torch_get_sizes");
    require(found.get_strides, "aoti_torch_get_strides");
    require(found.get_dtype, "aoti_torch_get_dtype");
    require(found.get_numel, "aoti_torch_get_numel");
    require(found.threads, "_ZN2at15get_num_threadsEv");
    check_layouts();
    find_undefined();
  } catch (...) {
    library = nullptr;
    throw;
  }
}

}  // namespace drystone::torch
