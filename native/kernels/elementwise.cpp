// One elementwise operation on integers, truth values and floats: comparisons, logic, integer arithmetic, choice, conversion.
//
// In each operand's own dtype, so that ids of 64 bits stay exact. Blocks of 1024 elements of the innermost axis: an operand that
// is no contiguous run (broadcast, strided) is first laid out in a buffer, then each operation is one vectorised loop.
#include "kernels/elementwise.h"

#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t block_elements = 1024;

template <class To>
struct Converted {
  template <class From>
  static To of(From x) {
    return static_cast<To>(number(x));
  }
};
template <>
struct Converted<bool> {
  template <class From>
  static bool of(From x) {
    return number(x) != 0;
  }
};
template <>
struct Converted<Brief> {
  template <class From>
  static Brief of(From x) {
    return {to_bf16(static_cast<float>(number(x)))};
  }
};

template <class T>
const T* fetch(T* buffer, const ElementwiseArgs& args, int operand, int64_t offset, int64_t count) {
  const int64_t stride = args.strides[operand][args.axes - 1];
  const T* from = static_cast<const T*>(args.inputs[operand]) + offset;
  if (stride == 1) return from;
  for (int64_t i = 0; i < count; i++) buffer[i] = from[i * stride];
  return buffer;
}

// Calls body(offsets of the inputs and the output, elements) for every block.
template <class Body>
void each_block(const ElementwiseArgs& args, Body body) {
  const int last = args.axes - 1;
  const int64_t columns = args.sizes[last], blocks = ceil_div(columns, block_elements);
  int64_t rows = 1;
  for (int i = 0; i < last; i++) rows *= args.sizes[i];
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < rows * blocks; item++) {
    const int64_t column = item % blocks * block_elements;
    int64_t offsets[4], row = item / blocks;
    for (int operand = 0; operand < 4; operand++) offsets[operand] = column * args.strides[operand][last];
    for (int i = last - 1; i >= 0; i--) {
      const int64_t index = row % args.sizes[i];
      row /= args.sizes[i];
      for (int operand = 0; operand < 4; operand++) offsets[operand] += index * args.strides[operand][i];
    }
    body(offsets, least(block_elements, columns - column));
  }
}

// fill(to) writes the block's results to contiguous memory: where they belong, or a buffer that is then spread.
template <class T, class Fill>
void put(const ElementwiseArgs& args, int64_t offset, int64_t count, Fill fill) {
  const int64_t stride = args.strides[3][args.axes - 1];
  T* to = static_cast<T*>(args.output) + offset;
  if (stride == 1 || count == 1) return fill(to);
  T buffer[block_elements];
  fill(buffer);
  for (int64_t i = 0; i < count; i++) to[i * stride] = buffer[i];
}

template <class In, class Out, class F>
void unary(const ElementwiseArgs& args, F f) {
  each_block(args, [&](const int64_t* offsets, int64_t count) {
    In a_buffer[block_elements];
    const In* a = fetch(a_buffer, args, 0, offsets[0], count);
    put<Out>(args, offsets[3], count, [&](Out* y) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) y[i] = f(a[i]);
    });
  });
}

template <class In, class Out, class F>
void binary(const ElementwiseArgs& args, F f) {
  each_block(args, [&](const int64_t* offsets, int64_t count) {
    In a_buffer[block_elements], b_buffer[block_elements];
    const In* a = fetch(a_buffer, args, 0, offsets[0], count);
    const In* b = fetch(b_buffer, args, 1, offsets[1], count);
    put<Out>(args, offsets[3], count, [&](Out* y) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) y[i] = f(number(a[i]), number(b[i]));
    });
  });
}

// T: any type of the elements' size.
template <class T>
void where(const ElementwiseArgs& args) {
  each_block(args, [&](const int64_t* offsets, int64_t count) {
    bool c_buffer[block_elements];
    T a_buffer[block_elements], b_buffer[block_elements];
    const bool* c = fetch(c_buffer, args, 0, offsets[0], count);
    const T* a = fetch(a_buffer, args, 1, offsets[1], count);
    const T* b = fetch(b_buffer, args, 2, offsets[2], count);
    put<T>(args, offsets[3], count, [&](T* y) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) y[i] = c[i] ? a[i] : b[i];
    });
  });
}

// f.operator()<T>() with the type of the element.
template <class F>
void with_integer(DType dtype, F f) {
  switch (dtype) {
    case DType::s64: return f.template operator()<int64_t>();
    case DType::s32: return f.template operator()<int32_t>();
    case DType::s16: return f.template operator()<int16_t>();
    case DType::s8: return f.template operator()<int8_t>();
    case DType::u8: return f.template operator()<uint8_t>();
    default: return;
  }
}

template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f.template operator()<float>();
    case DType::bf16: return f.template operator()<Brief>();
    case DType::boolean: return f.template operator()<bool>();
    default: return with_integer(dtype, f);
  }
}

void convert(const ElementwiseArgs& args) {
  with_type(args.dtype, [&]<class In>() {
    with_type(args.result, [&]<class Out>() { unary<In, Out>(args, [](In x) { return Converted<Out>::of(x); }); });
  });
}

void compare(const ElementwiseArgs& args) {
  with_type(args.dtype, [&]<class T>() {
    using N = decltype(number(T()));
    switch (args.kind) {
      case ElementwiseKind::eq: return binary<T, bool>(args, [](N a, N b) { return a == b; });
      case ElementwiseKind::ne: return binary<T, bool>(args, [](N a, N b) { return a != b; });
      case ElementwiseKind::lt: return binary<T, bool>(args, [](N a, N b) { return a < b; });
      case ElementwiseKind::le: return binary<T, bool>(args, [](N a, N b) { return a <= b; });
      case ElementwiseKind::gt: return binary<T, bool>(args, [](N a, N b) { return a > b; });
      default: return binary<T, bool>(args, [](N a, N b) { return a >= b; });
    }
  });
}

void logic(const ElementwiseArgs& args) {
  switch (args.kind) {
    case ElementwiseKind::invert: return unary<bool, bool>(args, [](bool x) { return !x; });
    case ElementwiseKind::bit_and: return binary<bool, bool>(args, [](bool a, bool b) { return a && b; });
    case ElementwiseKind::bit_or: return binary<bool, bool>(args, [](bool a, bool b) { return a || b; });
    default: return binary<bool, bool>(args, [](bool a, bool b) { return a != b; });
  }
}

// Rounded down, as Python divides; 0 by 0. (-1 apart, as the processor faults where the quotient has no place.)
template <class T>
inline T floor_div(T a, T b) {
  if (b == 0) return 0;
  if (T(-1) < T(0) && b == T(-1)) return static_cast<T>(uint64_t(0) - uint64_t(a));
  const T quotient = static_cast<T>(a / b);
  return a % b != 0 && (a < 0) != (b < 0) ? static_cast<T>(quotient - 1) : quotient;
}

template <class T>
inline T remainder(T a, T b) {
  return static_cast<T>(uint64_t(a) - uint64_t(floor_div(a, b)) * uint64_t(b));
}

// Sums and products wrap around, as unsigned ones do.
void arithmetic(const ElementwiseArgs& args) {
  with_integer(args.dtype, [&]<class T>() {
    using U = uint64_t;
    switch (args.kind) {
      case ElementwiseKind::invert: return unary<T, T>(args, [](T x) { return static_cast<T>(~x); });
      case ElementwiseKind::add: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(U(a) + U(b)); });
      case ElementwiseKind::sub: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(U(a) - U(b)); });
      case ElementwiseKind::mul: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(U(a) * U(b)); });
      case ElementwiseKind::floor_div: return binary<T, T>(args, [](T a, T b) { return floor_div(a, b); });
      case ElementwiseKind::remainder: return binary<T, T>(args, [](T a, T b) { return remainder(a, b); });
      case ElementwiseKind::maximum: return binary<T, T>(args, [](T a, T b) { return a < b ? b : a; });
      case ElementwiseKind::minimum: return binary<T, T>(args, [](T a, T b) { return b < a ? b : a; });
      case ElementwiseKind::bit_and: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(a & b); });
      case ElementwiseKind::bit_or: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(a | b); });
      default: return binary<T, T>(args, [](T a, T b) { return static_cast<T>(a ^ b); });
    }
  });
}

}  // namespace

void elementwise(const ElementwiseArgs& args) {
  if (args.kind == ElementwiseKind::convert) return convert(args);
  if (args.kind == ElementwiseKind::where) {
    switch (args.dtype) {
      case DType::s64: return where<uint64_t>(args);
      case DType::f32:
      case DType::s32: return where<uint32_t>(args);
      case DType::bf16:
      case DType::s16: return where<uint16_t>(args);
      default: return where<uint8_t>(args);
    }
  }
  if (args.kind >= ElementwiseKind::eq) return compare(args);
  return args.dtype == DType::boolean ? logic(args) : arithmetic(args);
}

}  // namespace drystone::DRYSTONE_ISA
