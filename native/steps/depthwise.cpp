#include "steps/depthwise.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/pointwise.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

bool is_across(const Format& format) { return format.order == Order::channels_last || format.block > 1; }

// For `channels` channels, of which desc may have one that is broadcast, as its other axes of size 1 are.
DepthwiseMap map_of(const TensorDesc& desc, int64_t channels) {
  const auto stride = [&](int64_t axis) { return desc.shape[axis] == 1 ? 0 : desc.strides[axis]; };
  DepthwiseMap map{.image = stride(0), .block = std::max<int64_t>(channels, 1), .block_stride = 0, .lane = stride(1), .spatial = {}};
  if (desc.format.block > 1) {
    map.block = desc.format.block;
    map.block_stride = stride(1);
    map.lane = desc.shape[1] == 1 ? 0 : 1;
  }
  for (int64_t axis = 2; axis < desc.rank(); axis++) map.spatial[3 - desc.rank() + axis] = stride(axis);
  return map;
}

void require_floats(double a, double b, double c) {
  if (a * b * c > 16 << 20)
    throw std::invalid_argument("a depthwise convolution whose kernel or stride reaches so far needs too much memory for copies");
}

DepthwiseOp op_of(const PostOp& op, const TensorDesc& output, bool takes_codes) {
  const std::optional<TensorDesc> other = op.other(output);
  DepthwiseOp result{};
  result.instruction = epilogue_instruction(op);
  result.binary = other.has_value();
  if (!other) return result;
  const TensorDesc& desc = *other;
  if (!takes_codes || !is_code(desc.dtype)) require_float(desc.dtype, "an operand (" + desc.str() + ")");
  bool fits = desc.rank() == output.rank();
  for (int64_t i = 0; fits && i < output.rank(); i++) fits = desc.shape[i] == 1 || desc.shape[i] == output.shape[i];
  if (!fits) throw std::invalid_argument("an operand (" + desc.str() + ") does not broadcast to " + output.str());
  result.dtype = desc.dtype;
  result.affine = desc.affine();
  result.map = map_of(desc, output.shape[1]);
  return result;
}

}  // namespace

Depthwise::Depthwise(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
                     const Dims& padding_l, const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops,
                     const std::vector<float>& weight_scales)
    : kernel_(require_kernels().depthwise), has_bias_(has_bias), threads_(std::max(omp_get_max_threads(), 1)), elements_(output.numel()) {
  const bool on_codes = is_code(x.dtype);
  const SpatialView in = spatial_view(x, "a depthwise convolution", true), out = spatial_view(output, "a depthwise convolution", on_codes);
  if (x.format != output.format || (!on_codes && x.dtype != output.dtype) || x.rank() != output.rank() || x.shape[0] != output.shape[0])
    throw std::invalid_argument("a depthwise convolution keeps the batch, format and dtype of its input: " + x.str() + " and " +
                                output.str());
  if (x.format.block > 1 && x.format.block != vector_lanes())
    throw std::invalid_argument("a depthwise convolution works on blocks of " + std::to_string(vector_lanes()) + " channels: " + x.str());
  const size_t axes = x.shape.size() - 2;
  if (weights.size() != axes + 2 || weights[0] != output.shape[1] || weights[1] < 1)
    throw std::invalid_argument("a grouped convolution needs weights (O, C / groups, *kernel)");
  if (x.shape[1] < 1 || x.shape[1] % weights[1] || output.shape[1] % (x.shape[1] / weights[1]))
    throw std::invalid_argument("a grouped convolution has channels of whole groups: " + x.str() + " and " + output.str() + ", " +
                                std::to_string(weights[1]) + " channels of x a group");
  if (weights[1] > 1 && (on_codes || !is_across(x.format)))
    throw std::invalid_argument("a convolution of groups of several channels takes floats, channels_last or blocked: " + x.str());
  if (post_ops.size() > depthwise_max_ops) throw std::invalid_argument("a depthwise convolution takes eight post-ops at most");

  if (static_cast<int64_t>(weight_scales.size()) != (on_codes ? weights[0] : 0))
    throw std::invalid_argument("a depthwise convolution of codes, and no other, has one weight scale an output channel, not " +
                                std::to_string(weight_scales.size()));
  for (const float scale : weight_scales) scales_.push_back(scale * x.scale);
  args_.dtype = x.dtype;
  args_.output_dtype = output.dtype;
  args_.output_affine = output.affine();
  args_.zero = static_cast<float>(x.zero_point);
  args_.across = is_across(x.format);
  args_.batch = x.shape[0];
  args_.channels = output.shape[1];
  args_.inputs = weights[1];
  args_.outputs = output.shape[1] / (x.shape[1] / weights[1]);
  args_.in_map = map_of(x, x.shape[1]);
  args_.out_map = map_of(output, output.shape[1]);
  set_axes(args_, "a depthwise convolution", in, out, weights, stride, padding_l, padding_r, dilation);
  args_.low = -std::numeric_limits<float>::infinity();
  args_.high = std::numeric_limits<float>::infinity();
  for (const PostOp& op : post_ops) {
    const bool first = args_.ops == 0 && std::isinf(args_.low) && std::isinf(args_.high);
    if (first && (op.kind == "relu" || (op.kind == "clamp" && !(op.alpha > op.beta)))) {
      args_.low = op.kind == "relu" ? 0 : op.alpha;
      if (op.kind == "clamp") args_.high = op.beta;
      continue;
    }
    args_.op[args_.ops++] = op_of(op, output, on_codes);
    in_place_.push_back(op.kind == "sum");
  }
  implementation = kernel_name("depthwise");
  if (elements_ > 0) codes_ = DepthwiseCodes::of(args_, x.zero_point, threads_);
  if (codes_) {
    args_ = codes_->args();
    implementation += codes_->name();
    scratchpad_bytes = threads_ * args_.thread_bytes + 63;
  } else if (elements_ > 0) {
    plan(threads_);
  }
}

// How the work is cut. Where rows are copied, those that a row of outputs reads stay in the first level cache (32 KB) with the results;
// narrower parts copy the columns between them twice.
void Depthwise::plan(int64_t threads) {
  constexpr int64_t cache = 24 << 10, line_bytes = 4 << 10;
  const int64_t narrowest = args_.inputs > 1 ? 14 : 28;
  const int64_t lanes = vector_lanes(), unit = args_.across ? lanes : 1, width = args_.out_size[2], step = args_.stride[2];
  const int64_t reach = (args_.kernel[2] - 1) * args_.dilation[2];
  const int64_t tile = fitting_tile();
  args_.direct = args_.across && args_.dtype == DType::f32 && args_.inputs * args_.outputs == 1 && tile >= 3;
  args_.tiles = ceil_div(width, std::max<int64_t>(tile, 1));
  args_.span = (args_.kernel[1] - 1) * args_.dilation[1] + 1;
  int64_t columns = args_.ops ? 128 : 4096;
  if (!args_.direct) {
    require_floats(args_.kernel[0], args_.span, args_.inputs * step * unit);
    columns = std::max(cache / (args_.kernel[0] * args_.span * args_.inputs * step * unit * 4) - reach / step, narrowest * lanes / unit);
  }
  columns = std::min(width, columns);
  args_.column_parts = std::min(ceil_div(width, columns), args_.direct ? args_.tiles : width);
  const int64_t widest =
      args_.direct ? ceil_div(args_.tiles, args_.column_parts) * ceil_div(width, args_.tiles) : ceil_div(width, args_.column_parts);
  // A vector of columns that begins in a part reads on behind it.
  args_.line_pitch = args_.across ? widest * lanes : round_up(widest, lanes) + lanes;
  args_.line_rows = std::min(std::max<int64_t>(line_bytes / (args_.line_pitch * 4), 1), args_.out_size[1]);
  if (!args_.direct) {
    args_.phase = round_up(args_.line_pitch + reach / step * unit, lanes);
    require_floats(args_.kernel[0] * args_.span, args_.inputs * step, args_.phase);
    args_.row_floats = step * args_.phase;
  }
  args_.direct ? plan_taps() : plan_runs();
  const int64_t vectors = ceil_div(args_.channels, unit);
  const int64_t items = args_.batch * args_.out_size[0] * args_.column_parts * vectors;
  args_.row_parts = threads == 1 ? 1 : std::min(args_.out_size[1], ceil_div(4 * threads, items));
  const int64_t floats = args_.kernel[0] * args_.span * args_.inputs * args_.row_floats + 3 * args_.line_rows * args_.line_pitch;
  const int64_t rows = args_.kernel[0] * args_.kernel[1] * args_.inputs;
  args_.thread_bytes = round_up(floats * 4 + rows * 2 * static_cast<int64_t>(sizeof(void*)), 64);
  scratchpad_bytes = threads * args_.thread_bytes + 63;
}

// The columns of a tile that do not push each other out of a first level cache of 64 sets, 8 ways each: few where columns of x lie a
// power of two apart.
int64_t Depthwise::fitting_tile() const {
  const int64_t apart = args_.in_map.spatial[2] * 4, sets = apart % 64 ? 64 : 64 / std::gcd<int64_t>(apart / 64, 64);
  const int64_t columns = 8 * sets - (args_.kernel[2] - 1) * args_.dilation[2] - 1;
  if (args_.in_size[2] <= 8 * sets) return depthwise_tile(vector_lanes());
  return columns < 0 ? 0 : std::min<int64_t>(columns / args_.stride[2] + 1, depthwise_tile(vector_lanes()));
}

// What each tap of a row meets in each tile. Tiles that no border touches are of one kind, the first.
void Depthwise::plan_taps() {
  const int64_t width = args_.out_size[2], step = args_.stride[2];
  const auto add = [&](int64_t tap, int64_t begin, int64_t end) {
    const int64_t offset = tap * args_.dilation[2] * args_.in_map.spatial[2];
    taps_.push_back({offset, static_cast<int32_t>(begin), static_cast<int32_t>(end)});
  };
  for (int64_t tap = 0; tap < args_.kernel[2]; tap++) add(tap, 0, depthwise_tile(vector_lanes()));
  int32_t kinds = 1;
  for (int64_t tile = 0, first = 0; tile < args_.tiles; tile++) {
    const int64_t outputs = width / args_.tiles + (tile < width % args_.tiles), left = first * step - args_.padding[2];
    const int64_t right = left + (outputs - 1) * step + (args_.kernel[2] - 1) * args_.dilation[2];
    const bool inside = left >= 0 && right < args_.in_size[2];
    tile_kinds_.push_back(inside ? 0 : kinds++);
    for (int64_t tap = 0; !inside && tap < args_.kernel[2]; tap++) {
      const int64_t column = left + tap * args_.dilation[2];
      const auto until = [&](int64_t to) { return std::clamp<int64_t>(to <= 0 ? 0 : ceil_div(to, step), 0, outputs); };
      const int64_t begin = until(-column);
      add(tap, begin, std::max(begin, until(args_.in_size[2] - column)));
    }
    first += outputs;
  }
}

// The taps of a row that meet copies, one by one and in runs.
void Depthwise::plan_runs() {
  const int64_t step = args_.stride[2], dilation = args_.dilation[2], kernel = args_.kernel[2];
  const int64_t unit = args_.across ? vector_lanes() : 1;
  for (int64_t tap = 0; tap < kernel; tap++) {
    const int64_t column = tap * dilation;
    single_taps_.push_back({column % step * args_.phase + column / step * unit, tap, 1});
  }
  const int64_t most = args_.across ? depthwise_most_taps : 1;
  const int64_t apart = !args_.across ? 1 : step % dilation ? kernel : step / dilation;  // from tap to tap of a run
  for (int64_t first = 0; first < std::min(apart, kernel); first++)
    for (int64_t tap = first; tap < kernel; tap += most * apart)
      runs_.push_back({single_taps_[tap].offset, tap, std::min(ceil_div(kernel - tap, apart), most)});
  args_.apart = apart * vector_lanes();
  args_.run_count = static_cast<int64_t>(runs_.size());
}

void Depthwise::run(const Run& run, StepState*) const {
  if (elements_ == 0) return;
  DepthwiseArgs args = args_;
  void* const* slot = run.slots;
  args.x = *slot++;
  const void* weights = *slot++;
  args.weights = static_cast<const float*>(weights);
  args.unbounded = args.weights + packed_channels() * taps();
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = *slot++;
  for (int i = 0; i < args.ops; i++)
    if (args.op[i].binary) args.op[i].operand = in_place_[i] ? args.output : *slot++;
  if (!scales_.empty()) args.scales = scales_.data();
  args.single_taps = single_taps_.data();
  args.runs = runs_.data();
  args.taps = taps_.data();
  args.tile_kinds = tile_kinds_.data();
  const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
  args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
  args.threads = std::min(threads_for(elements_ * taps() / 4, run.threads), threads_);
  codes_ ? codes_->run(args, weights) : kernel_(args);
}

int64_t Depthwise::packed_channels() const { return args_.across ? round_up(args_.channels, vector_lanes()) : args_.channels; }

int64_t Depthwise::packed_bytes() const { return codes_ ? codes_->packed_bytes() : (packed_channels() * taps() + 1) * 4; }

std::string Depthwise::packed_key() const {
  if (codes_) return codes_->packed_key();
  return "depthwise" + std::to_string(args_.across ? vector_lanes() : 1) + ";" + std::to_string(args_.channels) + "," +
         std::to_string(args_.inputs) + "," + std::to_string(taps() / args_.inputs) + "," + std::to_string(args_.kernel[2]);
}

void Depthwise::pack(DType dtype, const void* source, void* packed) const {
  if (is_code(args_.dtype) ? dtype != DType::s8 : !is_float(dtype))
    throw std::invalid_argument(std::string("a depthwise convolution packs weights that are floats, or s8 for codes, not ") +
                                name_of(dtype));
  if (codes_) return codes_->pack(static_cast<const int8_t*>(source), static_cast<std::byte*>(packed));
  const int64_t unit = args_.across ? vector_lanes() : 1, count = taps();
  auto* to = static_cast<float*>(packed);
  bool unbounded = false;
  std::fill(to, to + packed_channels() * count, 0.0f);
  const int64_t width = args_.kernel[2], rows = count / args_.inputs / width;
  for (int64_t c = 0; c < args_.channels; c++) {
    for (int64_t tap = 0; tap < count; tap++) {
      const int64_t input = tap / (rows * width), row = tap / width % rows;
      float weight;
      if (dtype == DType::s8) {
        weight = static_cast<const int8_t*>(source)[c * count + tap];
      } else if (dtype == DType::f32) {
        weight = static_cast<const float*>(source)[c * count + tap];
      } else {
        const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(source)[c * count + tap]) << 16;
        std::memcpy(&weight, &bits, sizeof weight);
      }
      unbounded |= !std::isfinite(weight);
      to[(c / unit * count + (row * args_.inputs + input) * width + tap % width) * unit + c % unit] = weight;
    }
  }
  to[packed_channels() * count] = unbounded;
}

}  // namespace drystone
