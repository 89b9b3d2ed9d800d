// The product of a few rows with a plain matrix, which is read once, at the speed of memory.
//
// Threads share the columns of the result. Of a transposed matrix a few rows at a time are multiplied with all rows of x, element by
// element, and summed up at the end; of any other, a few rows at a time are added to the result, scaled by x, a stretch of columns
// after the other. What comes next is asked for meanwhile: each of the streams is too short for the processor to see that it goes on.
#include "kernels/skinny_gemm.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/streams.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// A tile of sums in registers.
#ifdef __AVX512F__
constexpr int tile_rows = 6, tile_columns = 4;
#else
constexpr int tile_rows = 2, tile_columns = 4;
#endif

inline __m128 add_halves(Floats v) {
#ifdef __AVX512F__
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#else
  const __m256 eight = (__m256)v;
#endif
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

// y[c] = the sum of v[c], of one or four.
inline void store_sums(float* y, const Floats (&v)[1]) {
  const __m128 four = add_halves(v[0]), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  *y = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline void store_sums(float* y, const Floats (&v)[4]) {
  _mm_storeu_ps(y, _mm_hadd_ps(_mm_hadd_ps(add_halves(v[0]), add_halves(v[1])), _mm_hadd_ps(add_halves(v[2]), add_halves(v[3]))));
}

inline Floats load_part(const float* from, int64_t count) {
  float part[kFloats] = {};
  for (int64_t i = 0; i < count && i < kFloats; i++) part[i] = from[i];
  return load<kFloats>(part);
}

// y[r][c] = x row r times weights row c. `ahead` is null, or where the rows are that come next.
template <int R, int C>
void dot(const SkinnyGemmArgs& a, const float* x, const float* weights, const float* ahead, float* y) {
  Floats sums[R][C] = {};
  const auto step = [&](auto load_at) __attribute__((always_inline)) {
    Floats w[C];
    for (int c = 0; c < C; c++) w[c] = load_at(weights + c * a.weights_stride);
    for (int r = 0; r < R; r++) {
      const Floats value = load_at(x + r * a.x_stride);
      for (int c = 0; c < C; c++) sums[r][c] += value * w[c];
    }
  };
  int64_t i = 0;
  for (; i + kFloats <= a.depth; i += kFloats) {
    if (ahead)
      for (int c = 0; c < C; c++) __builtin_prefetch(ahead + c * a.weights_stride + i);
    step([i](const float* row) { return load<kFloats>(row + i); });
  }
  if (i < a.depth) step([&](const float* row) { return load_part(row + i, a.depth - i); });
  for (int r = 0; r < R; r++) store_sums(y + r * a.columns, sums[r]);
}

template <int R, int C>
void dot_rows(int rows, const SkinnyGemmArgs& a, const float* x, const float* weights, const float* ahead, float* y) {
  if (rows == R) return dot<R, C>(a, x, weights, ahead, y);
  if constexpr (R > 1) dot_rows<R - 1, C>(rows, a, x, weights, ahead, y);
}

// All rows with C columns.
template <int C>
void dot_columns(const SkinnyGemmArgs& a, int64_t column, bool more) {
  const float* weights = a.weights + column * a.weights_stride;
  const int64_t tiles = ceil_div(a.rows, tile_rows);
  for (int64_t tile = 0; tile < tiles; tile++) {
    const Range rows = share(a.rows, tile, tiles);
    dot_rows<tile_rows, C>(rows.end - rows.begin, a, a.x + rows.begin * a.x_stride, weights,
                           more && tile == 0 ? weights + C * a.weights_stride : nullptr, a.y + rows.begin * a.columns + column);
  }
}

void transposed(const SkinnyGemmArgs& a, Range columns) {
  int64_t column = columns.begin;
  for (; column + tile_columns <= columns.end; column += tile_columns)
    dot_columns<tile_columns>(a, column, column + 2 * tile_columns <= columns.end);
  for (; column < columns.end; column++) dot_columns<1>(a, column, false);
}

constexpr int deep = 8;  // rows of the matrix at a time
// Columns of the result that are summed up side by side. Its rows lie a line more than that apart, lest they share the ways of a cache.
constexpr int64_t most_sums = 1 << 14, pad = kLine / sizeof(float);

// sums[r][c] += x[r][row] weights[row][c] + … of D rows of the matrix. `ahead`: the rows that come next, or these again.
template <int D>
void add(const SkinnyGemmArgs& a, int64_t row, const float* weights, const float* ahead, int64_t columns, float* sums, int64_t stride) {
  const auto step = [&](int64_t c, auto load_at) __attribute__((always_inline)) {
    Floats w[D];
    for (int d = 0; d < D; d++) w[d] = load_at(weights + d * a.weights_stride + c);
    for (int64_t r = 0; r < a.rows; r++) {
      const float* x = a.x + r * a.x_stride + row;
      float* sum = sums + r * stride + c;
      Floats total = load<kFloats>(sum);
      for (int d = 0; d < D; d++) total += x[d] * w[d];
      store_raw(sum, total);
    }
  };
  int64_t c = 0;
  for (; c + kFloats <= columns; c += kFloats) {
    for (int d = 0; d < D; d++) __builtin_prefetch(ahead + d * a.weights_stride + c);
    step(c, [](const float* from) { return load<kFloats>(from); });
  }
  if (c < columns) step(c, [=](const float* from) { return load_part(from, columns - c); });
}

void straight(const SkinnyGemmArgs& a, Range columns) {
  const int64_t most = most_sums / a.rows / kFloats * kFloats, stride = most + pad;
  alignas(kLine) float sums[most_sums + skinny_gemm_rows * pad];
  for (int64_t begin = columns.begin; begin < columns.end; begin += most) {
    const int64_t count = least(most, columns.end - begin);
    const float* weights = a.weights + begin;
    __builtin_memset(sums, 0, a.rows * stride * sizeof(float));
    int64_t row = 0;
    for (; row + deep <= a.depth; row += deep) {
      const float* now = weights + row * a.weights_stride;
      add<deep>(a, row, now, row + 2 * deep <= a.depth ? now + deep * a.weights_stride : now, count, sums, stride);
    }
    for (; row < a.depth; row++) {
      const float* now = weights + row * a.weights_stride;
      add<1>(a, row, now, now, count, sums, stride);
    }
    for (int64_t r = 0; r < a.rows; r++) __builtin_memcpy(a.y + r * a.columns + begin, sums + r * stride, count * sizeof(float));
  }
}

}  // namespace

void skinny_gemm(const SkinnyGemmArgs& args) {
  const int64_t unit = args.transposed ? tile_columns : kFloats;
#pragma omp parallel num_threads(args.threads) if (args.threads > 1)
  {
    const Range units = share(ceil_div(args.columns, unit), omp_get_thread_num(), omp_get_num_threads());
    const Range columns{units.begin * unit, least(units.end * unit, args.columns)};
    if (columns.begin < columns.end) (args.transposed ? transposed : straight)(args, columns);
  }
}

}  // namespace drystone::DRYSTONE_ISA
