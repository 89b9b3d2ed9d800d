// topk: how its step and torch's operator go about a row of a given length.
#pragma once

#include "kernels/topk.h"

namespace drystone {

// Fills in the rows along `dim`, of a tensor and of results of which both lie alike. Gives their number, or -1 where they have too many
// axes.
int64_t set_rows(TopkArgs& args, int64_t rank, const int64_t* shape, const int64_t* strides, const int64_t* result_strides, int64_t dim);

// Fills in what follows from dtype, count, k, stride and the number of rows: from `bound` on, but for the scratch memory itself.
void plan_topk(TopkArgs& args, int64_t rows, int threads);

}  // namespace drystone
