// How topk goes about a row of a given length.
#pragma once

#include "kernels/topk.h"

namespace drystone {

// Fills in what follows from element, count, k, stride and the number of rows: from `bound` on, but for the scratch memory itself.
void plan_topk(TopkArgs& args, int64_t rows, int threads);

}  // namespace drystone
