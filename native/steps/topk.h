// The arguments of the topk kernel, which its step and torch's operator fill in alike.
#pragma once

#include <optional>
#include <span>

#include "kernels/topk.h"

namespace drystone {

// A tensor, of any strides, and what is wanted of it: values and their places, which lie alike.
struct TopkCall {
  DType dtype;
  std::span<const int64_t> shape, strides, result_strides;
  int64_t dim, k;
  bool largest, sorted;
};

// All but addresses and scratch memory, of which each thread needs `scratch_bytes`. Nothing where the kernel does not serve the call.
std::optional<TopkArgs> topk_args(const TopkCall& call, int threads);

// With scratch memory for args.threads, aligned to 64.
void run_topk(TopkArgs args, const void* input, void* values, void* places, void* scratch);

}  // namespace drystone
