#include "steps/winograd.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/winograd_weights.h"

namespace drystone {

namespace {

// The kernel's panels are two vectors of output channels.
int64_t panel_channels() { return 2 * vector_lanes(); }

WinogradMap map_of(const TensorDesc& desc) {
  const int64_t block = desc.format.block, rank = desc.rank(), slice = rank == 5 ? desc.strides[2] : 0;
  const int64_t row = desc.strides[rank - 2], column = desc.strides[rank - 1];
  if (block > 1) return {desc.strides[0], block, desc.strides[1], slice, row, column};
  return {desc.strides[0], desc.shape[1], 0, slice, row, column};
}

// with_codes: whether it may be codes.
void require_served(const TensorDesc& desc, bool with_codes) {
  if (desc.dtype != DType::f32 && !(with_codes && is_code(desc.dtype)))
    throw std::invalid_argument(std::string("Winograd's convolution is float32's, or that of codes, not ") + name_of(desc.dtype));
  if (desc.rank() != 4 && desc.rank() != 5)
    throw std::invalid_argument("Winograd's convolution takes maps of two or three spatial axes, not " + desc.str());
  if (desc.shape[1] % 16) throw std::invalid_argument("Winograd's convolution works on whole vectors of 16 channels, not on " + desc.str());
  const bool last = desc.format.order == Order::channels_last && desc.strides[1] == 1;
  if (!last && desc.format.block % vector_lanes())
    throw std::invalid_argument("Winograd's convolution needs vectors of channels: " + desc.str());
  if (desc.format.block == 1 && !last) throw std::invalid_argument("Winograd's convolution needs vectors of channels: " + desc.str());
}

WinogradOp op_of(const PostOp& op, const TensorDesc& output, bool with_codes) {
  WinogradOp made{};
  if (op.kind == "relu" || op.kind == "leaky_relu" || op.kind == "clamp") {
    made.kind = op.kind == "relu" ? WinogradOpKind::relu : op.kind == "clamp" ? WinogradOpKind::clamp : WinogradOpKind::leaky_relu;
    made.alpha = op.alpha;
    made.beta = op.beta;
    return made;
  }
  if (op.kind != "sum" && op.kind != "add") throw std::invalid_argument("Winograd's convolution has no post-op '" + op.kind + "'");
  const std::optional<TensorDesc> operand = op.other(output);
  if (!operand || operand->shape != output.shape || operand->format != output.format)
    throw std::invalid_argument("Winograd's convolution adds only operands of the shape and format of its output");
  require_served(*operand, with_codes);
  made.kind = WinogradOpKind::add;
  made.map = map_of(*operand);
  made.dtype = operand->dtype;
  made.affine = operand->affine();
  return made;
}

// Of codes: how many times the results the last transform gives (kernels/winograd_codes.cpp).
constexpr double factor_of(int tile) { return tile == 4 ? 24 * 24 : 2 * 2; }

// Rows of the weights' transform, in integers.
constexpr int rows_of_4[6][3] = {{1, 0, 0}, {-1, -1, -1}, {-1, 1, -1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}};
constexpr int rows_of_2[4][3] = {{-1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}};

}  // namespace

Winograd::Winograd(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& padding_l,
                   const Dims& padding_r, int tile, const std::vector<PostOp>& post_ops, const std::vector<float>& weight_scales)
    : kernel_(require_kernels().winograd), has_bias_(has_bias), threads_(std::max(omp_get_max_threads(), 1)), elements_(output.numel()) {
  if (tile != 2 && tile != 4) throw std::invalid_argument("Winograd's tiles are of 2 or 4 outputs a side");
  const bool on_codes = is_code(x.dtype);
  require_served(x, true);
  require_served(output, on_codes);
  if (on_codes && (x.rank() != 4 || x.format != Format::channels_last))
    throw std::invalid_argument("Winograd's convolution of codes is that of images in channels_last, not of " + x.str());
  if (static_cast<int64_t>(weight_scales.size()) != (on_codes ? output.shape[1] : 0))
    throw std::invalid_argument("Winograd's convolution needs a scale of the weights for each output channel of codes, and none of " +
                                std::string("floats; it got ") + std::to_string(weight_scales.size()));
  if (x.format != output.format) throw std::invalid_argument("Winograd's convolution keeps the format of its input");
  const size_t spatial = x.shape.size() - 2;
  const int64_t taps = spatial == 3 && weights.size() == 5 ? weights[2] : 1;
  const Dims kernel = spatial == 3 ? Dims{output.shape[1], x.shape[1], taps, 3, 3} : Dims{output.shape[1], x.shape[1], 3, 3};
  if (weights != kernel || (taps != 1 && taps != 3))
    throw std::invalid_argument(
        "Winograd's convolution needs weights (O, C, 3, 3), or of three axes (O, C, 1 or 3, 3, 3), that fit x and output");
  if (padding_l.size() != spatial || padding_r.size() != spatial)
    throw std::invalid_argument("Winograd's convolution needs padding for each spatial axis");
  for (size_t i = 0; i < spatial; i++) {
    const int64_t most = weights[2 + i] - 1;
    if (padding_l[i] < 0 || padding_l[i] > most || padding_r[i] < 0 || padding_r[i] > most)
      throw std::invalid_argument("Winograd's convolution pads by 0 to 2, and not across slices that do not see each other");
    if (output.shape[2 + i] != x.shape[2 + i] + padding_l[i] + padding_r[i] - weights[2 + i] + 1)
      throw std::invalid_argument("the output of a convolution does not have the size that follows from its input");
  }
  if (output.shape[0] != x.shape[0]) throw std::invalid_argument("a convolution keeps the batch");
  if (post_ops.size() > winograd_max_ops) throw std::invalid_argument("Winograd's convolution takes three post-ops at most");

  args_.tile = tile;
  args_.batch = x.shape[0];
  args_.in_channels = x.shape[1];
  args_.out_channels = output.shape[1];
  args_.taps = taps;
  args_.in_depth = spatial == 3 ? x.shape[2] : 1;
  args_.out_depth = spatial == 3 ? output.shape[2] : 1;
  args_.pad_front = spatial == 3 ? padding_l[0] : 0;
  args_.in_height = x.shape[spatial];
  args_.in_width = x.shape[spatial + 1];
  args_.out_height = output.shape[spatial];
  args_.out_width = output.shape[spatial + 1];
  args_.pad_top = padding_l[spatial - 2];
  args_.pad_left = padding_l[spatial - 1];
  args_.tile_rows = (args_.out_height + tile - 1) / tile;
  args_.tile_columns = (args_.out_width + tile - 1) / tile;
  args_.in_map = map_of(x);
  args_.out_map = map_of(output);
  for (const PostOp& op : post_ops) {
    args_.op[args_.ops++] = op_of(op, output, on_codes);
    in_place_.push_back(op.kind == "sum");
  }
  args_.bounded = on_codes;
  args_.low = -std::numeric_limits<float>::infinity();
  args_.high = -args_.low;
  for (int i = 0; i < args_.ops; i++) {
    const WinogradOp& op = args_.op[i];
    args_.bounded &= op.kind == WinogradOpKind::relu || op.kind == WinogradOpKind::clamp;
    const bool clamps = op.kind == WinogradOpKind::clamp;
    for (float* end : {&args_.low, &args_.high}) *end = std::min(std::max(*end, clamps ? op.alpha : 0.0f), clamps ? op.beta : INFINITY);
  }
  args_.dtype = x.dtype;
  args_.output_dtype = output.dtype;
  args_.output_affine = output.affine();
  args_.zero = x.zero_point - lowest_code(x.dtype);
  for (const float scale : weight_scales) scales_.push_back(static_cast<float>(static_cast<double>(scale) * x.scale / factor_of(tile)));
  implementation = kernel_name("winograd" + std::to_string(tile)) + (on_codes ? "_int16" : "");
  plan(threads_);
}

// How the work is cut. 640 KB of the second level cache are counted on.
void Winograd::plan(int64_t threads) {
  constexpr int64_t cache = 640 << 10, few = 28, many = 56;
  const int64_t points = (args_.tile + 2) * (args_.tile + 2), tiles = args_.batch * args_.out_depth * args_.tile_rows * args_.tile_columns;
  const int64_t panels = (args_.out_channels + panel_channels() - 1) / panel_channels(), own = (tiles + threads - 1) / threads;
  // Few tiles: reading the weights is the work to share.
  args_.shared = threads > 1 && own < few;
  const int64_t mine = args_.shared ? tiles : own;
  const int64_t width = of_codes() ? 2 : 4;  // of a transformed input
  const int64_t fitting = cache / (points * (width * args_.in_channels + 4 * panel_channels()));
  if (args_.taps == 1 && (fitting >= few || fitting >= mine)) {
    args_.chunk_panels = 1;
    args_.block_tiles = std::min(mine, fitting);
  } else {
    // V would go through the second level once a panel: all panels at each point instead, and more tiles a reading of the weights.
    // Taps ask for it too: the sums of all panels stay from one to the next, however few threads then run.
    args_.chunk_panels = args_.shared && args_.taps == 1 ? (panels + threads - 1) / threads : panels;
    args_.block_tiles = std::min(mine, many);
  }
  args_.block_tiles = std::max<int64_t>(args_.block_tiles, 1);
  const auto bytes = [&](int64_t channels, int64_t width) { return points * (args_.block_tiles * channels * width + winograd_gap_bytes); };
  args_.inputs_bytes = bytes(args_.in_channels, width);
  args_.results_bytes = bytes(args_.chunk_panels * panel_channels(), 4);
  scratchpad_bytes = (args_.shared ? 1 : threads) * args_.inputs_bytes + threads * args_.results_bytes + 63;
}

void Winograd::run(const Run& run, StepState*) const {
  if (elements_ == 0) return;
  WinogradArgs args = args_;
  void* const* slot = run.slots;
  args.input = *slot++;
  args.weights = *slot++;
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = *slot++;
  args.scales = scales_.data();
  for (int i = 0; i < args.ops; i++)
    if (args.op[i].kind == WinogradOpKind::add) args.op[i].operand = in_place_[i] ? args.output : *slot++;
  const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
  args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
  args.threads = std::min(threads_for(elements_, run.threads), threads_);
  kernel_(args);
}

int64_t Winograd::packed_bytes() const {
  return args_.taps * (args_.tile + 2) * (args_.tile + 2) * args_.in_channels * args_.out_channels * (of_codes() ? 2 : 4);
}

std::string Winograd::packed_key() const {
  return "winograd" + std::to_string(args_.tile) + (of_codes() ? "_codes;" : ";") + std::to_string(panel_channels()) + ";" +
         std::to_string(args_.out_channels) + "," + std::to_string(args_.in_channels) + "," + std::to_string(args_.taps);
}

void Winograd::pack(DType dtype, const void* source, void* packed) const {
  if (of_codes()) {
    if (dtype != DType::s8) throw std::invalid_argument("Winograd's convolution of codes packs weights of s8");
    return pack_codes(static_cast<const int8_t*>(source), static_cast<int16_t*>(packed));
  }
  if (dtype != DType::f32) throw std::invalid_argument("Winograd's convolution packs weights of float32");
  pack(static_cast<const float*>(source), {args_.in_channels * args_.taps * 9, args_.taps * 9, 9, 3, 1}, omp_get_max_threads(), packed);
}

void Winograd::pack_codes(const int8_t* source, int16_t* packed) const {
  const int64_t n = args_.tile + 2, lanes = vector_lanes(), channels = args_.in_channels;
  const auto* g = args_.tile == 4 ? rows_of_4 : rows_of_2;
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < args_.out_channels; first += lanes) {
    // A vector's place in its panel, which the last one has for itself where their number is odd.
    const int64_t panel = first / panel_channels() * panel_channels(), width = std::min(panel_channels(), args_.out_channels - panel);
    for (int64_t lane = 0; lane < lanes; lane++) {
      const int8_t* w = source + (first + lane) * channels * 9;
      int16_t* to = packed + panel * n * n * channels + (first - panel + lane) * 2;
      for (int64_t c = 0; c < channels; c++, w += 9) {
        int half[6][3];
        for (int64_t i = 0; i < n; i++)
          for (int64_t k = 0; k < 3; k++) half[i][k] = g[i][0] * w[k] + g[i][1] * w[3 + k] + g[i][2] * w[6 + k];
        int16_t* at = to + c / 2 * width * 2 + c % 2;
        for (int64_t i = 0; i < n; i++)
          for (int64_t j = 0; j < n; j++, at += width * channels)
            *at = static_cast<int16_t>(g[j][0] * half[i][0] + g[j][1] * half[i][1] + g[j][2] * half[i][2]);
      }
    }
  }
}

void Winograd::pack(const float* source, const Dims& strides, int threads, void* packed) const {
  const WeightTransform g(args_.tile);
  const size_t rank = strides.size();
  require_kernels().winograd_weights({args_.tile, args_.out_channels, args_.in_channels, args_.taps, source, strides[0], strides[1],
                                      rank == 5 ? strides[2] : 0, strides[rank - 2], strides[rank - 1], g.rows, static_cast<float*>(packed),
                                      threads});
}

}  // namespace drystone
