#pragma once

#include <array>
#include <memory>
#include <optional>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// Of query, key, value and output: whether the axes are (B, H, T, D) or (B, T, H, D).
using HeadsFirst = std::array<bool, 4>;

// softmax(scale * query keyᵀ + mask) value for each head, as torch.nn.functional.scaled_dot_product_attention: float32 or bfloat16, of
// any strides but 1 between neighbours on the last axis. The heads of query may be a multiple of those of key and value, which then serve
// several in turn. mask: float32 or bfloat16 to add, or bool (false hides), broadcast to (B, H, T, S). causal hides the keys after a
// query's own index. A row of which every key is hidden gives 0, or NaN where `nan_if_hidden` (as a softmax does).
// Slots: query, key, value, mask where there is one, output; the output overlaps none. Throws std::invalid_argument for anything else.
std::shared_ptr<Step> make_attention(const TensorDesc& query, const TensorDesc& key, const TensorDesc& value,
                                     const std::optional<TensorDesc>& mask, const TensorDesc& output, const HeadsFirst& heads_first,
                                     double scale, bool causal, bool nan_if_hidden);

}  // namespace drystone
