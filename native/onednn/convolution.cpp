#include <stdexcept>

#include "onednn/onednn.h"
#include "onednn/trial.h"

namespace drystone {

using dnnl::memory;

// oneDNN keeps the groups as an axis of their own: the bytes of dense (O, C/groups, k…) are those of (groups, O/groups, C/groups, k…).
static memory::dims with_groups(const Dims& weights, int64_t groups) {
  if (groups == 1) return weights;
  memory::dims dims = {groups, weights[0] / groups};
  dims.insert(dims.end(), weights.begin() + 1, weights.end());
  return dims;
}

static memory::desc dense_desc(const memory::dims& dims, DType dtype) {
  return memory::desc(dims, onednn_dtype(dtype), TensorDesc::dense(dtype, Format::plain, dims).strides);
}

Convolution::Convolution(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
                         const Dims& padding_l, const Dims& padding_r, const Dims& dilation, int64_t groups,
                         const std::vector<PostOp>& post_ops, bool transposed, const std::vector<float>& weight_scales,
                         bool weights_fit_7_bits) {
  const size_t spatial = x.shape.size() - 2;
  if (weights.size() != x.shape.size() || output.shape.size() != x.shape.size() || stride.size() != spatial ||
      padding_l.size() != spatial || padding_r.size() != spatial || dilation.size() != spatial)
    throw std::invalid_argument("a convolution's shapes and attributes differ in rank");
  if (groups < 1 || weights[0] % groups || x.shape[1] != weights[1] * groups)
    throw std::invalid_argument("channels, weights and groups of a convolution do not fit together");
  const Codes codes(x, output, weights[0], weight_scales, weights_fit_7_bits);
  if (codes && transposed) throw std::invalid_argument("a transposed convolution of codes is not served");
  weights_shape_ = with_groups(weights, groups);
  Dims dilates = dilation;
  for (auto& d : dilates) d -= 1;  // oneDNN counts the gaps
  const memory::desc any_weights(weights_shape_, onednn_dtype(codes.weights(x.dtype)), memory::format_tag::any);
  const memory::desc bias = has_bias ? memory::desc({weights[0]}, memory::data_type::f32, memory::format_tag::a) : memory::desc();
  const memory::desc source = onednn_desc(x), target = onednn_desc(output);
  const auto make = [=]<class Kind>(dnnl::algorithm algorithm, const std::vector<PostOp>& ops, const memory::desc* layout) {
    dnnl::primitive_attr attributes = onednn_attributes(ops, output);
    codes.add_to(attributes, groups > 1 ? 3 : 1);
    const auto [primitive, desc] = create<Kind>(dnnl::prop_kind::forward_inference, algorithm, source, layout ? *layout : any_weights, bias,
                                                target, stride, dilates, padding_l, padding_r, attributes);
    std::vector<Primitive::Argument> arguments = {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}};
    if (has_bias) arguments.push_back({DNNL_ARG_BIAS, desc.bias_desc()});
    arguments.push_back({DNNL_ARG_DST, desc.dst_desc()});
    add_operands(ops, arguments);
    return std::pair(Primitive(primitive, desc, std::move(arguments), codes.constants()), desc.weights_desc());
  };
  const DeconvolutionShape shape = {x, output, weights, stride, dilation, padding_l, padding_r};
  const auto transpose = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    auto made = make.template operator()<dnnl::deconvolution_forward>(dnnl::algorithm::deconvolution_direct, ops, layout);
    const bool suspect = made.first.implementation.find("brgconv_strided") != std::string::npos && (has_bias || !ops.empty());
    if (suspect && !adds_bias_once(shape)) throw std::invalid_argument("oneDNN's kernel adds the bias more than once");
    return made;
  };
  const auto convolve = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    return make.template operator()<dnnl::convolution_forward>(dnnl::algorithm::convolution_direct, ops, layout);
  };
  finish(transposed ? Make(transpose) : Make(convolve), output, has_bias, post_ops, codes);
  if (transposed && has_exact_run()) exact_primitive();  // it may be the one that is refused
}

void Convolution::pack(DType dtype, const void* source, void* packed) const {
  pack_plain(dense_desc(weights_shape_, dtype), source, packed);
}

}  // namespace drystone
