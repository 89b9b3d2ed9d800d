// How topk goes about a row of a given length.
#pragma once

#include "kernels/topk.h"

namespace drystone {

int64_t size_of(TopkElement element);

// Fills in what follows from element, count, k and stride: from `bound` on, but for threads and scratch.
void plan_topk(TopkArgs& args);

}  // namespace drystone
