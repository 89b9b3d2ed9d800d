// The one-dimensional transforms of Winograd's convolution F(m, 3), on vectors of channels. A tile of two dimensions is
// transformed along its columns, then along its rows.
//
// With M(x) the product of (x - p) over the finite points p, row p of the input transform holds the coefficients of
// M(x) / (x - p), the row of infinity those of M(x). Points in pairs +-p share their even and odd parts. The divisors
// M'(p) are in the weights (steps/winograd.cpp).
//
// outer_weight times the row of point 0 of the transformed weights is the first weight, middle_weight times the difference of the
// rows 1 and 2, which belong to a pair +-p, is the middle one, and the row of infinity is the last one.
#pragma once

#include "kernels/vectors.h"
#include "kernels/winograd.h"

namespace drystone::DRYSTONE_ISA {

// A tile of two dimensions by the one-dimensional transforms of `Of`; `pixel(i, j)`: a vector of it.
template <int m, class Of, class Pixel, class Put>
inline __attribute__((always_inline)) void transform_tile(Pixel pixel, Put put) {
  constexpr int n = m + 2;
  using Element = decltype(pixel(0, 0));
  Element half[n][n];
#pragma GCC unroll 6
  for (int j = 0; j < n; j++) {
    Element d[n], e[n];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) d[i] = pixel(i, j);
    Of::input(d, e);
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) half[i][j] = e[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < n; i++) {
    Element e[n];
    Of::input(half[i], e);
#pragma GCC unroll 6
    for (int j = 0; j < n; j++) put(i, j, e[j]);
  }
}

// Points, `stride` apart -> the m x m results.
template <int m, class Of>
inline __attribute__((always_inline)) void transform_back(const float* from, int64_t stride, Floats* results) {
  constexpr int n = m + 2;
  Floats half[m][n];
#pragma GCC unroll 6
  for (int j = 0; j < n; j++) {
    Floats s[n], e[m];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) s[i] = load<kFloats>(from + (i * n + j) * stride);
    Of::output(s, e);
#pragma GCC unroll 4
    for (int i = 0; i < m; i++) half[i][j] = e[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < m; i++) Of::output(half[i], results + i * m);
}

template <int m>
struct Transform;

// Points 0, 1, -1, infinity.
template <>
struct Transform<2> {
  static constexpr float outer_weight = -1, middle_weight = 1;

  static inline void input(const Floats* d, Floats* v) {
    v[0] = d[2] - d[0];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  static inline void output(const Floats* s, Floats* y) {
    y[0] = s[0] + (s[1] + s[2]);
    y[1] = s[3] + (s[1] - s[2]);
  }
};

// Points 0, a, -a, b, -b, infinity.
template <>
struct Transform<4> {
  static constexpr float a = winograd_a, b = winograd_b, a2 = a * a, b2 = b * b;
  static constexpr float outer_weight = a2 * b2, middle_weight = a * (a2 - b2);

  static inline void input(const Floats* d, Floats* v) {
    v[0] = (d[4] - (a2 + b2) * d[2]) + (a2 * b2) * d[0];
    v[5] = (d[5] - (a2 + b2) * d[3]) + (a2 * b2) * d[1];
    const Floats even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    const Floats even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
  }
  static inline void output(const Floats* s, Floats* y) {
    const Floats even_a = s[1] + s[2], odd_a = s[1] - s[2], even_b = s[3] + s[4], odd_b = s[3] - s[4];
    y[0] = s[0] + (even_a + even_b);
    y[1] = a * odd_a + b * odd_b;
    y[2] = a2 * even_a + b2 * even_b;
    y[3] = (s[5] + (a2 * a) * odd_a) + (b2 * b) * odd_b;
  }
  // The output's transposed: of the gradient of a tile.
  static inline void gradient(const Floats* y, Floats* s) {
    s[0] = y[0];
    const Floats even_a = y[0] + a2 * y[2], odd_a = a * y[1] + (a2 * a) * y[3];
    s[1] = even_a + odd_a;
    s[2] = even_a - odd_a;
    const Floats even_b = y[0] + b2 * y[2], odd_b = b * y[1] + (b2 * b) * y[3];
    s[3] = even_b + odd_b;
    s[4] = even_b - odd_b;
    s[5] = y[3];
  }
};

}  // namespace drystone::DRYSTONE_ISA
