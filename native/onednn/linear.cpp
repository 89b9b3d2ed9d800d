#include "onednn/onednn.h"

namespace drystone {

using dnnl::memory;
using tag = memory::format_tag;

Linear::Linear(bool inner_product, DType dtype, int64_t m, int64_t k, int64_t n, bool has_bias, DType output_dtype,
               const std::vector<PostOp>& post_ops)
    : inner_product_(inner_product), k_(k), n_(n) {
  const auto type = onednn_dtype(dtype);
  const memory::desc x({m, k}, type, tag::ab), output({m, n}, onednn_dtype(output_dtype), tag::ab);
  const auto attributes = onednn_attributes(post_ops);
  std::vector<Argument> arguments;
  const auto describe = [&](const auto& desc) {
    weights_.emplace(desc.weights_desc());
    arguments = {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}};
    if (has_bias) arguments.push_back({DNNL_ARG_BIAS, desc.bias_desc()});
    arguments.push_back({DNNL_ARG_DST, desc.dst_desc()});
    for (size_t i = 0; i < post_ops.size(); i++)
      if (post_ops[i].operand)
        arguments.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(static_cast<int>(i)) | DNNL_ARG_SRC_1, onednn_desc(*post_ops[i].operand)});
  };
  if (inner_product) {
    const memory::desc bias = has_bias ? memory::desc({n}, memory::data_type::f32, tag::a) : memory::desc();
    const dnnl::inner_product_forward::primitive_desc desc(engine(), dnnl::prop_kind::forward_inference, x,
                                                           memory::desc({n, k}, type, tag::any), bias, output, attributes);
    describe(desc);
    finish(dnnl::inner_product_forward(desc), desc, std::move(arguments));
  } else {
    const memory::desc bias = has_bias ? memory::desc({1, n}, memory::data_type::f32, tag::ab) : memory::desc();
    const dnnl::matmul::primitive_desc desc(engine(), x, memory::desc({k, n}, type, tag::any), bias, output, attributes);
    describe(desc);
    finish(dnnl::matmul(desc), desc, std::move(arguments));
  }
}

void Linear::pack(DType dtype, const void* source, void* packed) const {
  const auto type = onednn_dtype(dtype);
  weights_->pack(inner_product_ ? memory::desc({n_, k_}, type, tag::ab) : memory::desc({k_, n_}, type, tag::ba), source, packed);
}

}  // namespace drystone
