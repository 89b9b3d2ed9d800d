#include <algorithm>
#include <stdexcept>

#include "core/isa.h"
#include "onednn/onednn.h"

namespace drystone {

using dnnl::memory;

namespace {

template <class T>
memory constant(const std::vector<T>& values, memory::data_type type) {
  memory made({{static_cast<int64_t>(values.size())}, type, memory::format_tag::a}, engine());
  std::copy(values.begin(), values.end(), static_cast<T*>(made.get_data_handle()));
  return made;
}

}  // namespace

Codes::Codes(const TensorDesc& x, const TensorDesc& output, int64_t channels, const std::vector<float>& weight_scales,
             bool weights_fit_7_bits)
    : on_(is_code(x.dtype)) {
  if (!on_) {
    if (!weight_scales.empty()) throw std::invalid_argument("weights with scales are multiplied by codes, not by " + x.str());
    if (is_code(output.dtype)) throw std::invalid_argument("codes are made of products of codes, not of " + x.str());
    return;
  }
  if (static_cast<int64_t>(weight_scales.size()) != channels)
    throw std::invalid_argument("a product of codes has one weight scale an output channel: " + std::to_string(channels) + ", not " +
                                std::to_string(weight_scales.size()));
  needs_7_bits_ = !has(Feature::avx512_vnni) && !has(Feature::avx_vnni);
  if (needs_7_bits_ && !(x.dtype == DType::u8 && weights_fit_7_bits))
    throw std::invalid_argument("oneDNN's products of codes saturate on a CPU without VNNI");
  packing_ = std::string(";") + name_of(x.dtype) + (x.zero_point ? ",zero" : "");
  std::vector<float> scales;
  for (const float scale : weight_scales) scales.push_back(scale * x.scale);
  constants_.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, constant(scales, memory::data_type::f32));
  if (output.scale != 1)
    constants_.emplace_back(DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST, constant(std::vector<float>{output.scale}, memory::data_type::f32));
  const auto add_zero_point = [&](int argument, int32_t value) {
    if (value != 0)
      constants_.emplace_back(DNNL_ARG_ATTR_ZERO_POINTS | argument, constant(std::vector<int32_t>{value}, memory::data_type::s32));
  };
  add_zero_point(DNNL_ARG_SRC, x.zero_point);
  add_zero_point(DNNL_ARG_DST, output.zero_point);
}

void Codes::check(const void* weights, int64_t count) const {
  const auto* begin = static_cast<const int8_t*>(weights);
  if (needs_7_bits_ && std::any_of(begin, begin + count, [](int8_t weight) { return weight < -64 || weight > 64; }))
    throw std::invalid_argument("weights that fit into 7 bits lie between -64 and 64");
}

void Codes::add_to(dnnl::primitive_attr& attributes, int weights_mask) const {
  for (const auto& [id, value] : constants_) {
    if (id & DNNL_ARG_ATTR_ZERO_POINTS)
      attributes.set_zero_points_mask(id & ~DNNL_ARG_ATTR_ZERO_POINTS, 0);
    else
      attributes.set_scales_mask(id & ~DNNL_ARG_ATTR_SCALES, id == (DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST) ? 0 : weights_mask);
  }
}

}  // namespace drystone
