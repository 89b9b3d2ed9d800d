// (x - mean) / sqrt(variance + eps) * weight + bias, of f32 or bf16, in float32 under double totals; for an RMS norm the mean is 0.
//
// One kernel serves layer norm, RMS norm and group norm: the step says which axes the statistics are over and how weight and bias lie
// along each. Where the inner axis is among them, rows of up to 4096 elements stay in L1 for the three passes: mean, centred
// variance, result; longer ones are read twice. Where it is kept (channels-first layer norm, channels_last and blocked group norm), up
// to 256 columns go side by side, and the columns of one group are put together between the passes. In a blocked format the pixels of
// a block of channels are one row, along which weight and bias repeat.
//
// A mean far from 0 loses in its rounding to float32 what the result would need. The second pass therefore sums x - mean as well as
// its square: what is left of the mean corrects variance and result.
#include "kernels/norm.h"

#include "kernels/codes.h"
#include "kernels/walk_inline.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t longest = 4096;
constexpr int64_t width = 256;
constexpr int64_t depth = 128;  // rows summed in float32

constexpr int64_t partial = 1024;  // elements of a run summed in float32

double sum_run(const float* x, int64_t count) {
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += partial) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < least(begin + partial, count); i++) sum += x[i];
    total += sum;
  }
  if (total - total == 0.0) return total;
  total = 0.0;  // sums of large numbers outgrow float32
  for (int64_t i = 0; i < count; i++) total += x[i];
  return total;
}

struct Moments {
  double sum, squares;
};

Moments centred_run(const float* x, int64_t count, float mean) {
  Moments total{0.0, 0.0};
  for (int64_t begin = 0; begin < count; begin += partial) {
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum, squares)
    for (int64_t i = begin; i < least(begin + partial, count); i++) {
      const float centred = x[i] - mean;
      sum += centred;
      squares += centred * centred;
    }
    total.sum += sum;
    total.squares += squares;
  }
  if (total.squares - total.squares == 0.0) return total;
  total = {0.0, 0.0};
  for (int64_t i = 0; i < count; i++) {
    const double centred = static_cast<double>(x[i]) - mean;
    total.sum += centred;
    total.squares += centred * centred;
  }
  return total;
}

// The normalised x is (x - mean) * deviation + correction; `deviation` is the reciprocal of the standard deviation.
struct Statistics {
  float mean, deviation, correction;
  double variance;
};

Statistics statistics(const NormArgs& args, double mean, double variance) {
  const auto rounded = static_cast<float>(mean);
  if (variance < 0.0) variance = 0.0;
  const double deviation = 1.0 / __builtin_sqrt(variance + args.eps);
  return {rounded, static_cast<float>(deviation), static_cast<float>((rounded - mean) * deviation), variance};
}

// Of `count` elements, from their moments about `centre`.
Statistics statistics(const NormArgs& args, float centre, Moments moments, double count) {
  const bool finite = centre - centre == 0.0f;  // an infinite mean has no rest
  const double rest = args.centred && finite ? moments.sum / count : 0.0;
  return statistics(args, centre + rest, moments.squares / count - rest * rest);
}

[[gnu::noinline]] void copy_parameter(float* buffer, const void* data, DType dtype, int64_t offset, int64_t stride, int64_t period,
                                      int64_t count, float missing) {
  if (!data) return load(buffer, &missing, DType::f32, 0, count);
  const void* from = advance(data, offset, dtype);
  for (int64_t i = 0; i < count; i += period) load(buffer + i, from, dtype, stride, least(period, count - i));
}

// weight or bias along `count` elements of a run, from element `offset` on; `missing` everywhere where there is none. They repeat
// after `period` elements.
const float* parameter(float* buffer, const void* data, DType dtype, int64_t offset, int64_t stride, int64_t period, int64_t count,
                       float missing) {
  if (data && dtype == DType::f32 && stride == 1 && count <= period) return static_cast<const float*>(data) + offset;
  copy_parameter(buffer, data, dtype, offset, stride, period, count, missing);
  return buffer;
}

// y = normalised x * weight + bias over a run; y may be x. `offset` is into weight and bias; the run begins with their period.
void apply_run(const NormArgs& args, float* y, const float* x, int64_t count, Statistics s, int64_t offset) {
  const int64_t stride = args.inner.strides[2];
  if (stride == 0 || (!args.weight && !args.bias)) {
    float weight = 1.0f, bias = 0.0f;
    if (args.weight) load(&weight, advance(args.weight, offset, args.weight_dtype), args.weight_dtype, 0, 1);
    if (args.bias) load(&bias, advance(args.bias, offset, args.bias_dtype), args.bias_dtype, 0, 1);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) y[i] = fma(fma(x[i] - s.mean, s.deviation, s.correction), weight, bias);
    return;
  }
  alignas(64) float weights[width], biases[width];
  const float *weight = nullptr, *bias = nullptr;
  const bool repeats = args.period < count;
  for (int64_t begin = 0; begin < count; begin += width) {
    const int64_t part = least(width, count - begin);
    if (begin == 0 || !repeats) {
      weight = parameter(weights, args.weight, args.weight_dtype, offset + begin * stride, stride, args.period, part, 1.0f);
      bias = parameter(biases, args.bias, args.bias_dtype, offset + begin * stride, stride, args.period, part, 0.0f);
    }
#pragma omp simd
    for (int64_t i = 0; i < part; i++) y[begin + i] = fma(fma(x[begin + i] - s.mean, s.deviation, s.correction), weight[i], bias[i]);
  }
}

Statistics short_row(const NormArgs& args, const void* input, void* output, int64_t parameters, int64_t rows) {
  alignas(64) float buffer[longest];
  const int64_t size = args.inner.size, total = rows * size;
  const float* x = buffer;
  if (rows == 1) {
    x = view(buffer, input, args.input_dtype, args.inner.strides[0], size);
  } else {
    for (int64_t row = 0; row < rows; row++)
      load(buffer + row * size, advance(input, offset_of(args.reduced, row, 0), args.input_dtype), args.input_dtype, args.inner.strides[0],
           size);
  }
  const float mean = args.centred ? static_cast<float>(sum_run(x, total) / static_cast<double>(total)) : 0.0f;
  const Statistics s = statistics(args, mean, centred_run(x, total, mean), static_cast<double>(total));
  const bool direct = args.output_dtype == DType::f32 && args.inner.strides[1] == 1;
  for (int64_t row = 0; row < rows; row++) {
    void* to = advance(output, offset_of(args.reduced, row, 1), args.output_dtype);
    float* y = direct ? static_cast<float*>(to) : buffer + row * size;
    apply_run(args, y, x + row * size, size, s, parameters + offset_of(args.reduced, row, 2));
    if (!direct) store(to, y, args.output_dtype, args.output_affine, args.inner.strides[1], size);
  }
  return s;
}

// Calls f(row, column, x, count) for each piece of the rows.
template <typename F>
void each_piece(const NormArgs& args, float* buffer, const void* input, int64_t rows, F f) {
  for (int64_t row = 0; row < rows; row++) {
    const int64_t start = offset_of(args.reduced, row, 0);
    for (int64_t column = 0; column < args.inner.size; column += longest) {
      const int64_t count = least(longest, args.inner.size - column);
      const void* from = advance(input, start + column * args.inner.strides[0], args.input_dtype);
      f(row, column, view(buffer, from, args.input_dtype, args.inner.strides[0], count), count);
    }
  }
}

// Pieces of a row that stay in L1 are summed about their own means, and put together as Chan, Golub and LeVeque do (1979).
Statistics long_row(const NormArgs& args, const void* input, void* output, int64_t parameters, int64_t rows) {
  alignas(64) float buffer[longest];
  double seen = 0.0, mean = 0.0, squares = 0.0, total = 0.0;
  each_piece(args, buffer, input, rows, [&](int64_t, int64_t, const float* x, int64_t count) {
    const auto size = static_cast<double>(count);
    const double sum = args.centred ? sum_run(x, count) : 0.0;
    const auto centre = static_cast<float>(sum / size);
    total += sum;
    const Moments part = centred_run(x, count, centre);
    const double rest = args.centred ? part.sum / size : 0.0, apart = centre + rest - mean, both = seen + size;
    mean += apart * size / both;
    squares += part.squares - rest * part.sum + apart * apart * seen * size / both;
    seen = both;
  });
  if (mean - mean != 0.0) mean = total / seen;  // infinite, or NaN
  const Statistics s = statistics(args, mean, squares / seen);
  const bool direct = args.output_dtype == DType::f32 && args.inner.strides[1] == 1;
  each_piece(args, buffer, input, rows, [&](int64_t row, int64_t column, const float* x, int64_t count) {
    void* to = advance(output, offset_of(args.reduced, row, 1) + column * args.inner.strides[1], args.output_dtype);
    float* y = direct ? static_cast<float*>(to) : buffer;
    const int64_t along = args.period < args.inner.size ? 0 : column * args.inner.strides[2];
    apply_run(args, y, x, count, s, parameters + offset_of(args.reduced, row, 2) + along);
    if (!direct) store(to, y, args.output_dtype, args.output_affine, args.inner.strides[1], count);
  });
  return s;
}

// Sums of x - centre over the rows, and of its square where `squares` is not null: one a column.
void sum_columns(const NormArgs& args, const float* centre, double* sums, double* squares, const void* input, int64_t rows, int64_t count) {
  alignas(64) float buffer[width], part[width], square_part[width];
  for (int64_t j = 0; j < count; j++) sums[j] = 0.0;
  if (squares)
    for (int64_t j = 0; j < count; j++) squares[j] = 0.0;
  for (int64_t begin = 0; begin < rows; begin += depth) {
    for (int64_t j = 0; j < count; j++) part[j] = square_part[j] = 0.0f;
    for (int64_t row = begin; row < least(begin + depth, rows); row++) {
      const void* from = advance(input, offset_of(args.reduced, row, 0), args.input_dtype);
      const float* x = view(buffer, from, args.input_dtype, args.inner.strides[0], count);
      if (squares) {
#pragma omp simd
        for (int64_t j = 0; j < count; j++) {
          const float centred = x[j] - centre[j];
          part[j] += centred;
          square_part[j] += centred * centred;
        }
      } else {
#pragma omp simd
        for (int64_t j = 0; j < count; j++) part[j] += x[j] - centre[j];
      }
    }
#pragma omp simd
    for (int64_t j = 0; j < count; j++) sums[j] += part[j];
    if (squares)
#pragma omp simd
      for (int64_t j = 0; j < count; j++) squares[j] += square_part[j];
  }
}

// Gives the columns of each group their common sum.
void merge(double* totals, int64_t count, int64_t merged) {
  if (merged == 1) return;
  for (int64_t begin = 0; begin < count; begin += merged) {
    double sum = 0.0;
    for (int64_t j = begin; j < begin + merged; j++) sum += totals[j];
    for (int64_t j = begin; j < begin + merged; j++) totals[j] = sum;
  }
}

void columns(const NormArgs& args, const void* input, void* output, int64_t parameters, int64_t rows, int64_t count) {
  alignas(64) float buffer[width], mean[width], deviation[width], correction[width], weights[width], biases[width];
  alignas(64) double sums[width], squares[width];
  const double total = static_cast<double>(rows * args.merged);
  for (int64_t j = 0; j < count; j++) mean[j] = 0.0f;
  if (args.centred) {
    sum_columns(args, mean, sums, nullptr, input, rows, count);
    merge(sums, count, args.merged);
    for (int64_t j = 0; j < count; j++) mean[j] = static_cast<float>(sums[j] / total);
  }
  sum_columns(args, mean, sums, squares, input, rows, count);
  merge(sums, count, args.merged);
  merge(squares, count, args.merged);
  for (int64_t j = 0; j < count; j++) {
    const Statistics s = statistics(args, mean[j], {sums[j], squares[j]}, total);
    mean[j] = s.mean;
    deviation[j] = s.deviation;
    correction[j] = s.correction;
  }

  const bool direct = args.output_dtype == DType::f32 && args.inner.strides[1] == 1;
  const float *weight = nullptr, *bias = nullptr;
  int64_t held = -1;  // where in weight and bias the values at hand come from
  for (int64_t row = 0; row < rows; row++) {
    const void* from = advance(input, offset_of(args.reduced, row, 0), args.input_dtype);
    const float* x = view(buffer, from, args.input_dtype, args.inner.strides[0], count);
    void* to = advance(output, offset_of(args.reduced, row, 1), args.output_dtype);
    float* y = direct ? static_cast<float*>(to) : buffer;
    const int64_t offset = parameters + offset_of(args.reduced, row, 2);
    if (offset != held) {
      weight = parameter(weights, args.weight, args.weight_dtype, offset, args.inner.strides[2], count, count, 1.0f);
      bias = parameter(biases, args.bias, args.bias_dtype, offset, args.inner.strides[2], count, count, 0.0f);
      held = offset;
    }
#pragma omp simd
    for (int64_t j = 0; j < count; j++) y[j] = fma(fma(x[j] - mean[j], deviation[j], correction[j]), weight[j], bias[j]);
    if (!direct) store(to, y, args.output_dtype, args.output_affine, args.inner.strides[1], count);
  }
}

}  // namespace

void norm(const NormArgs& args) {
  const int64_t kept = count_of(args.kept), rows = count_of(args.reduced), size = args.inner.size;
  int64_t chunk = size;
  if (!args.inner_reduced) {
    const int64_t wish = kept * ceil_div(size, width) >= 2 * args.threads ? width : width / 4;
    chunk = args.merged >= wish ? args.merged : wish / args.merged * args.merged;
  }
  const int64_t chunks = ceil_div(size, chunk);
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < kept * chunks; item++) {
    const int64_t index = item / chunks, column = item % chunks * chunk;
    const auto place = [&](int operand) { return offset_of(args.kept, index, operand) + column * args.inner.strides[operand]; };
    const void* input = advance(args.input, place(0), args.input_dtype);
    void* output = advance(args.output, place(1), args.output_dtype);
    if (!args.inner_reduced) {
      columns(args, input, output, place(2), rows, least(chunk, size - column));
      continue;
    }
    const Statistics s = (rows * size <= longest ? short_row : long_row)(args, input, output, place(2), rows);
    if (args.means) args.means[index] = s.mean;
    if (args.deviations) args.deviations[index] = s.deviation;
    if (args.variances) args.variances[index] = static_cast<float>(s.variance);
  }
}

}  // namespace drystone::DRYSTONE_ISA
