#include "steps/direct.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

constexpr char op_name[] = "a direct convolution";

DirectMap map_of(const TensorDesc& desc, const SpatialView& view) {
  const int64_t vector = desc.format.block > 1 ? view.block_stride : vector_lanes();
  return {view.batch_stride, vector, view.stride[1], view.stride[2]};
}

bool is_across(const Format& format) { return format == Format::channels_last || format.block == vector_lanes(); }

}  // namespace

Direct::Direct(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
               const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops)
    : kernel_(require_kernels().direct), has_bias_(has_bias), threads_(std::max(omp_get_max_threads(), 1)), elements_(output.numel()) {
  const auto refuse = [](const std::string& why) { throw std::invalid_argument(std::string(op_name) + " " + why); };
  const SpatialView in = spatial_view(x, op_name), out = spatial_view(output, op_name);
  const std::string both = ": " + x.str() + " and " + output.str();
  if (x.dtype != DType::f32 || output.dtype != DType::f32) refuse("is one of float32" + both);
  if (x.format != output.format || x.rank() != output.rank() || x.shape[0] != output.shape[0]) refuse("keeps batch and format" + both);
  if (!is_across(x.format)) refuse("takes channels_last, or blocks of " + std::to_string(vector_lanes()) + " channels" + both);
  const size_t axes = x.shape.size() - 2;
  if (axes > 2) refuse("has one or two spatial axes" + both);
  if (weights.size() != axes + 2 || weights[0] != output.shape[1] || weights[1] < 1) refuse("needs weights (O, C / groups, *kernel)");
  const int64_t groups = x.shape[1] / weights[1];
  if (groups < 1 || x.shape[1] % weights[1] || weights[0] % groups || weights[1] % vector_lanes() || weights[0] / groups % vector_lanes())
    refuse("has groups of whole vectors of " + std::to_string(vector_lanes()) + " channels" + both);
  set_axes(args_, op_name, in, out, weights, stride, padding_l, padding_r, dilation);
  args_.low = -std::numeric_limits<float>::infinity();
  args_.high = std::numeric_limits<float>::infinity();
  if (post_ops.size() > 1) refuse("takes one post-op at most");
  for (const PostOp& op : post_ops) {
    if (op.kind != "relu" && (op.kind != "clamp" || op.alpha > op.beta)) refuse("takes no post-op " + op.kind);
    args_.low = op.kind == "relu" ? 0 : op.alpha;
    if (op.kind == "clamp") args_.high = op.beta;
  }
  args_.batch = x.shape[0];
  args_.groups = groups;
  args_.inputs = weights[1];
  args_.outputs = weights[0] / groups;
  args_.in_map = map_of(x, in);
  args_.out_map = map_of(output, out);
  implementation = kernel_name("direct");

  // Copies stay in the second level cache with the weights of a group; threads have some eight bands each, to share them out evenly.
  constexpr int64_t cache = 48 << 10, most = 16 << 20, fewest = 4;
  const int64_t span = (args_.kernel[1] - 1) * args_.dilation[1] + 1;
  args_.columns = (args_.out_size[2] - 1) * args_.stride[2] + (args_.kernel[2] - 1) * args_.dilation[2] + 1;
  const int64_t row_bytes = args_.columns * args_.inputs * 4;
  const int64_t height = std::max<int64_t>(args_.out_size[1], 1), rows = args_.batch * groups * height;
  const int64_t share = threads_ == 1 ? height : std::min(height, std::max<int64_t>(rows / (8 * threads_), fewest));
  args_.band = std::max<int64_t>(std::min((cache / row_bytes - span) / args_.stride[1] + 1, share), 1);
  const int64_t copied = (args_.band - 1) * args_.stride[1] + span;
  if (static_cast<double>(copied) * row_bytes > most) refuse("whose kernel or stride reaches so far needs too much memory for copies");
  const int64_t pointers = args_.kernel[1] * 2 * static_cast<int64_t>(sizeof(void*));
  args_.thread_bytes = (copied * row_bytes + pointers + 63) / 64 * 64;
  scratchpad_bytes = threads_ * (args_.thread_bytes + direct_claims_bytes) + 63;
}

void Direct::run(const Run& run, StepState*) const {
  if (elements_ == 0) return;
  DirectArgs args = args_;
  void* const* slot = run.slots;
  args.x = static_cast<const float*>(*slot++);
  args.weights = static_cast<const float*>(*slot++);
  args.unbounded = args.weights + packed_bytes() / 4 - 1;
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = static_cast<float*>(*slot);
  const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
  args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
  args.threads = std::min(threads_for(elements_ * taps() * args_.inputs / 16, run.threads), threads_);
  kernel_(args);
}

int64_t Direct::packed_bytes() const { return (args_.groups * args_.outputs * args_.inputs * taps() + 1) * 4; }

std::string Direct::packed_key() const {
  return "direct" + std::to_string(vector_lanes()) + ";" + std::to_string(args_.groups) + "," + std::to_string(args_.outputs) + "," +
         std::to_string(args_.inputs) + "," + std::to_string(taps());
}

void Direct::pack(DType dtype, const void* source, void* packed) const {
  if (!is_float(dtype)) throw std::invalid_argument(std::string(op_name) + " packs weights that are floats, not " + name_of(dtype));
  const int64_t lanes = vector_lanes(), vectors = args_.outputs / lanes, parts = (vectors + direct_vectors - 1) / direct_vectors;
  auto* to = static_cast<float*>(packed);
  bool unbounded = false;
  const auto weight_at = [&](int64_t at) {
    if (dtype == DType::f32) return static_cast<const float*>(source)[at];
    return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(source)[at]) << 16);
  };
  for (int64_t group = 0; group < args_.groups; group++) {
    int64_t first = 0;
    for (int64_t part = 0; part < parts; part++) {
      const int64_t count = (vectors / parts + (part < vectors % parts)) * lanes;
      for (int64_t tap = 0; tap < taps(); tap++) {
        for (int64_t input = 0; input < args_.inputs; input++) {
          for (int64_t i = 0; i < count; i++) {
            const int64_t output = group * args_.outputs + first + i;
            const float weight = weight_at((output * args_.inputs + input) * taps() + tap);
            unbounded |= !std::isfinite(weight);
            *to++ = weight;
          }
        }
      }
      first += count;
    }
  }
  *to = unbounded;
}

}  // namespace drystone
