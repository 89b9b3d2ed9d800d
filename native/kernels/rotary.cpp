// Rotary position embedding: x * cos + rotated * sin, where `rotated` is x with its last axis in halves, the second one negated
// and first. Of f32 or bf16, in float32.
//
// Row by row, so that x is read once, wherever its rows lie, where the spelling of a model reads and writes it four times.
#include "kernels/rotary.h"

#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t width = 256;  // elements of a half at a time

// `count` elements from element `offset` of an operand on, as float32.
const float* read(float* buffer, const RotaryArgs& args, int operand, int64_t offset, int64_t count) {
  const void* from = advance(args.inputs[operand], offset, args.dtypes[operand]);
  if (args.dtypes[operand] == DType::f32) return static_cast<const float*>(from);
  load(buffer, from, DType::bf16, 1, count);
  return buffer;
}

void row(const RotaryArgs& args, const int64_t* offsets) {
  alignas(64) float x_buffers[2][width], cosines[2][width], sines[2][width], results[2][width];
  for (int64_t begin = 0; begin < args.half; begin += width) {
    const int64_t count = least(width, args.half - begin);
    const float *x[2], *c[2], *s[2];
    for (int part = 0; part < 2; part++) {
      const int64_t at = begin + part * args.half;
      x[part] = read(x_buffers[part], args, 0, offsets[0] + at, count);
      c[part] = read(cosines[part], args, 1, offsets[1] + at, count);
      s[part] = read(sines[part], args, 2, offsets[2] + at, count);
    }
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      results[0][i] = x[0][i] * c[0][i] - x[1][i] * s[0][i];
      results[1][i] = x[1][i] * c[1][i] + x[0][i] * s[1][i];
    }
    for (int part = 0; part < 2; part++)
      store(advance(args.output, offsets[3] + begin + part * args.half, args.dtypes[3]), results[part], args.dtypes[3], 1, count);
  }
}

}  // namespace

void rotary(const RotaryArgs& args) {
  int64_t rows = 1;
  for (int i = 0; i < args.axes; i++) rows *= args.sizes[i];
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < rows; item++) {
    int64_t offsets[4] = {}, rest = item;
    for (int i = args.axes - 1; i >= 0; i--) {
      const int64_t place = rest % args.sizes[i];
      rest /= args.sizes[i];
      for (int operand = 0; operand < 4; operand++) offsets[operand] += place * args.strides[operand][i];
    }
    row(args, offsets);
  }
}

}  // namespace drystone::DRYSTONE_ISA
