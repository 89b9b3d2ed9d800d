// Softmax along one logical axis (in a blocked format two axes in memory), of f32 or bf16, in float32.
//
// Where the inner axis is the softmax's, a row of up to 4096 elements stays in L1: maximum, exponentials and their sum, scale.
// A longer one is read three times. Where the inner axis is kept, 256 columns go side by side, and the output holds the
// exponentials between the passes where it is float32. A NaN needs no care in the maximum: its own exponential makes the sum NaN,
// and so does a row of -inf, whose maximum is subtracted from itself.
#include "kernels/softmax.h"

#include "kernels/vector_math.h"
#include "kernels/walk_inline.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t longest = 4096;
constexpr int64_t width = 256;

float maximum_of(const float* x, int64_t count, float most) {
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// y = e^(x - most), and the sum; y may be x.
float exponentials(float* y, const float* x, int64_t count, float most) {
  Floats sums{};
  int64_t i = 0;
  for (; i + kFloats <= count; i += kFloats) {
    const Floats e = exp(load<kFloats>(x + i) - most);
    store_raw(y + i, e);
    sums += e;
  }
  float sum = 0.0f;
  each(y + i, x + i, count - i, [=](Floats v) { return exp(v - most); });
  for (; i < count; i++) sum += y[i];
  for (int j = 0; j < kFloats; j++) sum += sums[j];
  return sum;
}

void scale(float* y, int64_t count, float factor) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] *= factor;
}

void short_row(const SoftmaxArgs& args, const void* input, void* output, int64_t rows) {
  alignas(64) float buffer[longest];
  const int64_t size = args.inner.size;
  for (int64_t row = 0; row < rows; row++)
    load(buffer + row * size, advance(input, offset_of(args.reduced, row, 0), args.input_dtype), args.input_dtype, args.inner.strides[0],
         size);
  const float sum = exponentials(buffer, buffer, rows * size, maximum_of(buffer, rows * size, -infinity));
  scale(buffer, rows * size, 1.0f / sum);
  for (int64_t row = 0; row < rows; row++)
    store(advance(output, offset_of(args.reduced, row, 1), args.output_dtype), buffer + row * size, args.output_dtype,
          args.inner.strides[1], size);
}

// Calls f(input, output, count) for each piece of a row too long for the buffer.
template <typename F>
void each_piece(const SoftmaxArgs& args, const void* input, void* output, int64_t rows, F f) {
  for (int64_t row = 0; row < rows; row++) {
    const int64_t from = offset_of(args.reduced, row, 0), to = offset_of(args.reduced, row, 1);
    for (int64_t i = 0; i < args.inner.size; i += longest)
      f(advance(input, from + i * args.inner.strides[0], args.input_dtype),
        advance(output, to + i * args.inner.strides[1], args.output_dtype), least(longest, args.inner.size - i));
  }
}

void long_row(const SoftmaxArgs& args, const void* input, void* output, int64_t rows) {
  alignas(64) float buffer[longest];
  const int64_t stride = args.inner.strides[0];
  float most = -infinity;
  each_piece(args, input, output, rows, [&](const void* from, void*, int64_t count) {
    most = maximum_of(view(buffer, from, args.input_dtype, stride, count), count, most);
  });
  double sum = 0.0;
  each_piece(args, input, output, rows, [&](const void* from, void*, int64_t count) {
    sum += exponentials(buffer, view(buffer, from, args.input_dtype, stride, count), count, most);
  });
  each_piece(args, input, output, rows, [&](const void* from, void* to, int64_t count) {
    exponentials(buffer, view(buffer, from, args.input_dtype, stride, count), count, most);
    scale(buffer, count, static_cast<float>(1.0 / sum));
    store(to, buffer, args.output_dtype, args.inner.strides[1], count);
  });
}

// y = e^(x - most), each column with a maximum of its own; y may be x.
void weights(float* y, const float* x, const float* most, int64_t count) {
#pragma omp simd
  for (int64_t j = 0; j < count; j++) y[j] = x[j] - most[j];
  each(y, y, count, [](Floats v) { return exp(v); });
}

void columns(const SoftmaxArgs& args, const void* input, void* output, int64_t rows, int64_t count) {
  alignas(64) float buffer[width], most[width], sum[width];
  const int64_t from = args.inner.strides[0], to = args.inner.strides[1];
  const auto row_of = [&](int64_t row) {
    return view(buffer, advance(input, offset_of(args.reduced, row, 0), args.input_dtype), args.input_dtype, from, count);
  };
  for (int64_t j = 0; j < count; j++) {
    most[j] = -infinity;
    sum[j] = 0.0f;
  }
  for (int64_t row = 0; row < rows; row++) {
    const float* x = row_of(row);
#pragma omp simd
    for (int64_t j = 0; j < count; j++) most[j] = x[j] > most[j] ? x[j] : most[j];
  }
  const bool keep = args.output_dtype == DType::f32 && to == 1;  // the exponentials wait in the output
  for (int64_t row = 0; row < rows; row++) {
    const float* x = row_of(row);
    float* y = keep ? static_cast<float*>(output) + offset_of(args.reduced, row, 1) : buffer;
    weights(y, x, most, count);
#pragma omp simd
    for (int64_t j = 0; j < count; j++) sum[j] += y[j];
  }
#pragma omp simd
  for (int64_t j = 0; j < count; j++) sum[j] = 1.0f / sum[j];
  for (int64_t row = 0; row < rows; row++) {
    const int64_t place = offset_of(args.reduced, row, 1);
    if (keep) {
      float* y = static_cast<float*>(output) + place;
#pragma omp simd
      for (int64_t j = 0; j < count; j++) y[j] *= sum[j];
      continue;
    }
    weights(buffer, row_of(row), most, count);
#pragma omp simd
    for (int64_t j = 0; j < count; j++) buffer[j] *= sum[j];
    store(advance(output, place, args.output_dtype), buffer, args.output_dtype, to, count);
  }
}

}  // namespace

void softmax(const SoftmaxArgs& args) {
  const int64_t kept = count_of(args.kept), rows = count_of(args.reduced);
  const int64_t chunk = args.inner_reduced ? 1 : kept * ceil_div(args.inner.size, width) >= 2 * args.threads ? width : width / 4;
  const int64_t chunks = args.inner_reduced ? 1 : ceil_div(args.inner.size, chunk);
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < kept * chunks; item++) {
    const int64_t index = item / chunks, column = item % chunks * chunk;
    const int64_t from = offset_of(args.kept, index, 0) + (args.inner_reduced ? 0 : column * args.inner.strides[0]);
    const int64_t to = offset_of(args.kept, index, 1) + (args.inner_reduced ? 0 : column * args.inner.strides[1]);
    const void* input = advance(args.input, from, args.input_dtype);
    void* output = advance(args.output, to, args.output_dtype);
    if (!args.inner_reduced)
      columns(args, input, output, rows, least(chunk, args.inner.size - column));
    else if (rows * args.inner.size <= longest)
      short_row(args, input, output, rows);
    else
      long_row(args, input, output, rows);
  }
}

}  // namespace drystone::DRYSTONE_ISA
