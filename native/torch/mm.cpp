// mm of a few rows with a matrix in float32, which costs little more than reading the matrix: torch's BLAS does so on one core for one
// row, and at half the speed for more. A linear layer without bias comes here; one with bias is addmm, whose scalars the C shim can't
// pass, and stays torch's.
#include "kernels/skinny_gemm.h"
#include "kernels/table.h"
#include "torch/operators.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

Tensor (*torch_mm)(const Tensor& self, const Tensor& mat2);

bool find_torch() { return find(torch_mm, "_ZN2at3cpu2mmERKNS_6TensorES3_"); }

// For any number of rows.
bool is_small(const Handle& weights) {
  const int64_t elements = weights.numel();
  return elements < threshold(Threshold::mm_elements) && elements < threshold(Threshold::mm_elements_of_one_row);
}

// An empty handle where torch's kernel serves better, or is to say what is wrong.
Handle product(const Handle& x, const Handle& weights) {
  if (x.rank() != 2 || weights.rank() != 2 || !kernels()) return Handle();
  const int64_t *sizes = x.sizes().data, *strides = x.strides().data;
  const int64_t *matrix = weights.sizes().data, *matrix_strides = weights.strides().data;
  SkinnyGemmArgs args{};
  args.rows = sizes[0], args.depth = sizes[1], args.columns = matrix[1];
  if (args.rows < 1 || args.rows > skinny_gemm_rows || args.depth != matrix[0]) return Handle();
  const auto least = args.rows == 1 ? Threshold::mm_elements_of_one_row : Threshold::mm_elements;
  if (weights.numel() < threshold(least)) return Handle();
  if (x.dtype() != ScalarType::f32 || weights.dtype() != ScalarType::f32) return Handle();
  args.x_stride = args.rows > 1 ? strides[0] : args.depth;
  if (strides[1] != 1 || args.x_stride < args.depth) return Handle();
  args.transposed = matrix_strides[0] == 1 && matrix_strides[1] >= args.depth;
  args.weights_stride = matrix_strides[args.transposed ? 1 : 0];
  if (args.transposed ? args.depth < threshold(Threshold::mm_transposed_depth)
                      : matrix_strides[1] != 1 || args.weights_stride < args.columns)
    return Handle();
  args.threads = shim().threads();
  args.x = static_cast<const float*>(x.data());
  args.weights = static_cast<const float*>(weights.data());
  Handle result = Handle::empty(ScalarType::f32, {args.rows, args.columns});
  args.y = static_cast<float*>(result.data());
  kernels()->skinny_gemm(args);
  return result;
}

void kernel(Arguments& arguments) {
  const Handle x = arguments.tensor(), weights = arguments.tensor();
  arguments.answer([&] { return product(x, weights); }, [&] { return torch_mm(*x, *weights); });
}

const Entry<kernel, &torch_mm, [](const Tensor&, const Tensor& weights) { return is_small(Handle::borrowed(weights)); }> mm{
    "mm", "mm", "(Tensor self, Tensor mat2) -> Tensor", find_torch};

}  // namespace

}  // namespace drystone::torch
