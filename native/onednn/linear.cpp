#include "onednn/onednn.h"

namespace drystone {

using dnnl::memory;
using tag = memory::format_tag;

Linear::Linear(bool inner_product, DType dtype, int64_t m, int64_t k, int64_t n, bool has_bias, DType output_dtype,
               const std::vector<PostOp>& post_ops)
    : inner_product_(inner_product), k_(k), n_(n) {
  const auto type = onednn_dtype(dtype);
  const memory::desc x({m, k}, type, tag::ab), output({m, n}, onednn_dtype(output_dtype), tag::ab);
  const memory::desc bias = !has_bias       ? memory::desc()
                            : inner_product ? memory::desc({n}, memory::data_type::f32, tag::a)
                                            : memory::desc({1, n}, memory::data_type::f32, tag::ab);
  const auto made = [=](const auto& created, const std::vector<PostOp>& ops) {
    const auto& [primitive, desc] = created;
    std::vector<Primitive::Argument> arguments = {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}};
    if (has_bias) arguments.push_back({DNNL_ARG_BIAS, desc.bias_desc()});
    arguments.push_back({DNNL_ARG_DST, desc.dst_desc()});
    add_operands(ops, arguments);
    return std::pair(Primitive(primitive, desc, std::move(arguments)), desc.weights_desc());
  };
  const auto inner = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    return made(
        create<dnnl::inner_product_forward>(dnnl::prop_kind::forward_inference, x, layout ? *layout : memory::desc({n, k}, type, tag::any),
                                            bias, output, onednn_attributes(ops)),
        ops);
  };
  const auto product = [=](const std::vector<PostOp>& ops, const memory::desc* layout) {
    return made(create<dnnl::matmul>(x, layout ? *layout : memory::desc({k, n}, type, tag::any), bias, output, onednn_attributes(ops)),
                ops);
  };
  const TensorDesc rows = TensorDesc::dense(output_dtype, Format::plain, {m, n});
  finish(inner_product ? Make(inner) : Make(product), rows, has_bias, post_ops);
}

void Linear::pack(DType dtype, const void* source, void* packed) const {
  const auto type = onednn_dtype(dtype);
  weights().pack(inner_product_ ? memory::desc({n_, k_}, type, tag::ab) : memory::desc({k_, n_}, type, tag::ba), source, packed);
}

}  // namespace drystone
