// A chain of elementwise instructions on tensors of f32, bf16 or codes of 8 bits, in float32, read once and written once.
//
// An interpreter over blocks of at most 1024 elements: some rows of the innermost axis, so that a block is one contiguous
// run of float32 for each operand. An operand that is such a run in memory is read where it lies; any other (bf16,
// codes, broadcast, strided) is first laid out in a buffer, unless the buffer still holds it from the block before, as it does for
// scalars and for a row of channels. Then each instruction is one vectorised loop over the block, in L1. A block is large
// enough to hide the dispatch (an indirect call an instruction) and small enough for a dozen registers to stay in L1.
#include "kernels/pointwise.h"

#include "kernels/codes.h"
#include "kernels/instruction_list.h"
#include "kernels/instructions.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t block_elements = 1024;

template <typename F>
void unary(float* y, const float* a, int64_t count, F f) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = f(a[i]);
}

template <typename F>
void binary(float* y, const float* a, const float* b, int64_t count, F f) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = f(a[i], b[i]);
}

// Arguments too large for the vector reduction are rare and go to libm, one by one, after the rest. y may be a.
template <typename F, typename G>
void periodic(float* y, const float* a, int64_t count, F vectorised, G precise) {
  int large = 0;
#pragma omp simd reduction(+ : large)
  for (int64_t i = 0; i < count; i++) large += !(absolute(a[i]) < 8192.0f);
  if (large == 0) return unary(y, a, count, vectorised);
  for (int64_t i = 0; i < count; i++) y[i] = precise(a[i]);
}

}  // namespace

void execute(const PointwiseInstruction& op, float* y, const float* a, const float* b, int64_t count) {
  [[maybe_unused]] const float alpha = op.alpha, beta = op.beta;
  switch (op.kind) {
#define SCALAR(name, result) \
  case PointwiseKind::name: return unary(y, a, count, [=](float x) { return result; });
#define VECTOR(name, result) \
  case PointwiseKind::name: return each(y, a, count, [=](Floats x) { return result; });
#define PERIODIC(name, result, precise) \
  case PointwiseKind::name: return periodic(y, a, count, [=](float x) { return result; }, [=](float x) { return precise; });
#define BINARY(name, result) \
  case PointwiseKind::name: return binary(y, a, b, count, [=](float x, float z) { return result; });
    DRYSTONE_INSTRUCTIONS(SCALAR, VECTOR, PERIODIC, BINARY)
#undef SCALAR
#undef VECTOR
#undef PERIODIC
#undef BINARY
  }
}

namespace {

// How the index space is cut: outer axes one by one, the last two into blocks of `rows` x `columns`.
struct Tiling {
  int outer;              // axes before the last two
  int64_t rows, columns;  // sizes of the last two axes
  int64_t block_rows, block_columns;
  int64_t row_blocks, column_blocks;
  int64_t total;  // blocks in all
};

Tiling tile(const PointwiseArgs& args) {
  Tiling t;
  t.outer = args.axes - 2;
  t.rows = args.sizes[t.outer];
  t.columns = args.sizes[t.outer + 1];
  t.column_blocks = ceil_div(t.columns, block_elements);
  t.block_columns = least(block_elements, ceil_div(ceil_div(t.columns, t.column_blocks), 16) * 16);
  t.column_blocks = ceil_div(t.columns, t.block_columns);
  const int64_t fitting = t.column_blocks > 1 ? 1 : block_elements / t.columns;
  t.row_blocks = ceil_div(t.rows, fitting);
  t.block_rows = ceil_div(t.rows, t.row_blocks);
  t.row_blocks = ceil_div(t.rows, t.block_rows);
  t.total = t.row_blocks * t.column_blocks;
  for (int i = 0; i < t.outer; i++) t.total *= args.sizes[i];
  return t;
}

// What a buffer was last filled from; the same again need not be filled.
struct Filled {
  const void* address = nullptr;
  int64_t rows = 0, columns = 0;
};

void run_blocks(const PointwiseArgs& args, const Tiling& t, Range range) {
  alignas(64) float buffers[pointwise_max_buffers][block_elements];
  alignas(64) float staged[block_elements];  // the result, where the output is not a run of float32
  const float* operands[pointwise_max_buffers];
  Filled filled[pointwise_max_buffers];
  const int row_axis = t.outer, column_axis = t.outer + 1;

  for (int64_t index = range.begin; index < range.end; index++) {
    int64_t rest = index;
    const int64_t column = rest % t.column_blocks * t.block_columns;
    rest /= t.column_blocks;
    const int64_t row = rest % t.row_blocks * t.block_rows;
    rest /= t.row_blocks;
    const int64_t rows = least(t.block_rows, t.rows - row), columns = least(t.block_columns, t.columns - column);
    const int64_t count = rows * columns;
    int64_t coordinates[pointwise_max_axes];
    for (int axis = t.outer - 1; axis >= 0; axis--) {
      coordinates[axis] = rest % args.sizes[axis];
      rest /= args.sizes[axis];
    }
    coordinates[row_axis] = row;
    coordinates[column_axis] = column;

    void* output = nullptr;
    for (int i = 0; i <= args.inputs; i++) {
      const PointwiseOperand& operand = args.operands[i];
      int64_t offset = 0;
      for (int axis = 0; axis < args.axes; axis++) offset += coordinates[axis] * operand.strides[axis];
      if (i == args.inputs) {
        output = advance(args.slots[i], offset, operand.dtype);
        break;
      }
      const void* address = advance(static_cast<const void*>(args.slots[i]), offset, operand.dtype);
      const int64_t row_stride = operand.strides[row_axis], stride = operand.strides[column_axis];
      if (operand.dtype == DType::f32 && (stride == 1 || columns == 1) && (row_stride == columns || rows == 1)) {
        operands[i] = static_cast<const float*>(address);
        continue;
      }
      operands[i] = buffers[i];
      // Read-only operands that an in-place output could alias have the output's strides, hence a new address each block.
      if (filled[i].address == address && filled[i].rows == rows && filled[i].columns == columns) continue;
      filled[i] = {address, rows, columns};
      if (columns == 1) {
        load(buffers[i], address, operand.dtype, operand.affine, row_stride, rows);
      } else {
        for (int64_t r = 0; r < rows; r++)
          load(buffers[i] + r * columns, advance(address, r * row_stride, operand.dtype), operand.dtype, operand.affine, stride, columns);
      }
    }

    const PointwiseOperand& to = args.operands[args.inputs];
    const int64_t row_stride = to.strides[row_axis], stride = to.strides[column_axis];
    const bool run = (stride == 1 || columns == 1) && (row_stride == columns || rows == 1);
    const bool direct = run && to.dtype == DType::f32;
    const float* results = staged;
    for (int i = 0; i < args.instructions; i++) {
      const PointwiseInstruction& op = args.program[i];
      const bool last = i + 1 == args.instructions;
      float* result = !last ? buffers[op.result] : direct ? static_cast<float*>(output) : staged;
      const float* a = op.a < args.inputs ? operands[op.a] : buffers[op.a];
      const float* b = op.b < args.inputs ? operands[op.b] : buffers[op.b];
      if (last && !direct && op.kind == PointwiseKind::copy)
        results = a;
      else
        execute(op, result, a, b, count);
    }
    if (direct) continue;
    if (run) {
      store(output, results, to.dtype, to.affine, 1, count);
    } else if (columns == 1) {
      store(output, results, to.dtype, to.affine, row_stride, rows);
    } else {
      for (int64_t r = 0; r < rows; r++)
        store(advance(output, r * row_stride, to.dtype), results + r * columns, to.dtype, to.affine, stride, columns);
    }
  }
}

}  // namespace

void pointwise(const PointwiseArgs& args) {
  const Tiling t = tile(args);
  if (args.threads == 1) return run_blocks(args, t, {0, t.total});
#pragma omp parallel for num_threads(args.threads) schedule(static)
  for (int part = 0; part < args.threads; part++) run_blocks(args, t, share(t.total, part, args.threads));
}

}  // namespace drystone::DRYSTONE_ISA
