#include <stdexcept>

#include "onednn/onednn.h"

namespace drystone {

using dnnl::memory;
using tag = memory::format_tag;

Linear::Linear(bool inner_product, const TensorDesc& x, int64_t n, bool has_bias, const TensorDesc& output,
               const std::vector<PostOp>& post_ops, const std::vector<float>& weight_scales, bool weights_fit_7_bits)
    : inner_product_(inner_product), k_(x.rank() == 2 ? x.shape[1] : 0), n_(n) {
  if (x.rank() != 2 || output.shape != Dims{x.shape[0], n} || !x.is_dense() || !output.is_dense())
    throw std::invalid_argument("a linear layer reads dense (M, K) and writes dense (M, N), not " + x.str() + " and " + output.str());
  const int64_t k = k_;
  const Codes codes(x, output, n, weight_scales, weights_fit_7_bits);
  const auto type = onednn_dtype(codes.weights(x.dtype));
  const memory::desc source = onednn_desc(x), target = onednn_desc(output);
  const memory::desc bias = !has_bias       ? memory::desc()
                            : inner_product ? memory::desc({n}, memory::data_type::f32, tag::a)
                                            : memory::desc({1, n}, memory::data_type::f32, tag::ab);
  const auto made = [=](const auto& created, const std::vector<PostOp>& ops) {
    const auto& [primitive, desc] = created;
    std::vector<Primitive::Argument> arguments = {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}};
    if (has_bias) arguments.push_back({DNNL_ARG_BIAS, desc.bias_desc()});
    arguments.push_back({DNNL_ARG_DST, desc.dst_desc()});
    add_operands(ops, arguments);
    return std::pair(Primitive(primitive, desc, std::move(arguments), codes.constants()), desc.weights_desc());
  };
  const auto attributes_of = [=](const std::vector<PostOp>& ops, int columns_mask) {
    dnnl::primitive_attr attributes = onednn_attributes(ops, output);
    codes.add_to(attributes, columns_mask);
    return attributes;
  };
  const auto inner = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    return made(
        create<dnnl::inner_product_forward>(dnnl::prop_kind::forward_inference, source,
                                            layout ? *layout : memory::desc({n, k}, type, tag::any), bias, target, attributes_of(ops, 1)),
        ops);
  };
  const auto product = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    return made(create<dnnl::matmul>(source, layout ? *layout : memory::desc({k, n}, type, tag::any), bias, target, attributes_of(ops, 2)),
                ops);
  };
  finish(inner_product ? Make(inner) : Make(product), output, has_bias, post_ops, codes);
}

void Linear::pack(DType dtype, const void* source, void* packed) const {
  const auto type = onednn_dtype(dtype);
  pack_plain(inner_product_ ? memory::desc({n_, k_}, type, tag::ab) : memory::desc({k_, n_}, type, tag::ba), source, packed);
}

}  // namespace drystone
