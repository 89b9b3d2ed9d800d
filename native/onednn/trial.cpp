#include "onednn/trial.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace drystone {

using dnnl::memory;

namespace {

ForkableMutex guard;
std::map<std::string, bool> known;  // by shape

// So little fits into any cache: bytes of the weights of 64 outputs.
constexpr int64_t little = 128 << 10;

std::string key_of(const DeconvolutionShape& s) {
  std::string key = s.x.str() + s.output.str();
  for (const Dims* dims : {&s.weights, &s.stride, &s.dilation, &s.padding_l, &s.padding_r}) {
    key += ";";
    for (int64_t d : *dims) key += std::to_string(d) + ",";
  }
  return key;
}

// Along one axis: how many pairs of an input and a tap meet in each output.
std::vector<int64_t> meetings(int64_t inputs, int64_t outputs, int64_t taps, int64_t stride, int64_t dilation, int64_t padding) {
  std::vector<int64_t> count(outputs);
  for (int64_t i = 0; i < inputs; i++)
    for (int64_t t = 0; t < taps; t++)
      if (const int64_t o = i * stride + t * dilation - padding; o >= 0 && o < outputs) count[o]++;
  return count;
}

memory ones(const memory::desc& desc) {
  memory filled(desc, engine());
  const size_t bytes = desc.get_size();
  if (desc.get_data_type() == memory::data_type::f32) {
    std::fill_n(static_cast<float*>(filled.get_data_handle()), bytes / 4, 1.0f);
  } else {
    std::fill_n(static_cast<uint16_t*>(filled.get_data_handle()), bytes / 2, uint16_t{0x3f80});
  }
  return filled;
}

float value_at(const void* data, int64_t index, DType dtype) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[index];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

bool tried(const DeconvolutionShape& s) {
  Dims dilates = s.dilation;
  for (auto& d : dilates) d -= 1;
  const auto type = onednn_dtype(s.x.dtype);
  const int64_t rank = s.x.rank(), outputs = s.weights[0];
  const auto [primitive, desc] = create<dnnl::deconvolution_forward>(
      dnnl::prop_kind::forward_inference, dnnl::algorithm::deconvolution_direct, onednn_desc(s.x),
      memory::desc(s.weights, type, memory::format_tag::any), memory::desc({outputs}, memory::data_type::f32, memory::format_tag::a),
      onednn_desc(s.output), s.stride, dilates, s.padding_l, s.padding_r, onednn_attributes({}));
  const memory given = ones(memory::desc(s.weights, type, TensorDesc::dense(s.x.dtype, Format::plain, s.weights).strides));
  memory weights(desc.weights_desc(), engine()), y(desc.dst_desc(), engine()), scratchpad(desc.scratchpad_desc(), engine());
  PackedDesc(desc.weights_desc()).pack(given.get_desc(), given.get_data_handle(), weights.get_data_handle());
  float most = 1;  // products of an output
  for (int64_t axis = 1; axis < rank; axis++) most *= static_cast<float>(s.weights[axis]);
  memory bias(desc.bias_desc(), engine());
  std::fill_n(static_cast<float*>(bias.get_data_handle()), outputs, most);
  const std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, ones(desc.src_desc())},
                                                     {DNNL_ARG_WEIGHTS, weights},
                                                     {DNNL_ARG_BIAS, bias},
                                                     {DNNL_ARG_DST, y},
                                                     {DNNL_ARG_SCRATCHPAD, scratchpad}};
  primitive.execute(stream(), arguments);
  stream().wait();

  std::vector<std::vector<int64_t>> along;
  for (int64_t i = 0; i < rank - 2; i++)
    along.push_back(meetings(s.x.shape[2 + i], s.output.shape[2 + i], s.weights[2 + i], s.stride[i], s.dilation[i], s.padding_l[i]));
  for (int64_t position = 0; position < s.output.numel() / (s.output.shape[0] * outputs); position++) {
    int64_t rest = position, offset = 0, products = s.x.shape[1];
    for (int64_t i = rank - 3; i >= 0; i--) {
      const int64_t size = s.output.shape[2 + i];
      offset += rest % size * s.output.strides[2 + i];
      products *= along[i][rest % size];
      rest /= size;
    }
    const float wanted = static_cast<float>(products) + most;
    for (int64_t c = 0; c < outputs; c++) {
      const float got = value_at(y.get_data_handle(), offset + c * s.output.strides[1], s.output.dtype);
      if (!(std::abs(got - wanted) <= wanted / 64)) return false;  // bfloat16 rounds
    }
  }
  return true;
}

}  // namespace

bool adds_bias_once(const DeconvolutionShape& shape) {
  int64_t bytes = std::min<int64_t>(shape.weights[0], 64) * size_of(shape.x.dtype);
  for (size_t i = 1; i < shape.weights.size(); i++) bytes *= shape.weights[i];
  if (bytes <= little) return true;
  const std::string key = key_of(shape);
  {
    std::lock_guard lock(guard);
    if (const auto found = known.find(key); found != known.end()) return found->second;
  }
  const bool once = tried(shape);
  std::lock_guard lock(guard);
  return known[key] = once;
}

}  // namespace drystone
