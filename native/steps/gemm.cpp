#include "steps/gemm.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/pointwise.h"

namespace drystone {

namespace {

GemmTileSize tile(GemmArithmetic arithmetic) { return gemm_tile(arithmetic, static_cast<int>(vector_lanes())); }
int64_t strip() { return tile(GemmArithmetic::f32).vectors * vector_lanes(); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

void require_rows(const TensorDesc& desc, const std::string& name, bool takes_codes) {
  const std::string given = name + " (" + desc.str() + ")";
  if (desc.rank() != 2 || desc.format != Format::plain) throw std::invalid_argument(given + " is no plain matrix");
  if (!takes_codes || !is_code(desc.dtype)) require_float(desc.dtype, given);
  const bool rows = (desc.strides[1] == 1 || desc.shape[1] == 1) && (desc.strides[0] >= desc.shape[1] || desc.shape[0] <= 1);
  if (!rows) throw std::invalid_argument(given + " has rows that are not contiguous, or that overlap");
}

GemmOp op_of(const PostOp& op, const TensorDesc& output, bool takes_codes) {
  const std::optional<TensorDesc> other = op.other(output);
  GemmOp result{};
  result.instruction = epilogue_instruction(op);
  result.binary = other.has_value();
  if (!other) return result;
  const TensorDesc& desc = *other;
  require_rows(desc, "an operand", takes_codes);
  for (int i = 0; i < 2; i++)
    if (desc.shape[i] != 1 && desc.shape[i] != output.shape[i])
      throw std::invalid_argument("an operand (" + desc.str() + ") does not broadcast to " + output.str());
  result.dtype = desc.dtype;
  result.affine = desc.affine();
  result.row_stride = desc.shape[0] == 1 ? 0 : desc.strides[0];
  result.column_stride = desc.shape[1] == 1 ? 0 : 1;
  return result;
}

// Whether it adds a matrix, or a row to all of them, that decoding can take on its way.
bool adds_rows(const PostOp& op, const TensorDesc& output) {
  const std::optional<TensorDesc> other = op.other(output);
  if (!other || (op.kind != "add" && op.kind != "sum") || other->rank() != 2 || other->shape[1] != output.shape[1]) return false;
  return output.shape[1] > 1 && (is_code(other->dtype) || other->dtype == DType::f32);
}

GemmArithmetic arithmetic_of(DType x, bool widened) {
  if (widened) return GemmArithmetic::bf16_widened;
  if (x == DType::f32) return GemmArithmetic::f32;
  if (has(Feature::amx_bf16)) return GemmArithmetic::bf16_tiles;
  return has(Feature::avx512_bf16) ? GemmArithmetic::bf16_dot : GemmArithmetic::bf16_widened;
}

bool has_vnni() { return has(Feature::avx512) ? has(Feature::avx512_vnni) : has(Feature::avx_vnni); }

// Codes: a few rows are multiplied in registers, in float32.
GemmArithmetic arithmetic_of(const TensorDesc& x, bool widened, const Groups& kind, bool rounds_x) {
  if (rounds_x) return has_vnni() && !widened ? GemmArithmetic::rounded_dot : GemmArithmetic::rounded_pairs;
  const GemmArithmetic arithmetic = arithmetic_of(x.dtype, widened);
  const bool in_registers = x.shape[0] <= tile(GemmArithmetic::f32).rows;
  return kind.bits && (in_registers || arithmetic == GemmArithmetic::bf16_widened) ? GemmArithmetic::f32 : arithmetic;
}

// Of u8 by s8, which are sums of less than 2^31.
constexpr int64_t codes_limit = 65536;

// Rough figures of Zen 5 and its like, and for AMX of Sapphire Rapids as published, not measured; only their relation matters.
double products_a_cycle(GemmArithmetic arithmetic) {
  const auto lanes = static_cast<double>(vector_lanes());
  switch (arithmetic) {
    case GemmArithmetic::codes_tiles: return 1024;
    case GemmArithmetic::bf16_tiles: return 512;
    case GemmArithmetic::codes_dot: return lanes * 8;
    case GemmArithmetic::rounded_dot: return lanes * 5;
    case GemmArithmetic::codes_pairs:
    case GemmArithmetic::bf16_dot: return lanes * 4;
    case GemmArithmetic::rounded_pairs:
    case GemmArithmetic::codes_wide: return lanes * 3;
    default: return lanes * 2;
  }
}

GemmArithmetic arithmetic_on_codes(bool fit_7_bits, bool widened) {
  if (!widened && has(Feature::amx_int8)) return GemmArithmetic::codes_tiles;
  if (!widened && has_vnni()) return GemmArithmetic::codes_dot;
  return fit_7_bits ? GemmArithmetic::codes_pairs : GemmArithmetic::codes_wide;
}

std::string name_of_kernel(GemmArithmetic arithmetic) {
  switch (arithmetic) {
    case GemmArithmetic::bf16_tiles: return "gemm:amx";
    case GemmArithmetic::bf16_widened: return kernel_name("gemm") + "_widened";
    case GemmArithmetic::bf16_dot: return kernel_name("gemm") + "_bf16";
    case GemmArithmetic::codes_tiles: return "gemm:amx_int8";
    case GemmArithmetic::rounded_dot:
    case GemmArithmetic::codes_dot: return kernel_name("gemm") + "_vnni";
    case GemmArithmetic::rounded_pairs: return kernel_name("gemm") + "_pairs";
    case GemmArithmetic::codes_pairs: return kernel_name("gemm") + "_int7";
    case GemmArithmetic::codes_wide: return kernel_name("gemm") + "_int8";
    default: return kernel_name("gemm");
  }
}

}  // namespace

Gemm::Gemm(const TensorDesc& x, int64_t n, bool has_bias, const TensorDesc& output, const std::vector<PostOp>& post_ops, bool widened,
           const CodeWeights& weights, const GemmDynamic& dynamic, const GemmPatches* patches, const GroupedStrips* strips, bool rounds_x)
    : kernel_(require_kernels().gemm), has_bias_(has_bias) {
  const bool on_codes = is_code(x.dtype) || dynamic.by != GemmDynamic::By::none;
  require_rows(x, "x", on_codes);
  require_rows(output, "output", on_codes);
  if (n < 1 || x.shape[1] < 1) throw std::invalid_argument("a GEMM needs weights that are not empty");
  if (n > std::numeric_limits<int32_t>::max() || x.shape[1] > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("a GEMM's weights have at most 2^31 - 1 rows and columns");
  if (output.shape != Dims{x.shape[0], n}) throw std::invalid_argument("the output (" + output.str() + ") is not (M, N)");
  if (post_ops.size() > gemm_max_ops) throw std::invalid_argument("a GEMM takes eight post-ops at most");

  const Groups kind = strips ? strips->kind : Groups{};
  if (strips && (strips->n != n || strips->k != x.shape[1])) throw std::invalid_argument("the weights in groups are not (N, K)");
  if (on_codes && strips) throw std::invalid_argument("codes are multiplied by weights of s8 with a scale a column");
  if (!on_codes && !weights.scales.empty()) throw std::invalid_argument("weights with scales are multiplied by codes, not by " + x.str());
  if (rounds_x && !strips) throw std::invalid_argument("x is rounded where the weights are in groups");
  if (rounds_x && kind.group > codes_limit)
    throw std::invalid_argument("sums of more than " + std::to_string(codes_limit) + " products of codes may not fit into 32 bits");
  args_.groups = kind;
  args_.arithmetic = on_codes ? arithmetic_on_codes(weights.fit_7_bits, widened) : arithmetic_of(x, widened, kind, rounds_x);
  args_.m = x.shape[0];
  args_.n = n;
  args_.k = x.shape[1];
  args_.x_stride = x.strides[0];
  args_.output_stride = output.strides[0];
  args_.x_dtype = x.dtype;
  args_.output_dtype = output.dtype;
  args_.output_affine = output.affine();
  args_.dynamic = dynamic;
  args_.has_patches = patches;
  if (patches) args_.patches = *patches;
  if (on_codes) take_codes(x, weights);
  const auto bounds = [](const PostOp& op) { return op.kind == "relu" || (op.kind == "clamp" && !(op.alpha > op.beta)); };
  args_.adds = on_codes && !post_ops.empty() && adds_rows(post_ops[0], output) &&
               (post_ops.size() == 1 || (post_ops.size() == 2 && bounds(post_ops[1])));
  for (const PostOp& op : post_ops) {
    if (on_codes && bounds(op) && (args_.ops == 0 || args_.adds) && !args_.bounded) {
      args_.bounded = true;
      args_.low = op.kind == "relu" ? 0 : op.alpha;
      args_.high = op.kind == "relu" ? std::numeric_limits<float>::infinity() : op.beta;
      continue;
    }
    args_.op[args_.ops++] = op_of(op, output, on_codes);
    in_place_.push_back(op.kind == "sum");
  }
  implementation = name_of_kernel(args_.arithmetic) + (kind.bits ? "_int" + std::to_string(kind.bits) : "");
  if (args_.m > 0) plan(std::max(omp_get_max_threads(), 1));
}

void Gemm::take_codes(const TensorDesc& x, const CodeWeights& weights) {
  const GemmDynamic& dynamic = args_.dynamic;
  const bool is_dynamic = dynamic.by != GemmDynamic::By::none;
  if (is_dynamic == is_code(x.dtype)) throw std::invalid_argument("x is floats to quantise, or codes: " + x.str());
  if (static_cast<int64_t>(weights.scales.size()) != args_.n)
    throw std::invalid_argument("a product of codes has one weight scale an output channel: " + std::to_string(args_.n) + ", not " +
                                std::to_string(weights.scales.size()));
  if (args_.k > codes_limit)
    throw std::invalid_argument("sums of more than " + std::to_string(codes_limit) + " products of codes may not fit into 32 bits");
  const int lowest = dynamic.lowest, highest = dynamic.highest;
  const bool is_range = lowest < highest && (lowest < 0 ? lowest >= -128 && highest <= 127 : highest <= 255);
  if (is_dynamic && (!is_range || (dynamic.symmetric && lowest >= 0) || !(dynamic.eps >= 0)))
    throw std::invalid_argument("codes from " + std::to_string(lowest) + " to " + std::to_string(highest) +
                                " are none of u8 or s8, or, symmetric, have no sign");
  args_.zero = is_dynamic ? 0 : x.zero_point + (x.dtype == DType::s8 ? 128 : 0);
  scales_.assign(round_up(args_.n, strip()), 0);
  std::transform(weights.scales.begin(), weights.scales.end(), scales_.begin(), [&](float scale) { return scale * x.scale; });
}

// Which cut takes the fewest cycles: arithmetic or reading weights, whichever is more, and packing rows, which each part does for itself.
void Gemm::split(int64_t threads) {
  constexpr double weights_bytes = 6, added_elements = 8, barrier = 10000;  // a cycle; and cycles
  const bool on_codes = gemm_on_codes(args_.arithmetic), is_dynamic = args_.dynamic.by != GemmDynamic::By::none;
  const double packed_elements = on_codes && !is_dynamic ? 16 : 4;
  const double products = products_a_cycle(args_.arithmetic);
  const Groups& groups = args_.groups;
  const double bytes = groups.bits ? static_cast<double>(groups.column_bytes()) / groups.group : 4.0 / gemm_step_k(args_.arithmetic);
  const int64_t tile_rows = tile(args_.arithmetic).rows, unit = tile(args_.arithmetic).unit, chunk = gemm_chunk_k(args_);
  const int64_t blocks = ceil_div(args_.m, tile_rows), strips = ceil_div(args_.n, strip()), chunks = ceil_div(args_.k, chunk);
  double least = std::numeric_limits<double>::infinity();
  const int64_t k_limit = is_dynamic ? 1 : std::min(threads, chunks);  // the parts of k would each look for the range
  for (int64_t k = 1; k <= k_limit; k++) {
    for (int64_t n = 1; n <= std::min(threads / k, strips); n++) {
      const int64_t m = std::min(threads / k / n, blocks);
      const int64_t rows = std::min(ceil_div(blocks, m) * tile_rows, args_.m), depth = ceil_div(chunks, k) * chunk;
      const double columns = ceil_div(strips, n) * strip();
      const double multiplying = round_up(rows, unit) * columns * depth / products,
                   reading = columns * depth * n * k * bytes / weights_bytes;
      const double adding = k > 1 ? barrier + 2.0 * k * args_.m * args_.n / added_elements / (m * n * k) : 0;
      const int64_t readers = std::min<int64_t>(n * k, 2);  // parts that share weights read them all, each
      const double cycles = std::max(multiplying, reading / readers) + rows * depth / packed_elements + adding;
      if (cycles < least * 0.99) {
        least = cycles;
        args_.split_m = m;
        args_.split_n = n;
        args_.split_k = k;
      }
    }
  }
}

// How the work is cut: into parts for the threads, and those into blocks whose rows stay in the second level cache (1 MB) with the
// strip in use and the next one. Sums between blocks of k are kept for a block of strips. One row block reads each weight once.
// CPUs with AMX have 2 MB, and multiply so fast that a strip must serve some 256 rows to be there in time: rather more blocks of k.
void Gemm::plan(int64_t threads) {
  constexpr int64_t sums_cache = 512 << 10, rows_limit = 8 << 20, few_products = 1 << 17, busy_rows = 256;
  const bool tiles = gemm_on_tiles(args_.arithmetic);
  const int64_t element = gemm_element_bytes(args_), chunk = gemm_chunk_k(args_), tile_rows = tile(args_.arithmetic).rows;
  const int64_t rows_cache = (tiles ? 768 : 384) << 10;
  const int64_t blocks = ceil_div(args_.m, tile_rows), strips = ceil_div(args_.n, strip()), padded_k = round_up(args_.k, chunk);
  split(args_.m * args_.n * args_.k < few_products ? 1 : threads);

  const int64_t part_blocks = ceil_div(blocks, args_.split_m), part_k = ceil_div(padded_k / chunk, args_.split_k) * chunk;
  const int64_t fitting_k = rows_cache / (std::min(part_blocks * tile_rows, busy_rows) * element);
  const int64_t longest = std::min(6144 / element, tiles ? fitting_k : 6144);
  const int64_t k_blocks = part_blocks == 1 ? 1 : ceil_div(part_k, longest);
  args_.block_k = round_up(ceil_div(part_k, k_blocks), chunk);
  const int64_t fitting = std::min(rows_cache / (args_.block_k * element), rows_limit / (part_k * element));
  args_.block_m = std::max<int64_t>(std::min(fitting / tile_rows, part_blocks), 1) * tile_rows;
  const int64_t part_strips = ceil_div(strips, args_.split_n);
  const int64_t sums_strips = std::max<int64_t>(sums_cache / (args_.block_m * strip() * 4), 4);
  args_.block_strips = k_blocks > 1 ? std::min(part_strips, sums_strips) : part_strips;

  args_.rows_bytes = round_up(args_.block_m * part_k * element, 64);
  args_.sums_bytes = k_blocks > 1 ? args_.block_m * args_.block_strips * strip() * 4 : 0;
  args_.part_bytes = args_.rows_bytes + args_.sums_bytes;
  if (args_.dynamic.by != GemmDynamic::By::none) args_.part_bytes += round_up(part_blocks * tile_rows * 8, 64);
  if (args_.has_patches) args_.part_bytes += tile_rows * round_up(args_.block_k, 64);
  if (args_.groups.bits && !gemm_rounds_x(args_.arithmetic)) args_.part_bytes += args_.block_k * strip() * element;
  const int64_t parts = args_.split_m * args_.split_n * args_.split_k;
  const int64_t results_bytes = args_.split_k > 1 ? args_.split_k * args_.m * strips * strip() * 4 : parts * gemm_claims_bytes;
  scratchpad_bytes = parts * args_.part_bytes + results_bytes + 63;
}

void Gemm::run(const Run& run, StepState*) const {
  if (args_.m == 0) return;
  GemmArgs args = args_;
  void* const* slot = run.slots;
  args.x = *slot++;
  args.weights = *slot++;
  if (gemm_on_codes(args.arithmetic)) {
    args.scales = scales_.data();
    const auto* sums = static_cast<const std::byte*>(args.weights) + weights_bytes();
    args.weight_sums = reinterpret_cast<const int32_t*>(sums);
    if (args.arithmetic == GemmArithmetic::codes_pairs) {
      const RepairsAt at = repairs_at();
      args.repairs.starts = reinterpret_cast<const uint32_t*>(sums + at.starts);
      args.repairs.steps = reinterpret_cast<const uint16_t*>(sums + at.steps);
      args.repairs.weights = reinterpret_cast<const char*>(sums + at.weights);
    }
  }
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = *slot++;
  for (int i = 0; i < args.ops; i++)
    if (args.op[i].binary) args.op[i].operand = in_place_[i] ? args.output : *slot++;
  const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
  args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
  args.threads = static_cast<int>(std::min<int64_t>(run.threads, args.split_m * args.split_n * args.split_k));
  kernel_(args);
}

int64_t Gemm::weights_bytes() const {
  if (args_.groups.bits) return 0;  // packed elsewhere
  return ceil_div(args_.k, gemm_step_k(args_.arithmetic)) * round_up(args_.n, vector_lanes()) * 4;
}

// Every second four of each strip may need repair.
Gemm::RepairsAt Gemm::repairs_at() const {
  RepairsAt at{};
  at.starts = round_up(args_.n, strip()) * 4;
  if (args_.arithmetic != GemmArithmetic::codes_pairs) {
    at.end = at.starts;
    return at;
  }
  const int64_t strips = ceil_div(args_.n, strip()), most = strips * (ceil_div(args_.k, 4) / 2);
  at.steps = at.starts + strips * (ceil_div(args_.k, gemm_chunk_k(args_)) + 1) * 4;
  at.weights = round_up(at.steps + most * 2, 64);
  at.end = at.weights + most * strip() * 4;
  return at;
}

int64_t Gemm::packed_bytes() const { return weights_bytes() + (gemm_on_codes(args_.arithmetic) ? repairs_at().end : 0); }

std::string Gemm::packed_key() const {
  const GemmArithmetic arithmetic = args_.arithmetic;
  const std::string order = arithmetic == GemmArithmetic::codes_wide    ? "4wide"
                            : arithmetic == GemmArithmetic::codes_pairs ? "4pairs"
                                                                        : std::to_string(gemm_step_k(arithmetic));
  return "gemm" + order + ";" + std::to_string(strip()) + ";" + std::to_string(args_.n) + "," + std::to_string(args_.k);
}

void Gemm::pack(DType dtype, const void* source, void* packed) const {
  const bool on_codes = gemm_on_codes(args_.arithmetic);
  const int64_t step = gemm_step_k(args_.arithmetic), element = 4 / step, steps = ceil_div(args_.k, step);
  if (args_.groups.bits) throw std::invalid_argument("weights in groups are packed by GroupedStrips");
  if (dtype != (on_codes ? DType::s8 : step == 1 ? DType::f32 : DType::bf16))
    throw std::invalid_argument("a GEMM packs weights of the dtype that it multiplies");
  if (on_codes) return pack_codes(static_cast<const int8_t*>(source), static_cast<std::byte*>(packed));
  const auto* from = static_cast<const std::byte*>(source);
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < args_.n; first += strip()) {
    const int64_t columns = std::min(strip(), args_.n - first), width = round_up(columns, vector_lanes());
    std::byte* to = static_cast<std::byte*>(packed) + first * steps * 4;
    for (int64_t k = 0; k < steps; k++, to += width * 4) {
      const int64_t bytes = std::min(step, args_.k - k * step) * element;
      if (bytes < 4 || columns < width) std::memset(to, 0, width * 4);
      for (int64_t c = 0; c < columns; c++) std::memcpy(to + c * 4, from + ((first + c) * args_.k + k * step) * element, bytes);
    }
  }
}

// Fours of a column lie together; where they are widened, pairs, of a vector's columns the first ones before the second ones.
void Gemm::pack_codes(const int8_t* source, std::byte* packed) const {
  const int64_t steps = ceil_div(args_.k, 4), lanes = vector_lanes();
  const bool wide = args_.arithmetic == GemmArithmetic::codes_wide;
  if (args_.arithmetic == GemmArithmetic::codes_pairs &&
      std::any_of(source, source + args_.n * args_.k, [](int8_t weight) { return weight < -64 || weight > 64; }))
    throw std::invalid_argument("weights that fit into 7 bits lie between -64 and 64");
  auto* sums = reinterpret_cast<int32_t*>(packed + weights_bytes());
  std::fill_n(sums, round_up(args_.n, strip()), 0);
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < args_.n; first += strip()) {
    const int64_t columns = std::min(strip(), args_.n - first), width = round_up(columns, lanes);
    auto* to = reinterpret_cast<int8_t*>(packed) + first * steps * 4;
    std::memset(to, 0, width * steps * 4);
    for (int64_t c = 0; c < columns; c++) {
      const int8_t* from = source + (first + c) * args_.k;
      const int64_t fours = c * 4, pairs = c / lanes * lanes * 4 + c % lanes * 2, apart = wide ? 2 * lanes : 2;
      int32_t sum = 0;
      for (int64_t k = 0; k < args_.k; k++) {
        to[k / 4 * width * 4 + (wide ? pairs : fours) + k % 4 / 2 * apart + k % 2] = from[k];
        sum += from[k];
      }
      sums[first + c] = sum;
    }
  }
  if (args_.arithmetic == GemmArithmetic::codes_pairs) take_repairs(packed);
}

namespace {

// What is above 128 in the sum of the positive of four weights that meet in 16 bits, or of the negative: 255 times as much must fit.
// Moved from the last two of them, in which there is as much, since the first two are at most 64 each.
bool move_excess(const int8_t* first, int8_t* last, int8_t* moved) {
  bool any = false;
  for (const int sign : {1, -1}) {
    int excess = -128;
    for (const int8_t weight : {first[0], first[1], last[0], last[1]}) excess += std::max(sign * weight, 0);
    for (int i = 0; i < 2 && excess > 0; i++) {
      const int some = std::min(excess, std::max(sign * last[i], 0));
      if (some == 0) continue;
      last[i] = static_cast<int8_t>(last[i] - sign * some);
      moved[i] = static_cast<int8_t>(sign * some);
      excess -= some;
      any = true;
    }
  }
  return any;
}

}  // namespace

void Gemm::take_repairs(std::byte* packed) const {
  const int64_t fours = ceil_div(args_.k, 4), strips = ceil_div(args_.n, strip()), chunk_fours = gemm_chunk_k(args_) / 4;
  std::byte* sums = packed + weights_bytes();
  const RepairsAt at = repairs_at();
  auto* starts = reinterpret_cast<uint32_t*>(sums + at.starts);
  auto* steps = reinterpret_cast<uint16_t*>(sums + at.steps);
  auto* moved = reinterpret_cast<int8_t*>(sums + at.weights);
  std::vector<int8_t> some(strip() * 4);
  uint32_t count = 0;
  for (int64_t s = 0; s < strips; s++) {
    const int64_t width = round_up(std::min(strip(), args_.n - s * strip()), vector_lanes()) * 4;
    auto* weights = reinterpret_cast<int8_t*>(packed) + s * strip() * fours * 4;
    for (int64_t four = 0; four < fours; four++) {
      if (four % chunk_fours == 0) *starts++ = count;
      if (four % 2 == 0) continue;
      std::fill(some.begin(), some.end(), 0);
      bool any = false;
      for (int64_t pair = 0; pair < width; pair += 2)
        any |= move_excess(weights + (four - 1) * width + pair, weights + four * width + pair, some.data() + pair);
      if (!any) continue;
      std::copy(some.begin(), some.end(), moved + count * some.size());
      steps[count++] = static_cast<uint16_t>(four);
    }
    *starts++ = count;
  }
}

}  // namespace drystone
