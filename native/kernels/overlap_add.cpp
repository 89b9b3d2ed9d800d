// The sum of overlapping windows (torch's col2im), float32 and bfloat16 (summed in float32).
//
// An output row is summed in a line of floats, from each row of the input that falls on it: every input element is read once, along
// rows. Summands come in torch's order, so float32 results are equal to the last bit.
#include "kernels/overlap_add.h"

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kLine = 4096;  // floats in a line: 16 KB of stack

inline int64_t ceil_quotient(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

// The columns [begin, end) of an output row, plus entry k of the windows at `from`.
template <class T>
void add_windows(const OverlapAxis& axis, int64_t k, const T* from, int64_t begin, int64_t end, float* line) {
  const int64_t shift = k * axis.dilation - axis.padding;
  const int64_t first = ceil_quotient(begin - shift, axis.stride), stop = ceil_quotient(end - shift, axis.stride);
  const int64_t last = stop < axis.windows ? stop : axis.windows;
  float* to = line + shift - begin;
  if (axis.stride == 1) {
#pragma omp simd
    for (int64_t l = first; l < last; l++) to[l] += load_one(from + l);
  } else {
    for (int64_t l = first; l < last; l++) to[l * axis.stride] += load_one(from + l);
  }
}

template <class T>
void overlap_add_as(const OverlapAddArgs& a) {
  const OverlapAxis &rows = a.rows, &columns = a.columns;
  const int64_t image = rows.windows * columns.windows, window = rows.kernel * columns.kernel * image;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < a.planes * rows.size; item++) {
    const int64_t row = item % rows.size;
    const T* in = static_cast<const T*>(a.input) + item / rows.size * window;
    T* out = static_cast<T*>(a.output) + item * columns.size;
    for (int64_t begin = 0; begin < columns.size; begin += kLine) {
      const int64_t end = begin + kLine < columns.size ? begin + kLine : columns.size;
      float line[kLine];
      for (int64_t x = 0; x < end - begin; x++) line[x] = 0.0f;
      for (int64_t k = 0; k < rows.kernel; k++) {
        const int64_t place = row + rows.padding - k * rows.dilation, l = place / rows.stride;
        if (place < 0 || place % rows.stride != 0 || l >= rows.windows) continue;
        for (int64_t j = 0; j < columns.kernel; j++)
          add_windows(columns, j, in + (k * columns.kernel + j) * image + l * columns.windows, begin, end, line);
      }
#pragma omp simd
      for (int64_t x = begin; x < end; x++) store_one(out + x, line[x - begin]);
    }
  }
}

}  // namespace

void overlap_add(const OverlapAddArgs& a) { a.dtype == DType::bf16 ? overlap_add_as<uint16_t>(a) : overlap_add_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
