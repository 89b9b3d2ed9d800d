// Sums and means over any axes, of f32, bf16 or codes, in float32 under double totals.
//
// Two shapes of work. Where the inner axis is reduced (a plain tensor's spatial mean, a last axis), a run of it is summed in
// vector lanes. Where it is kept (channels_last, blocked), up to 256 columns are summed side by side, row by row. Either way a
// float32 partial sum takes in a bounded number of elements (1024 of a run, 128 rows) before it goes into a double, so that the
// error does not grow with the size. The split into segments depends on the shape alone: the result does not change with threads.
#include "kernels/reduce.h"

#include "kernels/codes.h"
#include "kernels/walk_inline.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t piece = 1024;  // elements of a run summed in float32
constexpr int64_t width = 256;   // columns summed side by side
constexpr int64_t depth = 128;   // rows summed in float32

void put(const ReduceArgs& args, int64_t offset, double value) {
  const float rounded = static_cast<float>(value * args.scale);
  store(advance(args.output, offset, args.output_dtype), &rounded, args.output_dtype, args.output_affine, 1, 1);
}

// `count` elements of the input from `from` on as float32, where they lie or in `buffer`.
const float* read(const ReduceArgs& args, float* buffer, const void* from, int64_t stride, int64_t count) {
  if (!is_code(args.input_dtype)) return view(buffer, from, args.input_dtype, stride, count);
  load(buffer, from, args.input_dtype, args.input_affine, stride, count);
  return buffer;
}

double sum_run(const float* x, int64_t count) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; i++) sum += x[i];
  return sum;
}

// One output, the inner axis reduced: the runs of `units` are (row, piece of the row).
double sum_rows(const ReduceArgs& args, int64_t start, Range units, int64_t pieces) {
  alignas(64) float buffer[piece];
  double total = 0.0;
  for (int64_t unit = units.begin; unit < units.end; unit++) {
    const int64_t row = pieces == 1 ? unit : unit / pieces;
    const int64_t column = (unit - row * pieces) * piece;
    const int64_t count = least(piece, args.inner.size - column), stride = args.inner.strides[0];
    const int64_t offset = start + offset_of(args.reduced, row, 0) + column * stride;
    total += sum_run(read(args, buffer, advance(args.input, offset, args.input_dtype), stride, count), count);
  }
  return total;
}

// As sum_columns below, of codes: their sums are exact.
template <class Code>
void sum_codes(const ReduceArgs& args, double* totals, int64_t start, Range rows, int64_t count, int64_t abreast) {
  alignas(64) int32_t sums[width];
  const Affine& q = args.input_affine;
  for (int64_t begin = rows.begin; begin < rows.end; begin += depth * abreast) {
    const int64_t end = least(begin + depth * abreast, rows.end);
    for (int64_t j = 0; j < abreast * count; j++) sums[j] = 0;
    for (int64_t row = begin; row < end; row += abreast) {
      const int64_t elements = least(abreast, end - row) * count;
      const Code* from = static_cast<const Code*>(args.input) + start + offset_of(args.reduced, row, 0);
      int64_t j = 0;
      for (; j + kFloats <= elements; j += kFloats) store_raw(sums + j, load_raw<kFloats>(sums + j) + widened(from + j));
      for (; j < elements; j++) sums[j] += from[j];
    }
    for (int64_t part = 0; part < abreast; part++)
#pragma omp simd
      for (int64_t j = 0; j < count; j++) totals[j] += sums[part * count + j];
  }
  const double zero = static_cast<double>(q.zero_point) * static_cast<double>(rows.end - rows.begin);
  for (int64_t j = 0; j < count; j++) totals[j] = (totals[j] - zero) * static_cast<double>(q.scale);
}

// As sum_columns below, of one vector of float32, whose rows follow each other: what a block of channels is.
void sum_vectors(double* totals, const float* from, int64_t rows) {
  constexpr int64_t abreast = 8;
  for (int64_t begin = 0; begin < rows; begin += depth * abreast) {
    const int64_t end = least(begin + depth * abreast, rows);
    Floats sums[abreast] = {};
    int64_t row = begin;
    for (; row + abreast <= end; row += abreast) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < abreast; i++) sums[i] += load<kFloats>(from + (row + i) * kFloats);
    }
    for (; row < end; row++) sums[0] += load<kFloats>(from + row * kFloats);
    for (const Floats& sum : sums)
      for (int j = 0; j < kFloats; j++) totals[j] += sum[j];
  }
}

// `count` outputs side by side, over some rows. Narrow rows that follow each other in memory, as blocks of channels do, are read
// several at once: `abreast` of them fill the width.
void sum_columns(const ReduceArgs& args, double* totals, int64_t start, Range rows, int64_t count) {
  alignas(64) float buffer[width], sums[width];
  const bool adjacent = args.reduced.axes == 1 && args.reduced.strides[0][0] == count && args.inner.strides[0] == 1;
  const int64_t abreast = adjacent ? width / count : 1;
  for (int64_t j = 0; j < count; j++) totals[j] = 0.0;
  if (is_code(args.input_dtype) && args.inner.strides[0] == 1) {
    const auto sum = args.input_dtype == DType::u8 ? sum_codes<uint8_t> : sum_codes<int8_t>;
    return sum(args, totals, start, rows, count, abreast);
  }
  if (adjacent && count == kFloats && args.input_dtype == DType::f32)
    return sum_vectors(totals, static_cast<const float*>(args.input) + start + offset_of(args.reduced, rows.begin, 0),
                       rows.end - rows.begin);
  for (int64_t begin = rows.begin; begin < rows.end; begin += depth * abreast) {
    const int64_t end = least(begin + depth * abreast, rows.end);
    for (int64_t j = 0; j < abreast * count; j++) sums[j] = 0.0f;
    for (int64_t row = begin; row < end; row += abreast) {
      const int64_t elements = least(abreast, end - row) * count;
      const void* from = advance(args.input, start + offset_of(args.reduced, row, 0), args.input_dtype);
      const float* x = read(args, buffer, from, args.inner.strides[0], elements);
#pragma omp simd
      for (int64_t j = 0; j < elements; j++) sums[j] += x[j];
    }
    for (int64_t part = 0; part < abreast; part++)
#pragma omp simd
      for (int64_t j = 0; j < count; j++) totals[j] += sums[part * count + j];
  }
}

}  // namespace

void reduce(const ReduceArgs& args) {
  const int64_t kept = count_of(args.kept), rows = count_of(args.reduced);
  if (args.inner_reduced) {
    const int64_t pieces = ceil_div(args.inner.size, piece);
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
    for (int64_t item = 0; item < kept * args.segments; item++) {
      const int64_t index = item / args.segments, segment = item % args.segments;
      const double sum = sum_rows(args, offset_of(args.kept, index, 0), share(rows * pieces, segment, args.segments), pieces);
      if (args.segments > 1)
        args.partials[segment * kept + index] = sum;
      else
        put(args, offset_of(args.kept, index, 1), sum);
    }
    if (args.segments == 1) return;
    for (int64_t index = 0; index < kept; index++) {
      double total = 0.0;
      for (int64_t segment = 0; segment < args.segments; segment++) total += args.partials[segment * kept + index];
      put(args, offset_of(args.kept, index, 1), total);
    }
    return;
  }

  // Narrower where there would be too little for all threads.
  const int64_t columns = args.inner.size;
  const int64_t chunk = kept * args.segments * ceil_div(columns, width) >= 2 * args.threads ? width : width / 4;
  const int64_t chunks = ceil_div(columns, chunk), outputs = kept * columns;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < kept * chunks * args.segments; item++) {
    const int64_t segment = item % args.segments, column = item / args.segments % chunks * chunk;
    const int64_t index = item / args.segments / chunks, count = least(chunk, columns - column);
    const int64_t start = offset_of(args.kept, index, 0) + column * args.inner.strides[0];
    alignas(64) double totals[width];
    sum_columns(args, totals, start, share(rows, segment, args.segments), count);
    if (args.segments > 1) {
      for (int64_t j = 0; j < count; j++) args.partials[segment * outputs + index * columns + column + j] = totals[j];
      continue;
    }
    alignas(64) float results[width];
    for (int64_t j = 0; j < count; j++) results[j] = static_cast<float>(totals[j] * args.scale);
    const int64_t to = offset_of(args.kept, index, 1) + column * args.inner.strides[1];
    store(advance(args.output, to, args.output_dtype), results, args.output_dtype, args.output_affine, args.inner.strides[1], count);
  }
  if (args.segments == 1) return;
  for (int64_t i = 0; i < outputs; i++) {
    double total = 0.0;
    for (int64_t segment = 0; segment < args.segments; segment++) total += args.partials[segment * outputs + i];
    put(args, offset_of(args.kept, i / columns, 1) + i % columns * args.inner.strides[1], total);
  }
}

}  // namespace drystone::DRYSTONE_ISA
