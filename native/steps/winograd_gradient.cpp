#include "steps/winograd_gradient.h"

#include <algorithm>

#include "steps/kernel_step.h"
#include "steps/winograd.h"
#include "steps/winograd_weights.h"

namespace drystone {

WinogradWeightGradient::WinogradWeightGradient(const TensorDesc& x, const Dims& weights, const Dims& weights_strides,
                                               const TensorDesc& output, const Dims& padding_l, const Dims& padding_r, int threads)
    : kernel_(require_kernels().winograd_gradient) {
  constexpr int64_t points = 36;
  // Blocks that the second and third levels hold; sums are read and written once a block, so not fewer than `fewest` tiles where there are.
  constexpr int64_t cache = 4 << 20, fewest = 64, slices = 8;
  args_.convolution = Winograd(x, weights, false, output, padding_l, padding_r, 4, {}).args();
  const WinogradArgs& a = args_.convolution;
  const size_t rank = weights_strides.size();
  args_.out_stride = weights_strides[0];
  args_.in_stride = weights_strides[1];
  args_.tap_stride = rank == 5 ? weights_strides[2] : 0;
  args_.row_stride = weights_strides[rank - 2];
  args_.column_stride = weights_strides[rank - 1];
  args_.threads = threads;
  args_.block_slices = std::min(a.out_depth, slices);
  const int64_t fitting = cache / (points * 4 * (a.in_channels + a.out_channels)) / args_.block_slices;
  args_.block_tiles = std::min(a.tile_rows * a.tile_columns, std::max(fitting, fewest / args_.block_slices));
  const int64_t tiles = args_.block_tiles * args_.block_slices, halo = args_.block_tiles * (a.taps - 1);
  inputs_floats_ = points * ((tiles + halo) * a.in_channels + winograd_gap);
  gradients_floats_ = points * (tiles * a.out_channels + winograd_gap);
  implementation = kernel_name("winograd_gradient");
  scratchpad_bytes = (inputs_floats_ + gradients_floats_ + a.taps * points * a.in_channels * a.out_channels) * 4 + 63;
}

void WinogradWeightGradient::run(const Run& run, StepState*) const {
  const WeightTransform transform(4);
  WinogradGradientArgs args = args_;
  args.convolution.input = static_cast<const float*>(run.slots[0]);
  args.gradient = static_cast<const float*>(run.slots[1]);
  args.result = static_cast<float*>(run.slots[2]);
  args.transform = transform.rows;
  args.threads = std::min(run.threads, args_.threads);
  args.inputs = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) / 64 * 64);
  args.gradients = args.inputs + inputs_floats_;
  args.sums = args.gradients + gradients_floats_;
  kernel_(args);
}

}  // namespace drystone
