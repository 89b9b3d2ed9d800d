// libtorch, found at run time: drystone is not linked against it, so that one build serves every torch.
//
// Two kinds of functions are looked up by name. torch's stable C shim (torch/csrc/stable/c/shim.h) registers kernels and knows
// tensors; its handles are `at::Tensor*`. The C++ functions of torch's own CPU kernels (at::cpu::topk, say) take the calls that
// ours do not serve, and throw what torch throws. A mangled name holds the types of the arguments: where they change, the name is
// not found, and the operator is left to torch. How torch lays out what they take and give is checked when it is found (layouts.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/dtype.h"

namespace drystone::torch {

// An argument or a result of a registered kernel: the bits of an integer, a bool or a double; a handle; null for None.
using StableIValue = uint64_t;
using BoxedKernel = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);

// at::Tensor: one pointer, which its destructor releases. This one does not; it is there so that it is returned as at::Tensor is.
struct Tensor {
  void* impl = nullptr;
  Tensor() = default;
  Tensor(const Tensor& other) : impl(other.impl) {}
  ~Tensor() {}
};

// c10::ArrayRef
template <class T>
struct ArrayRef {
  const T* data;
  size_t size;
};

// c10::IListRef<at::Tensor> over an array.
struct TensorListRef {
  ArrayRef<Tensor> tensors;
  int tag = 0;
};

using OptionalTensor = std::optional<Tensor>;

// torch's ScalarType, whose numbers never change; it has others beside these.
enum class ScalarType : int32_t {
#define DTYPE(name, size, numbers, torch_name, code) name = code,
  DRYSTONE_DTYPES(DTYPE)
#undef DTYPE
};
std::optional<DType> dtype_of(ScalarType dtype);  // nothing for complex, quantised and eight-bit floats, which are torch's
int64_t size_of(ScalarType dtype);                // 0 for these

struct Shim {
  int (*init_impl)(const char* space, const char* key, const char* file, uint32_t line, void** library);
  int (*init_def)(const char* space, const char* file, uint32_t line, void** library);
  int (*def)(void* library, const char* schema);
  int (*impl)(void* library, const char* name, BoxedKernel kernel, uint64_t version);
  int (*delete_library)(void* library);
  int (*list_size)(void* list, size_t* size);
  int (*list_get)(void* list, size_t index, StableIValue* item);
  int (*delete_list)(void* list);
  int (*string_data)(void* string, const char** characters);
  int (*delete_string)(void* string);
  int (*new_tensor)(Tensor** tensor);
  int (*delete_tensor)(Tensor* tensor);
  int (*new_reference)(Tensor* tensor, Tensor** another);
  int (*empty_strided)(int64_t rank, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device, int32_t index,
                       Tensor** tensor);
  int (*get_data)(Tensor* tensor, void** data);
  int (*get_storage_offset)(Tensor* tensor, int64_t* offset);  // in elements
  int (*get_storage_size)(Tensor* tensor, int64_t* bytes);
  int (*get_dim)(Tensor* tensor, int64_t* rank);
  int (*get_sizes)(Tensor* tensor, int64_t** sizes);
  int (*get_strides)(Tensor* tensor, int64_t** strides);
  int (*get_dtype)(Tensor* tensor, int32_t* dtype);
  int (*get_numel)(Tensor* tensor, int64_t* numel);
  int (*threads)();  // at::get_num_threads
};

// Throws std::runtime_error, which names the first function that this torch lacks, or the first structure that differs. `path` is that of
// libtorch_cpu.so.
void find_libtorch(const char* path);
const Shim& shim();

// The address of a function of libtorch, or null.
void* find(const char* mangled_name);

// The same into a pointer to it; false where there is none.
template <class Function>
bool find(Function& function, const char* mangled_name) {
  function = reinterpret_cast<Function>(find(mangled_name));
  return function != nullptr;
}

}  // namespace drystone::torch
