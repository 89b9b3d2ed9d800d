#include "onednn/onednn.h"

namespace drystone {

using dnnl::memory;

ConvolutionWeightGradient::ConvolutionWeightGradient(const Dims& x, const Dims& weights, const Dims& output, const Dims& stride,
                                                     const Dims& padding_l, const Dims& padding_r, const Dims& dilation) {
  Dims dilates = dilation;
  for (auto& d : dilates) d -= 1;  // oneDNN counts the gaps
  const auto any = [](const Dims& shape) { return memory::desc(shape, memory::data_type::f32, memory::format_tag::any); };
  const auto algorithm = dnnl::algorithm::convolution_direct;
  const auto attributes = onednn_attributes({});
  const auto forward = create<dnnl::convolution_forward>(dnnl::prop_kind::forward_training, algorithm, any(x), any(weights), any(output),
                                                         stride, dilates, padding_l, padding_r, attributes);
  const auto [primitive, desc] = create<dnnl::convolution_backward_weights>(algorithm, any(x), any(weights), any(output), stride, dilates,
                                                                            padding_l, padding_r, forward.second, attributes);
  x_ = desc.src_desc();
  output_ = desc.diff_dst_desc();
  weights_ = desc.diff_weights_desc();
  finish({primitive, desc, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_DIFF_DST, output_}, {DNNL_ARG_DIFF_WEIGHTS, weights_}}});
}

}  // namespace drystone
