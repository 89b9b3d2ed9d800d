// A libtorch that lays out one structure otherwise: a library that stands before torch's own where names are looked up.
#include <cstddef>
#include <cstdint>
#include <exception>

namespace {
constexpr int64_t sizes[] = {2, 3};
[[maybe_unused]] constexpr int8_t undefined = 39, f32 = 6, f64 = 7;
}  // namespace

extern "C" {

#if defined(TENSOR_PER_REFERENCE)
int aoti_torch_new_tensor_handle(void*, void*** another) {
  static void *impl = nullptr, *tensor = &impl;
  *another = &tensor;
  return 0;
}
int aoti_torch_delete_tensor_object(void*) { return 0; }

#elif defined(ARRAY_SWAPPED) || defined(ARRAY_LARGER)
struct Array {
#if defined(ARRAY_SWAPPED)
  size_t size = 2;
  const int64_t* data = sizes;
#else
  const int64_t* data = sizes;
  size_t size = 2, capacity = 2;
#endif
};
Array _ZNK3c1010TensorImpl12sizes_customEv(void*) { return {}; }

#else
struct List {
  void** tensors;
  size_t size;
  int tag;
};
int8_t _ZN2at6native11result_typeEN3c108IListRefINS_6TensorEEE(List list) {
#if defined(LIST_REFUSED)
  throw std::exception();
#elif defined(LIST_OF_REFERENCES)  // begin and end are the first two words
  return list.tensors[0] == list.tensors[1] ? undefined : f64;
#elif defined(TENSOR_LARGER)
  for (size_t i = 0; i < list.size; i++)
    if (list.tensors[2 * i] != list.tensors[0]) return f64;
  return f32;
#endif
}
#endif
}
