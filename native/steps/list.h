// The steps that are made from descriptors and fields alone: name, contract, parameters. Each is written in a source of its own as
// make_<name>; this list declares it and binds it for Python, where a parameter of an optional is None by default. All throw
// std::invalid_argument for what does not fit together. Slots are the tensors in the order of the parameters, unless said.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"
#include "steps/grouped_strips.h"

namespace drystone {

using HeadsFirst = std::array<bool, 4>;
using Windows = std::vector<std::vector<std::array<int64_t, 3>>>;
using Descs = std::vector<TensorDesc>;
using Tables = std::vector<Dims>;

// clang-format off
#define DRYSTONE_STEPS(STEP)                                                                                                             \
  STEP(attention,                                                                                                                        \
       "softmax(scale * query keyᵀ + mask) value for each head, as torch.nn.functional.scaled_dot_product_attention: float32 or "        \
       "bfloat16, of any strides but 1 between neighbours on the last axis. heads_first, of query, key, value and output: the axes are " \
       "(B, H, T, D), or else (B, T, H, D). The heads of query may be a multiple of those of key and value, which then serve several in " \
       "turn. mask: float32 or bfloat16 to add, or bool (False hides), broadcast to (B, H, T, S). causal hides the keys after a query's " \
       "own index. A row of which every key is hidden gives 0, or NaN where nan_if_hidden (as a softmax does). The output overlaps none.", \
       const TensorDesc& query, const TensorDesc& key, const TensorDesc& value, const std::optional<TensorDesc>& mask,                   \
       const TensorDesc& output, const HeadsFirst& heads_first, double scale, bool causal, bool nan_if_hidden)                           \
  STEP(cached_attention,                                                                                                                 \
       "Attention over the pages of a cache (core/cache_pages.h): key (B, Hk, T, D) and value (B, Hk, T, width), if given, are written " \
       "after the `lengths` (int64, B) positions that each row of `pages` (int64: layers, B, capacity) has, then query (B, H, T, D) "    \
       "attends to what its row has: float32 or bfloat16, of any strides but 1 between neighbours on the last axis. cosines and sines, " \
       "which broadcast to (B, 1, T, D): query and key are turned first, as by rotary. The output is (B, T, H, width). causal: query t " \
       "sees position lengths + t last, which must have been written; else each sees all. window: so many positions at most; 0: all. "   \
       "softcap: c of c * tanh(score / c); 0: none. sinks (H): a score more a head, without value. bias (float32: H, size): added to "\
       "the scores of the key at position i is column i, or by_distance, counted back from the last column, which is the query's own "\
       "position; at most the first or the last column. A table that leads to no pages, or to others than these operands need, raises "\
       "drystone.InputError.",                                                                \
       const TensorDesc& query, const std::optional<TensorDesc>& key, const std::optional<TensorDesc>& value,                            \
       const std::optional<TensorDesc>& cosines, const std::optional<TensorDesc>& sines, const TensorDesc& pages,                        \
       const TensorDesc& lengths, const std::optional<TensorDesc>& sinks, const std::optional<TensorDesc>& bias, const TensorDesc& output,\
       int64_t layer, double scale, int64_t window, double softcap, bool by_distance, bool causal)                                                                                      \
  STEP(copy,                                                                                                                             \
       "Permute, slice, pad, expand, concatenate (into a strided output) and reorder: output axis i reads input axis axes[i] at index "  \
       "tables[i][o]. axes[i] = -1 does not move in the input; an empty table is the identity; index -1 fills `value`. Any formats and " \
       "strides, equal dtypes or float32 and bfloat16. Channels that pad a blocked output become zero. The two must not overlap.",       \
       const TensorDesc& input, const TensorDesc& output, const std::vector<int64_t>& axes, const Tables& tables, double value)          \
  STEP(quantise,                                                                                                                         \
       "float32 or bfloat16 to codes (s8, u8): round(x / scale) + zero_point, ties to even, kept within the dtype's codes, as torch's "  \
       "quantized_decomposed has it (NaN becomes the code 0). One shape and format, any strides; channels that pad a block become zero.", \
       const TensorDesc& input, const TensorDesc& output)                                                                                \
  STEP(dequantise,                                                                                                                       \
       "Codes (s8, u8) to the float32 or bfloat16 that they stand for: (code - zero_point) * scale. One shape and format, any strides; " \
       "channels that pad a block become zero.",                                                                                         \
       const TensorDesc& input, const TensorDesc& output)                                                                                \
  STEP(elementwise,                                                                                                                      \
       "One operation in the operands' own dtype, which broadcast and are plain. Kinds: convert; invert, bit_and, bit_or, bit_xor "      \
       "(integers, bool); add, sub, mul, floor_div, remainder, maximum, minimum (integers); eq, ne, lt, le, gt, ge (output bool); where " \
       "(bool, two of the output's dtype).",                                                                                             \
       const Descs& inputs, const TensorDesc& output, const std::string& kind)                                                           \
  STEP(aggregate,                                                                                                                        \
       "Along the neighbouring axes dims of dense plain memory: cumsum and cumprod (float32, bfloat16, int64; one axis), cummax and "    \
       "cummin (one axis), sum (int64), any, all (bool), amax, amin, argmax, argmin (output int64). A third slot of cummax and cummin "  \
       "is their places (int64, of the output's shape).",                                                                                \
       const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims)                                     \
  STEP(gather,                                                                                                                           \
       "output[…, g, …] = input[…, indices[…, g, …], …] along the axis dim, the other places being the entry's own. An index out of "    \
       "range raises RuntimeError. All dense and plain.",                                                                                \
       const TensorDesc& input, const TensorDesc& indices, const TensorDesc& output, int64_t dim)                                        \
  STEP(grid_sample,                                                                                                                      \
       "torch.nn.functional.grid_sample of images: 'bilinear' or 'nearest'; padding 'zeros', 'border' or 'reflection'. float32 and "     \
       "bfloat16; the grid is plain, of the same dtype. One format of input and output, no overlap.",                                    \
       const TensorDesc& input, const TensorDesc& grid, const TensorDesc& output, const std::string& mode, const std::string& padding,   \
       bool align_corners)                                                                                                               \
  STEP(grouped_rows,                                                                                                                     \
       "The rows at indices (int64 or int32) of weights that ``strips`` packs, decoded to float32 or bfloat16. An index out of range "  \
       "raises IndexError. Slots: packed weights, indices, output; all dense and plain.",                                                \
       const GroupedStrips& strips, const TensorDesc& indices, const TensorDesc& output)                                                 \
  STEP(index,                                                                                                                            \
       "output[o…, g…, i…] = input[o…, indices[0][g…], indices[1][g…], …, i…], where the indexed axes begin with dim and the indices "   \
       "(int64 or int32) broadcast to the grid g. wraps: negative indices count from the end. An index out of range raises IndexError, " \
       "in the words of the operator `name`. All dense and plain.",                                                                      \
       const TensorDesc& input, const Descs& indices, const TensorDesc& output, int64_t dim, bool wraps, const std::string& name)        \
  STEP(index_copy,                                                                                                                       \
       "The input, with source[…, i, …] at […, indices[i], …] along the axis dim; of equal indices the last counts. wraps: negative "    \
       "indices count from the end. An index out of range raises IndexError. All dense and plain. The output may be the input's memory.", \
       const TensorDesc& input, const TensorDesc& indices, const TensorDesc& source, const TensorDesc& output, int64_t dim, bool wraps)  \
  STEP(lrn, "torch.nn.functional.local_response_norm. float32 and bfloat16, plain or channels_last; no overlap.",                        \
       const TensorDesc& input, const TensorDesc& output, int64_t size, double alpha, double beta, double k)                             \
  STEP(norm,                                                                                                                             \
       "'layer' or 'rms' norm over the axes dims, 'group' norm of so many groups over the channels of each and all spatial axes, or "    \
       "'batch' norm over all axes but the channels', of plain and channels_last tensors. The output may be the input's memory.",        \
       const TensorDesc& input, const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias,                          \
       const TensorDesc& output, const std::string& kind, const Dims& dims, int64_t groups, double eps)                                  \
  STEP(overlap_add,                                                                                                                      \
       "torch's col2im: windows (N, C, kernel, windows), in whatever shape, added up where they lie in the output (N, C, H, W). All "    \
       "dense and plain, float32 or bfloat16.",                                                                                          \
       const TensorDesc& input, const TensorDesc& output, const Dims& kernel, const Dims& strides, const Dims& dilations,                \
       const Dims& padding)                                                                                                              \
  STEP(pool,                                                                                                                             \
       "max or avg pooling ('max', 'avg'). windows: for each spatial axis, for each output index, the (start, stop, step) of the input " \
       "positions it reads, inside of the input. avg divides the sum by the product of divisors[axis][index], or by divisor_override if " \
       "that is > 0; one of nothing is 0. float32, bfloat16, codes; one format on both sides, no overlap.",                                  \
       const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Windows& windows,                               \
       const Tables& divisors, int64_t divisor_override)                                                                                 \
  STEP(reduce, "'mean' or 'sum' over the axes dims, of floats or codes. The output has them of size 1, or does not have them.",                              \
       const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims)                                     \
  STEP(resize,                                                                                                                           \
       "torch's upsample_nearest{1,2,3}d ('nearest', 'nearest_exact'), upsample_linear1d, bilinear2d, trilinear3d ('linear'), upsample_bicubic2d "        \
       "('cubic'), _upsample_bilinear2d_aa and _upsample_bicubic2d_aa ('linear_antialias', 'cubic_antialias'). scales[axis], of output " \
       "coordinates: (in - 1) / (out - 1), or 0 where out is 1, with align_corners (not nearest); else 1 / scale factor where one was "  \
       "given (and recompute_scale_factor was not); else in / out. Input coordinates are o * scale for nearest and with align_corners, " \
       "(o + 0.5) * scale - 0.5 otherwise (of linear and nearest_exact at least 0), in float32 with one rounding, as torch's kernels have it. linear "     \
       "copies an axis that keeps its size. float32 and bfloat16, one format on both sides, no overlap.",                                \
       const TensorDesc& input, const TensorDesc& output, const std::string& mode, bool align_corners,                                   \
       const std::vector<double>& scales)                                                                                                \
  STEP(rotary,                                                                                                                           \
       "x * cosines + (second half of x's last axis negated, then the first half) * sines. Plain float32 or bfloat16 operands of any "   \
       "strides but on the last axis; cosines and sines broadcast along the other axes.",                                                \
       const TensorDesc& x, const TensorDesc& cosines, const TensorDesc& sines, const TensorDesc& output)                                \
  STEP(softmax, "Softmax along the axis dim. The output may be the input's memory.",                                                     \
       const TensorDesc& input, const TensorDesc& output, int64_t dim)                                                                   \
  STEP(topk,                                                                                                                             \
       "The largest (or smallest) entries along the axis dim, as many as values has, and their places (int64); of equals the first, NaN " \
       "above all numbers. Not `sorted`, they come in any order. All dense and plain.",                                                  \
       const TensorDesc& input, const TensorDesc& values, const TensorDesc& places, int64_t dim, bool largest, bool sorted)
// clang-format on

#define STEP(name, contract, ...) std::shared_ptr<Step> make_##name(__VA_ARGS__);
DRYSTONE_STEPS(STEP)
#undef STEP

}  // namespace drystone
