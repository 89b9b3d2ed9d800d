#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>

#include "onednn/onednn.h"

namespace drystone {

using dnnl::algorithm;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();

// oneDNN's maxima and minima give a number for NaN, clip has no open ends, its sigmoid and exp have kernels in which NaN becomes 0
// or infinity, and its references compute relu of -infinity as -infinity times 0. Numbers up to this they all get right.
constexpr float finite = 1e37f;

struct Eltwise {
  algorithm kind;
  float alpha, beta;
  float limit;  // as post_op_limit gives it
};

// Our names, and what oneDNN calls them with which scalars. Its log takes subnormal numbers for the smallest normal one.
std::optional<Eltwise> eltwise(const std::string& kind, float alpha, float beta) {
  constexpr float sixth = 1.0f / 6.0f;
  const std::map<std::string, Eltwise> table = {
      {"relu", {algorithm::eltwise_relu, 0, 0, finite}},
      {"leaky_relu", {algorithm::eltwise_relu, alpha, 0, alpha == 0 ? finite : infinity}},
      {"elu", {algorithm::eltwise_elu, alpha, 0, infinity}},
      {"gelu_erf", {algorithm::eltwise_gelu_erf, 0, 0, finite}},
      {"gelu_tanh", {algorithm::eltwise_gelu_tanh, 0, 0, infinity}},
      {"silu", {algorithm::eltwise_swish, 1, 0, infinity}},
      {"mish", {algorithm::eltwise_mish, 0, 0, infinity}},
      {"hardswish", {algorithm::eltwise_hardswish, sixth, 0.5f, finite}},
      {"hardsigmoid", {algorithm::eltwise_hardsigmoid, sixth, 0.5f, finite}},
      {"sigmoid", {algorithm::eltwise_logistic, 0, 0, finite}},
      {"tanh", {algorithm::eltwise_tanh, 0, 0, infinity}},
      {"clamp", {algorithm::eltwise_clip, std::max(alpha, -largest), std::min(beta, largest), finite}},
      {"exp", {algorithm::eltwise_exp, 0, 0, finite}},
      {"sqrt", {algorithm::eltwise_sqrt, 0, 0, infinity}},
      {"abs", {algorithm::eltwise_abs, 0, 0, infinity}},
      {"neg", {algorithm::eltwise_linear, -1, -0.0f, infinity}},
      {"square", {algorithm::eltwise_square, 0, 0, infinity}},
      {"affine", {algorithm::eltwise_linear, alpha, beta, infinity}},
  };
  const auto found = table.find(kind);
  if (found == table.end()) return std::nullopt;
  return found->second;
}

struct Binary {
  algorithm kind;
  float limit;
};

const std::map<std::string, Binary> binary = {
    {"add", {algorithm::binary_add, infinity}}, {"sub", {algorithm::binary_sub, infinity}},   {"mul", {algorithm::binary_mul, infinity}},
    {"div", {algorithm::binary_div, infinity}}, {"maximum", {algorithm::binary_max, finite}}, {"minimum", {algorithm::binary_min, finite}},
};

}  // namespace

float post_op_limit(const std::string& kind, float alpha) {
  if (const auto found = binary.find(kind); found != binary.end()) return found->second.limit;
  const auto found = eltwise(kind, alpha, 0);
  return found ? found->limit : 0.0f;
}

void add_operands(const std::vector<PostOp>& post_ops, std::vector<Primitive::Argument>& arguments) {
  int index = 0;
  for (const PostOp& op : post_ops) {
    const bool scaled = op.operand && op.operand->is_quantised();
    const bool before = scaled && op.kind != "mul" && op.kind != "div";
    if (op.operand) arguments.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(index + before) | DNNL_ARG_SRC_1, onednn_desc(*op.operand)});
    index += 1 + before + scaled;
  }
}

// oneDNN reads the codes of an operand as plain numbers, so the results are taken to its scale and back.
static void append_binary(dnnl::post_ops& chain, const PostOp& op, dnnl::algorithm kind) {
  const TensorDesc& operand = *op.operand;
  if (!operand.is_quantised()) return chain.append_binary(kind, onednn_desc(operand));
  const bool adds = op.kind == "add" || op.kind == "sub", orders = op.kind == "maximum" || op.kind == "minimum";
  const auto zero = static_cast<float>(operand.zero_point);
  if (!adds && !orders && zero != 0) throw std::invalid_argument("oneDNN has no '" + op.kind + "' by codes that have a zero point");
  if (adds || orders) chain.append_eltwise(algorithm::eltwise_linear, 1.0f / operand.scale, op.kind == "add" ? -zero : zero);
  chain.append_binary(kind, onednn_desc(operand));
  const float back = op.kind == "div" ? 1.0f / operand.scale : operand.scale;
  chain.append_eltwise(algorithm::eltwise_linear, back, orders ? -zero * back : 0.0f);
}

dnnl::primitive_attr onednn_attributes(const std::vector<PostOp>& post_ops, const TensorDesc& output) {
  dnnl::post_ops chain;
  for (const PostOp& op : post_ops) {
    if (op.kind == "sum") {
      const TensorDesc held = *op.other(output);
      chain.append_sum(held.scale, held.zero_point);
    } else if (const auto found = binary.find(op.kind); found != binary.end()) {
      if (!op.operand) throw std::invalid_argument("post-op '" + op.kind + "' needs an operand");
      append_binary(chain, op, found->second.kind);
    } else {
      const auto e = eltwise(op.kind, op.alpha, op.beta);
      if (!e) throw std::invalid_argument("oneDNN has no post-op '" + op.kind + "'");
      chain.append_eltwise(e->kind, e->alpha, e->beta);
    }
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(chain);
  // The default mode binds a primitive to the thread that made it.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace drystone
