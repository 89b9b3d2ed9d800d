#include <limits>
#include <map>
#include <stdexcept>

#include "onednn/onednn.h"

namespace drystone {

using dnnl::algorithm;

namespace {

struct Eltwise {
  algorithm kind;
  float alpha, beta;
};

// Our names, and what oneDNN calls them with which scalars.
Eltwise eltwise(const PostOp& op) {
  constexpr float sixth = 1.0f / 6.0f;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::map<std::string, Eltwise> table = {
      {"relu", {algorithm::eltwise_relu, 0, 0}},
      {"leaky_relu", {algorithm::eltwise_relu, op.alpha, 0}},
      {"elu", {algorithm::eltwise_elu, op.alpha, 0}},
      {"gelu_erf", {algorithm::eltwise_gelu_erf, 0, 0}},
      {"gelu_tanh", {algorithm::eltwise_gelu_tanh, 0, 0}},
      {"silu", {algorithm::eltwise_swish, 1, 0}},
      {"mish", {algorithm::eltwise_mish, 0, 0}},
      {"hardswish", {algorithm::eltwise_hardswish, sixth, 0.5f}},
      {"hardsigmoid", {algorithm::eltwise_hardsigmoid, sixth, 0.5f}},
      {"sigmoid", {algorithm::eltwise_logistic, 0, 0}},
      {"tanh", {algorithm::eltwise_tanh, 0, 0}},
      {"clamp", {algorithm::eltwise_clip, op.alpha, op.beta}},
      {"exp", {algorithm::eltwise_exp, 0, 0}},
      {"log", {algorithm::eltwise_log, 0, 0}},
      {"sqrt", {algorithm::eltwise_sqrt, 0, 0}},
      {"abs", {algorithm::eltwise_abs, 0, 0}},
      {"neg", {algorithm::eltwise_linear, -1, -0.0f}},
      {"square", {algorithm::eltwise_square, 0, 0}},
      {"linear", {algorithm::eltwise_linear, op.alpha, op.beta}},
  };
  const auto found = table.find(op.kind);
  if (found == table.end()) throw std::invalid_argument("oneDNN has no post-op '" + op.kind + "'");
  Eltwise result = found->second;
  if (op.kind == "clamp") {
    result.alpha = std::max(result.alpha, -std::numeric_limits<float>::max());
    if (result.beta == infinity) result.beta = std::numeric_limits<float>::max();
  }
  return result;
}

const std::map<std::string, algorithm> binary = {
    {"add", algorithm::binary_add}, {"sub", algorithm::binary_sub},     {"mul", algorithm::binary_mul},
    {"div", algorithm::binary_div}, {"maximum", algorithm::binary_max}, {"minimum", algorithm::binary_min},
};

}  // namespace

dnnl::primitive_attr onednn_attributes(const std::vector<PostOp>& post_ops) {
  dnnl::post_ops chain;
  for (const PostOp& op : post_ops) {
    if (op.kind == "sum") {
      chain.append_sum(1.0f);
    } else if (const auto found = binary.find(op.kind); found != binary.end()) {
      if (!op.operand) throw std::invalid_argument("post-op '" + op.kind + "' needs an operand");
      chain.append_binary(found->second, onednn_desc(*op.operand));
    } else {
      const Eltwise e = eltwise(op);
      chain.append_eltwise(e.kind, e.alpha, e.beta);
    }
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(chain);
  // The default mode binds a primitive to the thread that made it.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace drystone
