#include "kernels/lrn.h"

#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/list.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

class LrnStep final : public UnaryKernelStep<LrnArgs> {
 public:
  LrnStep(const TensorDesc& input, const TensorDesc& output, int64_t size, double alpha, double beta, double k)
      : UnaryKernelStep("lrn", &KernelTable::lrn) {
    elements_ = output.numel();
    require_alike(input, output, "lrn");
    if (input.shape != output.shape) throw std::invalid_argument("lrn keeps the shape of its input");
    if (input.format.block > 1) throw std::invalid_argument("lrn takes plain and channels_last, not " + input.str());
    if (size < 1) throw std::invalid_argument("lrn needs a size of at least 1");
    const SpatialView in = spatial_view(input, "lrn"), out = spatial_view(output, "lrn");
    args_ = {
        .dtype = input.dtype,
        .batch = in.batch,
        .in_batch_stride = in.batch_stride,
        .out_batch_stride = out.batch_stride,
        .channels = input.shape[1],
        .in_channel_stride = input.strides[1],
        .out_channel_stride = output.strides[1],
        .size = size,
        .alpha = static_cast<float>(alpha),
        .beta = static_cast<float>(beta),
        .k = static_cast<float>(k),
    };
    for (int i = 0; i < 3; i++) {
      args_.extent[i] = in.size[i];
      args_.in_stride[i] = in.stride[i];
      args_.out_stride[i] = out.stride[i];
    }
    for (int i = 1; i >= 0; i--) {
      const bool runs_on =
          args_.in_stride[i] == args_.in_stride[2] * args_.extent[2] && args_.out_stride[i] == args_.out_stride[2] * args_.extent[2];
      if (args_.extent[i] != 1 && !runs_on) break;
      args_.extent[2] *= args_.extent[i];
      args_.extent[i] = 1;
    }
  }
};

}  // namespace

std::shared_ptr<Step> make_lrn(const TensorDesc& input, const TensorDesc& output, int64_t size, double alpha, double beta, double k) {
  return std::make_shared<LrnStep>(input, output, size, alpha, beta, k);
}

}  // namespace drystone
