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

class LinearResizeStep final : public UnaryKernelStep<ResizeArgs> {
 public:
  LinearResizeStep(const TensorDesc& input, const TensorDesc& output, bool align_corners, const std::vector<double>& scales)
      : UnaryKernelStep("resize", &KernelTable::resize) {
    const SpatialView in = spatial_view(input, "resize"), out = spatial_view(output, "resize");
    const int spatial = static_cast<int>(scales.size());
    args_ = {spatial_args(input, in, out), spatial};
    tables_.reserve(3);
    for (int i = 0; i < 3; i++) {
      const float scale = i < 3 - spatial ? 1.0f : static_cast<float>(scales[i - (3 - spatial)]);
      const AxisTable& table = tables_.emplace_back(in.size[i], out.size[i], align_corners, scale);
      args_.axes[i] = {table.low.data(), table.high.data(), table.weight.data(), in.stride[i], out.stride[i], out.size[i]};
    }
    elements_ = output.numel();
  }

 private:
  std::vector<AxisTable> tables_;
};

// Of one axis, what each output reads and with which weights.
struct TapTable {
  int64_t taps = 0;
  std::vector<int32_t> index, low, high;
  std::vector<float> weight;

  TapTable(int64_t in_size, int64_t out_size, const std::string& mode, bool align_corners, float scale) {
    if (in_size > INT32_MAX) throw std::invalid_argument("resize takes axes below 2^31");
    const bool cubic = mode.starts_with("cubic"), antialias = mode.ends_with("antialias");
    const float reach = (cubic ? 2.0f : 1.0f) * std::max(scale, 1.0f);
    taps = antialias ? std::min(2 * static_cast<int64_t>(std::ceil(reach)) + 1, in_size) : 4;
    index.assign(taps * out_size, -1);
    weight.assign(taps * out_size, 0.0f);
    for (int64_t o = 0; o < out_size; o++) {
      const int64_t count =
          antialias ? spread(in_size, out_size, o, cubic, reach, scale) : between(in_size, out_size, o, align_corners, scale);
      low.push_back(index[o]);
      high.push_back(index[(count - 1) * out_size + o]);
    }
  }

 private:
  // Keys' kernel, within 1 and between 1 and 2, rounded as torch's kernels do.
  static float near(float x, float a) { return std::fma(std::fma(a + 2, x, -(a + 3)) * x, x, 1.0f); }
  static float far(float x, float a) { return std::fma(std::fma(std::fma(a, x, -5 * a), x, 8 * a), x, -4 * a); }

  // torch's upsample_bicubic2d: four neighbours, those beyond the ends being the last.
  int64_t between(int64_t in_size, int64_t out_size, int64_t o, bool align_corners, float scale) {
    const float at = align_corners ? scale * static_cast<float>(o) : std::fma(scale, static_cast<float>(o) + 0.5f, -0.5f);
    const int64_t base = std::min(static_cast<int64_t>(std::floor(at)), in_size - 1);
    const float share = std::clamp(at - static_cast<float>(base), 0.0f, 1.0f), rest = 1.0f - share;
    const float weights[4] = {far(share + 1, -0.75f), near(share, -0.75f), near(rest, -0.75f), far(rest + 1, -0.75f)};
    for (int64_t t = 0; t < 4; t++) {
      index[t * out_size + o] = static_cast<int32_t>(std::clamp<int64_t>(base - 1 + t, 0, in_size - 1));
      weight[t * out_size + o] = weights[t];
    }
    return 4;
  }

  // torch's _upsample_bilinear2d_aa and _upsample_bicubic2d_aa: all inputs that the kernel reaches, widened by the scale if above 1. An
  // axis that keeps its size is copied.
  int64_t spread(int64_t in_size, int64_t out_size, int64_t o, bool cubic, float reach, float scale) {
    const float center = static_cast<float>(scale * (static_cast<double>(o) + 0.5)), inverse = scale >= 1.0f ? 1.0f / scale : 1.0f;
    const int64_t first = std::clamp<int64_t>(static_cast<int64_t>(center - reach + 0.5), 0, in_size - 1);
    const int64_t stop = std::min(static_cast<int64_t>(center + reach + 0.5), in_size);
    const int64_t count = std::clamp<int64_t>(stop - first, 1, taps);
    if (in_size == out_size) {
      index[o] = static_cast<int32_t>(o);
      weight[o] = 1.0f;
      return 1;
    }
    float total = 0.0f;
    for (int64_t t = 0; t < count; t++) {
      const float x = std::abs(static_cast<float>((static_cast<float>(t + first) - center + 0.5) * inverse));
      const float w = !cubic ? std::max(1.0f - x, 0.0f) : x < 1 ? near(x, -0.5f) : x < 2 ? far(x, -0.5f) : 0.0f;
      index[t * out_size + o] = static_cast<int32_t>(first + t);
      weight[t * out_size + o] = w;
      total += w;
    }
    for (int64_t t = 0; t < count && total != 0; t++) weight[t * out_size + o] /= total;
    return count;
  }
};

class ResampleStep final : public UnaryKernelStep<ResampleArgs> {
 public:
  ResampleStep(const TensorDesc& input, const TensorDesc& output, const std::string& mode, bool align_corners,
               const std::vector<double>& scales)
      : UnaryKernelStep("resize", &KernelTable::resample) {
    if (scales.size() != 2) throw std::invalid_argument("a '" + mode + "' resize takes two spatial axes");
    if (output.numel() == 0) return;
    const SpatialView in = spatial_view(input, "resize"), out = spatial_view(output, "resize");
    args_ = {spatial_args(input, in, out)};
    tables_.reserve(2);
    for (int i = 0; i < 2; i++) {
      const int axis = i + 1;
      const TapTable& table = tables_.emplace_back(in.size[axis], out.size[axis], mode, align_corners, static_cast<float>(scales[i]));
      (i == 0 ? args_.rows : args_.columns) = {table.index.data(), table.low.data(), table.high.data(), table.weight.data(),
                                               table.taps,         in.stride[axis],  out.stride[axis],  out.size[axis]};
    }
    elements_ = std::max<int64_t>(output.numel() * args_.rows.taps / 4, 1);
  }

 private:
  std::vector<TapTable> tables_;
};

// `exact`: by the center of an output, rounded as torch's kernels do, else by its beginning.
std::shared_ptr<Step> make_nearest(const TensorDesc& input, const TensorDesc& output, const std::vector<double>& scales, bool exact) {
  std::vector<int64_t> axes(output.shape.size());
  std::iota(axes.begin(), axes.end(), 0);
  std::vector<Dims> tables(axes.size());
  for (size_t axis = 2; axis < axes.size(); axis++) {
    const float scale = static_cast<float>(scales[axis - 2]);
    for (int64_t o = 0; o < output.shape[axis]; o++) {
      const float index = static_cast<float>(o);
      const float source = exact ? std::max(0.0f, std::fma(scale, index + 0.5f, -0.5f)) + 0.5f : index * scale;
      tables[axis].push_back(std::min(static_cast<int64_t>(source), input.shape[axis] - 1));
    }
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
  if (mode == "nearest" || mode == "nearest_exact") {
    if (align_corners) throw std::invalid_argument("nearest resize has no align_corners");
    return make_nearest(input, output, scales, mode == "nearest_exact");
  }
  if (mode == "cubic" || mode == "linear_antialias" || mode == "cubic_antialias")
    return std::make_shared<ResampleStep>(input, output, mode, align_corners, scales);
  if (mode != "linear") throw std::invalid_argument("there is no '" + mode + "' resize");
  return std::make_shared<LinearResizeStep>(input, output, align_corners, scales);
}

}  // namespace drystone
