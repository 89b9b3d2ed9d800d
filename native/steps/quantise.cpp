#include <cstring>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/list.h"
#include "steps/pointwise.h"

namespace drystone {

namespace {

// Dense memory as one row of its elements, the padding of blocks included.
TensorDesc as_row(const TensorDesc& desc) {
  TensorDesc row = TensorDesc::dense(desc.dtype, Format::plain, {desc.bytes() / size_of(desc.dtype)});
  return row.quantised(desc.scale, desc.zero_point);
}

class ConvertStep final : public Step {
 public:
  ConvertStep(const TensorDesc& input, const TensorDesc& output, const std::string& name) : output_(output) {
    if (input.shape != output.shape || input.format != output.format)
      throw std::invalid_argument(name + " keeps the shape and format of its input: " + input.str() + " and " + output.str());
    const bool padded = output.has_padding();
    if (padded && !(input.is_dense() && output.is_dense()))
      throw std::invalid_argument(name + " takes channels that do not fill their blocks in dense memory only: " + input.str() + " and " +
                                  output.str());
    const std::vector<PointwiseOp> copy = {{"copy", {{"in", 0}}, 0, 0}};
    convert_.emplace(std::vector<TensorDesc>{padded ? as_row(input) : input}, padded ? as_row(output) : output, copy);
    implementation = kernel_name(name);
  }

  void run(const Run& run, StepState* state) const override {
    convert_->run(run, state);
    if (output_.has_padding() && output_.numel() > 0) clear_padding(static_cast<char*>(run.slots[1]));
  }

 private:
  void clear_padding(char* data) const {
    const int64_t element = size_of(output_.dtype), block = output_.format.block, used = output_.shape[1] % block;
    const int64_t last = output_.blocks(1) - 1;
    int64_t positions = 1;
    for (int64_t axis = 2; axis < output_.rank(); axis++) positions *= output_.shape[axis];
    for (int64_t n = 0; n < output_.shape[0]; n++)
      for (int64_t p = 0; p < positions; p++)
        std::memset(data + (n * output_.strides[0] + last * output_.strides[1] + p * block + used) * element, 0, (block - used) * element);
  }

  TensorDesc output_;
  std::optional<PointwiseStep> convert_;
};

}  // namespace

std::shared_ptr<Step> make_quantise(const TensorDesc& input, const TensorDesc& output) {
  require_float(input.dtype, "what is quantised");
  if (!is_code(output.dtype)) throw std::invalid_argument("codes are s8 or u8, not " + output.str());
  return std::make_shared<ConvertStep>(input, output, "quantise");
}

std::shared_ptr<Step> make_dequantise(const TensorDesc& input, const TensorDesc& output) {
  require_float(output.dtype, "what codes stand for");
  if (!is_code(input.dtype)) throw std::invalid_argument("codes are s8 or u8, not " + input.str());
  return std::make_shared<ConvertStep>(input, output, "dequantise");
}

}  // namespace drystone
