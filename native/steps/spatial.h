// How kernels over spatial axes see a tensor: batch, blocks of neighbouring channels, and three spatial axes, missing ones of size 1
// in front.
#pragma once

#include <stdexcept>
#include <string>

#include "core/tensor.h"
#include "kernels/spatial.h"

namespace drystone {

struct SpatialView {
  int64_t batch, batch_stride;
  int64_t blocks, block, block_stride;  // plain: every channel is a block; channels_last: all channels are one
  int64_t size[3] = {1, 1, 1}, stride[3] = {0, 0, 0};
};

// Throws std::invalid_argument for ranks other than 3 to 5, and for channels that are not neighbours where the format says so.
inline SpatialView spatial_view(const TensorDesc& desc, const char* op, bool takes_codes = false) {
  const auto refuse = [&](const char* why) { throw std::invalid_argument(std::string(op) + " " + why + ", not " + desc.str()); };
  const int64_t rank = desc.rank();
  if (rank < 3 || rank > 5) refuse("takes (N, C, *spatial) with 1 to 3 spatial axes");
  if (!takes_codes || !is_code(desc.dtype)) require_float(desc.dtype, std::string("an operand of ") + op);
  const bool last = desc.format.order == Order::channels_last;
  if (last && desc.shape[1] > 1 && desc.strides[1] != 1) refuse("needs neighbouring channels");
  SpatialView view{.batch = desc.shape[0],
                   .batch_stride = desc.strides[0],
                   .blocks = last ? 1 : desc.blocks(1),
                   .block = last ? desc.shape[1] : desc.format.block,
                   .block_stride = last ? 0 : desc.strides[1]};
  for (int64_t i = 2; i < rank; i++) {
    view.size[3 - rank + i] = desc.shape[i];
    view.stride[3 - rank + i] = desc.strides[i];
  }
  return view;
}

// Input and output as kernels over spatial axes have them; the two are alike.
inline SpatialArgs spatial_args(const TensorDesc& input, const SpatialView& in, const SpatialView& out) {
  return {
      .dtype = input.dtype,
      .batch = in.batch,
      .in_batch_stride = in.batch_stride,
      .out_batch_stride = out.batch_stride,
      .blocks = in.blocks,
      .block = in.block,
      .in_block_stride = in.block_stride,
      .out_block_stride = out.block_stride,
  };
}

// weights: (O, C / groups, *kernel). Throws std::invalid_argument for what does not fit together.
inline void set_axes(ConvolutionAxes& to, const std::string& op, const SpatialView& in, const SpatialView& out, const Dims& weights,
                     const Dims& stride, const Dims& padding_l, const Dims& padding_r, const Dims& dilation) {
  const size_t axes = weights.size() - 2;
  if (stride.size() != axes || padding_l.size() != axes || padding_r.size() != axes || dilation.size() != axes)
    throw std::invalid_argument(op + " needs stride, padding and dilation for each spatial axis");
  for (size_t i = 0; i < 3; i++) {
    const bool given = i >= 3 - axes;
    const size_t axis = given ? i - (3 - axes) : 0;
    to.in_size[i] = in.size[i];
    to.out_size[i] = out.size[i];
    to.kernel[i] = given ? weights[2 + axis] : 1;
    to.stride[i] = given ? stride[axis] : 1;
    to.dilation[i] = given ? dilation[axis] : 1;
    to.padding[i] = given ? padding_l[axis] : 0;
    if (to.kernel[i] < 1 || to.stride[i] < 1 || to.dilation[i] < 1 || to.padding[i] < 0 || (given && padding_r[axis] < 0))
      throw std::invalid_argument(op + " needs positive kernels, strides and dilations, and no negative padding");
    const int64_t room = in.size[i] + to.padding[i] + (given ? padding_r[axis] : 0) - to.dilation[i] * (to.kernel[i] - 1) - 1;
    if (room < 0 || out.size[i] != room / to.stride[i] + 1)
      throw std::invalid_argument("the output of a convolution does not have the size that follows from its input");
  }
}

// Input and output of an operator that keeps batch, channels, format and dtype.
inline void require_alike(const TensorDesc& input, const TensorDesc& output, const char* op) {
  if (input.format != output.format || input.dtype != output.dtype || input.rank() != output.rank() || input.rank() < 2 ||
      input.shape[0] != output.shape[0] || input.shape[1] != output.shape[1])
    throw std::invalid_argument(std::string(op) + " needs an output with the batch, channels, format and dtype of its input: " +
                                input.str() + " and " + output.str());
}

}  // namespace drystone
