// The steps that gather entries by tensors of indices.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// output[o…, g…, i…] = input[o…, indices[0][g…], indices[1][g…], …, i…], where the indexed axes begin with `dim` and the indices
// (s64 or s32) broadcast to the grid g. wraps: negative indices count from the end. An index out of range throws
// std::out_of_range, in the words of the operator `name`. Slots: input, indices, output. All dense and plain.
std::shared_ptr<Step> make_index(const TensorDesc& input, const std::vector<TensorDesc>& indices, const TensorDesc& output, int64_t dim,
                                 bool wraps, const std::string& name);

// output[…, g, …] = input[…, indices[…, g, …], …] along the axis `dim`, the other places being the entry's own. An index out of
// range throws std::runtime_error. Slots: input, indices, output. All dense and plain.
std::shared_ptr<Step> make_gather(const TensorDesc& input, const TensorDesc& indices, const TensorDesc& output, int64_t dim);

}  // namespace drystone
