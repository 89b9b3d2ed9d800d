#include "kernels/resize.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/list.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

// Which two inputs each output of one axis lies between, and how near to the higher one.
struct AxisTable {
  std::vector<int32_t> low, high;
  std::vector<float> weight;

  AxisTable(int64_t in_size, int64_t out_size, bool align_corners, float scale) {
    if (in_size > INT32_MAX) throw std::invalid_argument("resize takes axes below 2^31");
    for (int64_t o = 0; o < out_size; o++) {
      const float source = in_size == out_size ? static_cast<float>(o)
                           : align_corners     ? scale * static_cast<float>(o)
                                               : std::max(0.0f, std::fma(scale, static_cast<float>(o) + 0.5f, -0.5f));
      const int64_t index = in_size == out_size ? o : std::min(static_cast<int64_t>(source), in_size - 1);
      low.push_back(static_cast<int32_t>(index));
      high.push_back(static_cast<int32_t>(in_size == out_size ? index : std::min(index + 1, in_size - 1)));
      weight.push_back(in_size == out_size ? 0.0f : std::clamp(source - static_cast<float>(index), 0.0f, 1.0f));
    }
  }
};

class LinearResizeStep final : public Step {
 public:
  LinearResizeStep(const TensorDesc& input, const TensorDesc& output, bool align_corners, const std::vector<double>& scales)
      : kernel_(require_kernels().resize) {
    implementation = kernel_name("resize");
    const SpatialView in = spatial_view(input, "resize"), out = spatial_view(output, "resize");
    const int spatial = static_cast<int>(scales.size());
    args_ = {
        .dtype = input.dtype,
        .spatial = spatial,
        .batch = in.batch,
        .in_batch_stride = in.batch_stride,
        .out_batch_stride = out.batch_stride,
        .blocks = in.blocks,
        .block = in.block,
        .in_block_stride = in.block_stride,
        .out_block_stride = out.block_stride,
    };
    tables_.reserve(3);
    for (int i = 0; i < 3; i++) {
      const float scale = i < 3 - spatial ? 1.0f : static_cast<float>(scales[i - (3 - spatial)]);
      const AxisTable& table = tables_.emplace_back(in.size[i], out.size[i], align_corners, scale);
      args_.axes[i] = {table.low.data(), table.high.data(), table.weight.data(), in.stride[i], out.stride[i], out.size[i]};
    }
    elements_ = output.numel();
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    ResizeArgs args = args_;
    args.input = run.slots[0];
    args.output = run.slots[1];
    args.threads = threads_for(elements_, run.threads);
    kernel_(args);
  }

 private:
  void (*kernel_)(const ResizeArgs&);
  ResizeArgs args_{};
  std::vector<AxisTable> tables_;
  int64_t elements_ = 0;
};

std::shared_ptr<Step> make_nearest(const TensorDesc& input, const TensorDesc& output, const std::vector<double>& scales) {
  std::vector<int64_t> axes(output.shape.size());
  std::iota(axes.begin(), axes.end(), 0);
  std::vector<Dims> tables(axes.size());
  for (size_t axis = 2; axis < axes.size(); axis++) {
    const float scale = static_cast<float>(scales[axis - 2]);
    for (int64_t o = 0; o < output.shape[axis]; o++)
      tables[axis].push_back(std::min(static_cast<int64_t>(static_cast<float>(o) * scale), input.shape[axis] - 1));
  }
  auto step = make_copy(input, output, axes, tables, 0.0);
  step->implementation = kernel_name("resize");
  return step;
}

}  // namespace

std::shared_ptr<Step> make_resize(const TensorDesc& input, const TensorDesc& output, const std::string& mode, bool align_corners,
                                  const std::vector<double>& scales) {
  require_alike(input, output, "resize");
  spatial_view(input, "resize");
  if (scales.size() + 2 != input.shape.size()) throw std::invalid_argument("resize needs a scale for each spatial axis");
  for (double scale : scales)
    if (!(scale >= 0) || std::isinf(scale)) throw std::invalid_argument("resize needs scales that are finite and not negative");
  for (size_t axis = 2; axis < input.shape.size(); axis++)
    if (input.shape[axis] == 0 && output.numel() > 0) throw std::invalid_argument("resize needs an input that is not empty");
  if (mode == "nearest") {
    if (align_corners) throw std::invalid_argument("nearest resize has no align_corners");
    return make_nearest(input, output, scales);
  }
  if (mode != "linear") throw std::invalid_argument("resize is 'nearest' or 'linear', not '" + mode + "'");
  return std::make_shared<LinearResizeStep>(input, output, align_corners, scales);
}

}  // namespace drystone
