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

void require_rows(const TensorDesc& desc, const std::string& name) {
  const std::string given = name + " (" + desc.str() + ")";
  if (desc.rank() != 2 || desc.format != Format::plain) throw std::invalid_argument(given + " is no plain matrix");
  require_float(desc.dtype, given);
  const bool rows = (desc.strides[1] == 1 || desc.shape[1] == 1) && (desc.strides[0] >= desc.shape[1] || desc.shape[0] <= 1);
  if (!rows) throw std::invalid_argument(given + " has rows that are not contiguous, or that overlap");
}

GemmOp op_of(const PostOp& op, const TensorDesc& output) {
  const TensorDesc* other = op.other(output);
  GemmOp result{};
  result.instruction = epilogue_instruction(op);
  result.binary = other;
  if (!other) return result;
  const TensorDesc& desc = *other;
  require_rows(desc, "an operand");
  for (int i = 0; i < 2; i++)
    if (desc.shape[i] != 1 && desc.shape[i] != output.shape[i])
      throw std::invalid_argument("an operand (" + desc.str() + ") does not broadcast to " + output.str());
  result.dtype = desc.dtype;
  result.row_stride = desc.shape[0] == 1 ? 0 : desc.strides[0];
  result.column_stride = desc.shape[1] == 1 ? 0 : 1;
  return result;
}

GemmArithmetic arithmetic_of(DType x, bool widened) {
  if (widened) return GemmArithmetic::bf16_widened;
  if (x == DType::f32) return GemmArithmetic::f32;
  if (has(Feature::amx_bf16)) return GemmArithmetic::bf16_tiles;
  return has(Feature::avx512_bf16) ? GemmArithmetic::bf16_dot : GemmArithmetic::bf16_widened;
}

// Codes: a few rows are multiplied in registers, in float32.
GemmArithmetic arithmetic_of(const TensorDesc& x, bool widened, const Groups& kind) {
  const GemmArithmetic arithmetic = arithmetic_of(x.dtype, widened);
  const bool in_registers = x.shape[0] <= tile(GemmArithmetic::f32).rows;
  return kind.bits && (in_registers || arithmetic == GemmArithmetic::bf16_widened) ? GemmArithmetic::f32 : arithmetic;
}

std::string name_of_kernel(GemmArithmetic arithmetic) {
  if (arithmetic == GemmArithmetic::bf16_tiles) return "gemm:amx";
  if (arithmetic == GemmArithmetic::bf16_widened) return kernel_name("gemm") + "_widened";
  return kernel_name("gemm") + (arithmetic == GemmArithmetic::bf16_dot ? "_bf16" : "");
}

}  // namespace

Gemm::Gemm(const TensorDesc& x, int64_t n, bool has_bias, const TensorDesc& output, const std::vector<PostOp>& post_ops, bool widened,
           const GroupedStrips* strips)
    : kernel_(require_kernels().gemm), has_bias_(has_bias) {
  require_rows(x, "x");
  require_rows(output, "output");
  if (n < 1 || x.shape[1] < 1) throw std::invalid_argument("a GEMM needs weights that are not empty");
  if (n > std::numeric_limits<int32_t>::max() || x.shape[1] > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("a GEMM's weights have at most 2^31 - 1 rows and columns");
  if (output.shape != Dims{x.shape[0], n}) throw std::invalid_argument("the output (" + output.str() + ") is not (M, N)");
  if (post_ops.size() > gemm_max_ops) throw std::invalid_argument("a GEMM takes eight post-ops at most");

  const Groups kind = strips ? strips->kind : Groups{};
  if (strips && (strips->n != n || strips->k != x.shape[1])) throw std::invalid_argument("the weights in groups are not (N, K)");
  args_.groups = kind;
  args_.arithmetic = arithmetic_of(x, widened, kind);
  args_.m = x.shape[0];
  args_.n = n;
  args_.k = x.shape[1];
  args_.x_stride = x.strides[0];
  args_.output_stride = output.strides[0];
  args_.x_dtype = x.dtype;
  args_.output_dtype = output.dtype;
  for (const PostOp& op : post_ops) {
    args_.op[args_.ops++] = op_of(op, output);
    in_place_.push_back(op.kind == "sum");
  }
  implementation = name_of_kernel(args_.arithmetic) + (kind.bits ? "_int" + std::to_string(kind.bits) : "");
  if (args_.m > 0) plan(std::max(omp_get_max_threads(), 1));
}

// Which cut takes the fewest cycles: arithmetic or reading weights, whichever is more, and packing rows, which each part does for
// itself. Rough figures of Zen 5 and its like, and for AMX of Sapphire Rapids as published, not measured; only their relation matters.
void Gemm::split(int64_t threads) {
  constexpr double weights_bytes = 6, packed_elements = 4, added_elements = 8, barrier = 10000;  // a cycle; and cycles
  const bool dot = args_.arithmetic == GemmArithmetic::bf16_dot, tiles = args_.arithmetic == GemmArithmetic::bf16_tiles;
  const double products = tiles ? 512 : static_cast<double>(vector_lanes()) * (dot ? 4 : 2);
  const double floats = args_.arithmetic == GemmArithmetic::f32 ? 4 : 2;
  const double bytes = args_.groups.bits ? static_cast<double>(args_.groups.column_bytes()) / args_.groups.group : floats;
  const int64_t tile_rows = tile(args_.arithmetic).rows, unit = tile(args_.arithmetic).unit, chunk = 64 / gemm_x_bytes(args_.arithmetic);
  const int64_t blocks = ceil_div(args_.m, tile_rows), strips = ceil_div(args_.n, strip()), chunks = ceil_div(args_.k, chunk);
  double least = std::numeric_limits<double>::infinity();
  for (int64_t k = 1; k <= std::min(threads, chunks); k++) {
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
  const bool tiles = args_.arithmetic == GemmArithmetic::bf16_tiles;
  const int64_t element = gemm_x_bytes(args_.arithmetic), chunk = 64 / element, tile_rows = tile(args_.arithmetic).rows;
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

  args_.rows_bytes = args_.block_m * part_k * element;
  args_.sums_bytes = k_blocks > 1 ? args_.block_m * args_.block_strips * strip() * 4 : 0;
  const int64_t decoded_bytes = args_.groups.bits ? args_.block_k * strip() * element : 0;
  args_.part_bytes = args_.rows_bytes + args_.sums_bytes + decoded_bytes;
  const int64_t results_bytes = args_.split_k > 1 ? args_.split_k * args_.m * strips * strip() * 4 : 0;
  scratchpad_bytes = args_.split_m * args_.split_n * args_.split_k * args_.part_bytes + results_bytes + 63;
}

void Gemm::run(const Run& run, StepState*) const {
  if (args_.m == 0) return;
  GemmArgs args = args_;
  void* const* slot = run.slots;
  args.x = *slot++;
  args.weights = *slot++;
  if (has_bias_) args.bias = static_cast<const float*>(*slot++);
  args.output = *slot++;
  for (int i = 0; i < args.ops; i++)
    if (args.op[i].binary) args.op[i].operand = in_place_[i] ? args.output : *slot++;
  const auto scratch = reinterpret_cast<uintptr_t>(run.scratchpad);
  args.scratch = reinterpret_cast<std::byte*>((scratch + 63) / 64 * 64);
  args.threads = static_cast<int>(std::min<int64_t>(run.threads, args.split_m * args.split_n * args.split_k));
  kernel_(args);
}

int64_t Gemm::packed_bytes() const {
  if (args_.groups.bits) return 0;  // packed elsewhere
  const int64_t step = args_.arithmetic == GemmArithmetic::f32 ? 1 : 2;
  return ceil_div(args_.k, step) * round_up(args_.n, vector_lanes()) * 4;
}

std::string Gemm::packed_key() const {
  const char* step = args_.arithmetic == GemmArithmetic::f32 ? "1" : "2";
  return std::string("gemm") + step + ";" + std::to_string(strip()) + ";" + std::to_string(args_.n) + "," + std::to_string(args_.k);
}

void Gemm::pack(DType dtype, const void* source, void* packed) const {
  const int64_t step = args_.arithmetic == GemmArithmetic::f32 ? 1 : 2, element = 4 / step, steps = ceil_div(args_.k, step);
  if (args_.groups.bits) throw std::invalid_argument("weights in groups are packed by GroupedStrips");
  if (dtype != (step == 1 ? DType::f32 : DType::bf16)) throw std::invalid_argument("a GEMM packs weights of the dtype that it multiplies");
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

}  // namespace drystone
