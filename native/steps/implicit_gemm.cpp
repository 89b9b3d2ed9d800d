#include "steps/implicit_gemm.h"

#include <stdexcept>

#include "steps/spatial.h"

namespace drystone {

namespace {

constexpr char op_name[] = "an implicit GEMM";

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

// (N, C, *spatial) in channels_last as rows of channels, one a position; what is broadcast as one row.
TensorDesc as_rows(const TensorDesc& desc) {
  require(desc.format == Format::channels_last, "an implicit GEMM works on channels_last: " + desc.str());
  const int64_t channels = desc.shape[1];
  int64_t rows = 1, apart = 0;
  for (int64_t axis = desc.rank() - 1; axis >= 0; axis -= axis == 2 ? 2 : 1) {
    const int64_t size = desc.shape[axis];
    if (size == 1) continue;
    if (rows == 1) apart = desc.strides[axis];
    require(desc.strides[axis] == apart * rows, "positions of " + desc.str() + " do not follow each other at one distance");
    rows *= size;
  }
  TensorDesc matrix = TensorDesc::dense(desc.dtype, Format::plain, {rows, channels});
  if (rows > 1) matrix.strides[0] = apart;
  matrix.strides[1] = channels == 1 ? 1 : desc.strides[1];
  return is_code(desc.dtype) ? matrix.quantised(desc.scale, desc.zero_point) : matrix;
}

std::vector<PostOp> as_rows(std::vector<PostOp> ops, const TensorDesc& output) {
  for (PostOp& op : ops) {
    if (!op.operand) continue;
    TensorDesc& operand = *op.operand;
    bool whole = operand.rank() == output.rank(), one = whole;
    for (int64_t axis = 0; whole && axis < output.rank(); axis++)
      if (axis != 1) one &= operand.shape[axis] == 1;
    for (int64_t axis = 0; whole && axis < output.rank(); axis++)
      if (axis != 1) whole &= operand.shape[axis] == output.shape[axis];
    require(whole || one, "an operand (" + operand.str() + ") is neither of the shape of " + output.str() + " nor one of its positions");
    if (one && operand.format == Format::plain) operand.format = Format::channels_last;
    operand = as_rows(operand);
  }
  return ops;
}

struct Geometry {
  TensorDesc rows;
  GemmPatches patches;
};

Geometry geometry_of(const TensorDesc& x, const Dims& weights, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
                     const Dims& padding_r, const Dims& dilation) {
  const int64_t axes = x.rank() - 2;
  require(axes == 1 || axes == 2, "an implicit GEMM takes (N, C, W) or (N, C, H, W), not " + x.str());
  require(is_code(x.dtype), "an implicit GEMM multiplies codes, not " + x.str());
  require(x.format == Format::channels_last && (x.shape[1] == 1 || x.strides[1] == 1),
          "an implicit GEMM works on channels_last: " + x.str());
  require(output.rank() == x.rank() && output.shape[0] == x.shape[0] && weights.size() == x.shape.size() && weights[0] == output.shape[1] &&
              weights[1] == x.shape[1],
          "an implicit GEMM needs weights (O, C, *kernel) of one group, and an output of its batch and channels");
  const SpatialView in = spatial_view(x, op_name, true);
  GemmPatches p{};
  set_axes(p, op_name, in, spatial_view(output, op_name, true), weights, stride, padding_l, padding_r, dilation);
  p.channels = x.shape[1];
  p.image = in.batch_stride;
  p.line = in.stride[1];
  p.pixel = in.stride[2];
  const int64_t positions = x.shape[0] * p.out_size[1] * p.out_size[2], taps = p.kernel[1] * p.kernel[2];
  const TensorDesc rows = TensorDesc::dense(x.dtype, Format::plain, {positions, taps * p.channels});
  return {rows.quantised(x.scale, x.zero_point), p};
}

// Where each position meets itself alone, rows lie as they are.
bool is_pointwise(const GemmPatches& p) {
  for (int i = 1; i < 3; i++)
    if (p.kernel[i] != 1 || p.stride[i] != 1 || p.padding[i] != 0 || p.in_size[i] != p.out_size[i]) return false;
  return true;
}

Gemm make(const TensorDesc& x, const Geometry& g, bool has_bias, const TensorDesc& output, const std::vector<PostOp>& ops,
          const CodeWeights& weights, bool widened) {
  const bool direct = is_pointwise(g.patches) && x.is_dense();
  return Gemm(g.rows, output.shape[1], has_bias, as_rows(output), as_rows(ops, output), widened, weights, {},
              direct ? nullptr : &g.patches);
}

}  // namespace

ImplicitGemm::ImplicitGemm(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
                           const Dims& padding_l, const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops,
                           const CodeWeights& code_weights, bool widened)
    : gemm_(make(x, geometry_of(x, weights, output, stride, padding_l, padding_r, dilation), has_bias, output, post_ops, code_weights,
                 widened)) {
  outputs_ = weights[0];
  channels_ = weights[1];
  taps_ = 1;
  for (size_t axis = 2; axis < weights.size(); axis++) taps_ *= weights[axis];
  implementation = "implicit_" + gemm_.implementation;
  scratchpad_bytes = gemm_.scratchpad_bytes;
}

// Taps come before channels.
void ImplicitGemm::pack(DType dtype, const void* source, void* packed) const {
  require(dtype == DType::s8, "an implicit GEMM packs weights of s8");
  const auto* from = static_cast<const int8_t*>(source);
  std::vector<int8_t> rows(outputs_ * taps_ * channels_);
  for (int64_t o = 0; o < outputs_; o++)
    for (int64_t c = 0; c < channels_; c++)
      for (int64_t t = 0; t < taps_; t++) rows[(o * taps_ + t) * channels_ + c] = *from++;
  gemm_.pack(dtype, rows.data(), packed);
}

}  // namespace drystone
