// All kernels: result, name, arguments. A kernel's name and signature stand here and in its own source only: a kernel that is not
// listed cannot be called, one that is listed and not written does not link.
#pragma once

#define DRYSTONE_KERNELS(KERNEL)                        \
  KERNEL(void, pointwise, PointwiseArgs)                \
  KERNEL(void, reduce, ReduceArgs)                      \
  KERNEL(void, softmax, SoftmaxArgs)                    \
  KERNEL(void, norm, NormArgs)                          \
  KERNEL(void, pool, PoolArgs)                          \
  KERNEL(void, resize, ResizeArgs)                      \
  KERNEL(void, resample, ResampleArgs)                  \
  KERNEL(void, grid_sample, GridSampleArgs)             \
  KERNEL(void, copy, CopyArgs)                          \
  KERNEL(void, overlap_add, OverlapAddArgs)             \
  KERNEL(void, concatenate, ConcatenateArgs)            \
  KERNEL(void, lrn, LrnArgs)                            \
  KERNEL(void, side_by_side, SideBySideArgs)            \
  KERNEL(void, winograd, WinogradArgs)                  \
  KERNEL(void, winograd_weights, WinogradWeights)       \
  KERNEL(void, winograd_gradient, WinogradGradientArgs) \
  KERNEL(void, depthwise, DepthwiseArgs)                \
  KERNEL(void, depthwise_codes, DepthwiseCodesArgs)     \
  KERNEL(void, direct, DirectArgs)                      \
  KERNEL(void, gemm, GemmArgs)                          \
  KERNEL(bool, guard, GuardArgs)                        \
  KERNEL(void, attention, AttentionArgs)                \
  KERNEL(void, cached_attention, CachedAttentionArgs)   \
  KERNEL(void, elementwise, ElementwiseArgs)            \
  KERNEL(bool, index, IndexArgs)                        \
  KERNEL(bool, bags, BagArgs)                           \
  KERNEL(void, scatter, ScatterArgs)                    \
  KERNEL(void, aggregate, AggregateArgs)                \
  KERNEL(void, rotary, RotaryArgs)                      \
  KERNEL(void, topk, TopkArgs)                          \
  KERNEL(void, recurrent, RecurrentArgs)                \
  KERNEL(void, skinny_gemm, SkinnyGemmArgs)
