#include "kernels/grid_sample.h"

#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/list.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

GridPadding padding_of(const std::string& name) {
  if (name == "zeros") return GridPadding::zeros;
  if (name == "border") return GridPadding::border;
  if (name == "reflection") return GridPadding::reflection;
  throw std::invalid_argument("grid_sample pads with 'zeros', 'border' or 'reflection', not '" + name + "'");
}

class GridSampleStep final : public KernelStep<GridSampleArgs> {
 public:
  GridSampleStep(const TensorDesc& input, const TensorDesc& grid, const TensorDesc& output, const std::string& mode,
                 const std::string& padding, bool align_corners)
      : KernelStep("grid_sample", &KernelTable::grid_sample) {
    elements_ = output.numel();
    require_alike(input, output, "grid_sample");
    const SpatialView in = spatial_view(input, "grid_sample"), out = spatial_view(output, "grid_sample");
    if (mode != "bilinear" && mode != "nearest") throw std::invalid_argument("grid_sample is 'bilinear' or 'nearest', not '" + mode + "'");
    if (input.rank() != 4) throw std::invalid_argument("grid_sample takes images, not " + input.str());
    if (grid.format != Format::plain || grid.dtype != input.dtype ||
        grid.shape != Dims{output.shape[0], output.shape[2], output.shape[3], 2})
      throw std::invalid_argument("grid_sample needs a plain grid of a pair for each output, of the input's dtype, not " + grid.str());
    if (input.numel() == 0) throw std::invalid_argument("grid_sample needs an input that is not empty");
    if ((in.size[1] - 1) * in.stride[1] + (in.size[2] - 1) * in.stride[2] > INT32_MAX)
      throw std::invalid_argument("grid_sample takes images below 2^31 numbers, not " + input.str());
    static_cast<SpatialArgs&>(args_) = spatial_args(input, in, out);
    args_.grid_batch_stride = grid.strides[0];
    args_.nearest = mode == "nearest";
    args_.align_corners = align_corners;
    args_.padding = padding_of(padding);
    for (int i = 0; i < 2; i++) {
      args_.size[i] = in.size[1 + i];
      args_.in_stride[i] = in.stride[1 + i];
      args_.out_size[i] = out.size[1 + i];
      args_.out_stride[i] = out.stride[1 + i];
    }
    for (int i = 0; i < 3; i++) args_.grid_stride[i] = grid.strides[1 + i];
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    GridSampleArgs args = args_;
    args.input = run.slots[0];
    args.grid = run.slots[1];
    args.output = run.slots[2];
    launch(args, run.threads);
  }
};

}  // namespace

std::shared_ptr<Step> make_grid_sample(const TensorDesc& input, const TensorDesc& grid, const TensorDesc& output, const std::string& mode,
                                       const std::string& padding, bool align_corners) {
  return std::make_shared<GridSampleStep>(input, grid, output, mode, padding, align_corners);
}

}  // namespace drystone
