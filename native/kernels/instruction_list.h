// All pointwise instructions: name, and the result for x (of a binary one for x and z), with the scalars alpha and beta. The enum, the
// names and the kernel are made of this list. SCALAR: a formula that the compiler vectorises. VECTOR: one of vector_math.h. PERIODIC: as
// SCALAR, then the formula for arguments too large for it.
#pragma once

// clang-format off
#define DRYSTONE_INSTRUCTIONS(SCALAR, VECTOR, PERIODIC, BINARY) \
  SCALAR(copy, x)                                                                        \
  SCALAR(relu, x < 0.0f ? 0.0f : x)                                                      \
  SCALAR(leaky_relu, x > 0.0f ? x : alpha * x)                                           \
  VECTOR(elu, x > 0.0f ? x : alpha * expm1(x))                                           \
  VECTOR(gelu_erf, gelu_erf(x))                                                          \
  VECTOR(gelu_tanh, gelu_tanh(x))                                                        \
  VECTOR(silu, silu(x))                                                                  \
  VECTOR(mish, mish(x))                                                                  \
  SCALAR(hardswish, x * clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f))                     \
  SCALAR(hardsigmoid, clamp(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f))                       \
  VECTOR(sigmoid, sigmoid(x))                                                            \
  VECTOR(tanh, tanh(x))                                                                  \
  SCALAR(clamp, clamp(x, alpha, beta))                                                   \
  VECTOR(exp, exp(x))                                                                    \
  SCALAR(log, log(x))                                                                    \
  SCALAR(log1p, log1p(x))                                                                \
  SCALAR(sqrt, __builtin_sqrtf(x))                                                       \
  SCALAR(rsqrt, 1.0f / __builtin_sqrtf(x))                                               \
  SCALAR(abs, absolute(x))                                                               \
  SCALAR(neg, -x)                                                                        \
  SCALAR(square, x * x)                                                                  \
  SCALAR(reciprocal, 1.0f / x)                                                           \
  VECTOR(erf, erf(x))                                                                    \
  PERIODIC(sin, sin(x), __builtin_sinf(x))                                               \
  PERIODIC(cos, cos(x), __builtin_cosf(x))                                               \
  SCALAR(affine, alpha * x + beta)                                                       \
  SCALAR(pow, pow(x, alpha))                                                             \
  SCALAR(floor, __builtin_floorf(x))                                                     \
  SCALAR(round, __builtin_rintf(x))                                                      \
  SCALAR(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f)                                \
  SCALAR(replace_nan, x == x ? x : alpha)                                                \
  SCALAR(replace_inf, x == __builtin_inff() ? alpha : x == -__builtin_inff() ? beta : x) \
  BINARY(add, x + z)                                                                     \
  BINARY(sub, x - z)                                                                     \
  BINARY(mul, x * z)                                                                     \
  BINARY(div, x / z)                                                                     \
  BINARY(maximum, maximum(x, z))                                                         \
  BINARY(minimum, minimum(x, z))                                                         \
  BINARY(pow2, pow(x, z))                                                                \
  BINARY(prelu, x > 0.0f ? x : z * x)
// clang-format on
