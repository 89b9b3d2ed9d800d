// The dtypes of tensors: this list is the only one. What core, kernels, torch's operators and Python know of a dtype is read off it.
#pragma once

#include <cstdint>

namespace drystone {

// What graphs compute with a dtype: floats in float32, integers and truth values as they are; what is moved only is torch's to compute.
enum class Numbers : uint8_t { floats, integers, moved };

// Enumerator, bytes, numbers, torch's name, its code in torch (ScalarType).
#define DRYSTONE_DTYPES(DTYPE)            \
  DTYPE(f32, 4, floats, "float32", 6)     \
  DTYPE(bf16, 2, floats, "bfloat16", 15)  \
  DTYPE(s64, 8, integers, "int64", 4)     \
  DTYPE(s32, 4, integers, "int32", 3)     \
  DTYPE(s16, 2, integers, "int16", 2)     \
  DTYPE(s8, 1, integers, "int8", 1)       \
  DTYPE(u8, 1, integers, "uint8", 0)      \
  DTYPE(boolean, 1, integers, "bool", 11) \
  DTYPE(f64, 8, moved, "float64", 7)      \
  DTYPE(f16, 2, moved, "float16", 5)

enum class DType : uint8_t {
#define DTYPE(name, ...) name,
  DRYSTONE_DTYPES(DTYPE)
#undef DTYPE
};

struct DTypeFacts {
  DType dtype;
  const char* name;
  int64_t size;  // bytes
  Numbers numbers;
  const char* torch_name;
};

inline constexpr DTypeFacts dtypes[] = {
#define DTYPE(name, size, numbers, torch_name, code) {DType::name, #name, size, Numbers::numbers, torch_name},
    DRYSTONE_DTYPES(DTYPE)
#undef DTYPE
};

constexpr const DTypeFacts& facts_of(DType dtype) { return dtypes[static_cast<int>(dtype)]; }
// log2 of the sizes, two bits each: kernels ask at each run of elements, which would feel a look at the table.
inline constexpr uint64_t dtype_shifts = [] {
  uint64_t shifts = 0;
  for (const DTypeFacts& facts : dtypes) shifts |= uint64_t(__builtin_ctzll(facts.size)) << 2 * static_cast<int>(facts.dtype);
  return shifts;
}();
constexpr int64_t size_of(DType dtype) { return int64_t{1} << (dtype_shifts >> 2 * static_cast<int>(dtype) & 3); }
constexpr const char* name_of(DType dtype) { return facts_of(dtype).name; }
constexpr bool is_float(DType dtype) { return facts_of(dtype).numbers == Numbers::floats; }

}  // namespace drystone
