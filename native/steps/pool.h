// Beside the pooling of steps/list.h: pools whose windows slide, and which also tell where the maxima lie.
#pragma once

#include <memory>
#include <vector>

#include "steps/list.h"

namespace drystone {

// How windows follow each other along an axis: each of `size` inputs, `dilation` apart; those in the padding are left out.
struct Sliding {
  int64_t size, stride, padding, dilation;

  auto operator<=>(const Sliding&) const = default;
};
Windows::value_type windows_of(const Sliding& sliding, int64_t inputs, int64_t outputs);

// Max pooling of dense tensors that also tells where each maximum lies, counted within a channel, by torch's rules. Slots: input, output,
// int64 places. Throws std::invalid_argument for what does not fit together, and for channels of more elements than fit in 32 bits.
std::shared_ptr<Step> make_max_pool_with_places(const TensorDesc& input, const TensorDesc& output, const std::vector<Sliding>& axes);

}  // namespace drystone
