// What every oneDNN step shares: engine and stream, descriptors from ours, post-ops, and the memory handles of a frame.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

const dnnl::engine& engine();
dnnl::stream& stream();  // one a thread

// Caps oneDNN at our own ISA; called once, before the first primitive.
void cap_onednn_isa();
std::string onednn_version();

dnnl::memory::data_type onednn_dtype(DType dtype);
dnnl::memory::desc onednn_desc(const TensorDesc& desc);

// Attributes with these post-ops and a scratchpad of ours. Throws std::invalid_argument for a kind that oneDNN lacks.
dnnl::primitive_attr onednn_attributes(const std::vector<PostOp>& post_ops);

// A memory layout that a primitive chose for its weights.
class PackedDesc {
 public:
  explicit PackedDesc(dnnl::memory::desc desc) : desc_(std::move(desc)) {}
  const dnnl::memory::desc& desc() const { return desc_; }
  int64_t bytes() const { return static_cast<int64_t>(desc_.get_size()); }
  std::string key() const;  // equal keys: the same bytes for the same weights
  // Reorders plain weights into this layout.
  void pack(const dnnl::memory::desc& plain, const void* source, void* packed) const;

 private:
  dnnl::memory::desc desc_;
};

// A step around one primitive. Its slots are, in order, the arguments it was made with; the scratchpad comes from the run.
class OneDnnStep : public Step {
 public:
  std::unique_ptr<StepState> make_state() const override;
  void run(const Run& run, StepState* state) const override;

 protected:
  struct Argument {
    int id;
    dnnl::memory::desc desc;
  };
  void finish(const dnnl::primitive& primitive, const dnnl::primitive_desc_base& desc, std::vector<Argument> arguments);

 private:
  dnnl::primitive primitive_;
  dnnl::memory::desc scratchpad_;
  std::vector<Argument> arguments_;
};

// x (N, C, spatial…) * weights (O, C/groups, k…) + bias (O). Transposed: the gradient of a convolution of that stride, padding and
// dilation; padding is what its output lacks on each side, and on the right may be negative, but not by a whole stride.
// Slots: x, weights, bias where there is one, output, operands.
class Convolution : public OneDnnStep {
 public:
  Convolution(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
              const Dims& padding_r, const Dims& dilation, int64_t groups, const std::vector<PostOp>& post_ops, bool transposed);
  const PackedDesc& weights() const { return *weights_; }
  // weights: dense (O, C/groups, k…) of the given dtype.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  Dims weights_shape_;
  std::optional<PackedDesc> weights_;
};

// x (M, K) * weights (N, K) transposed + bias (N), as a matmul or an inner product. Slots: as Convolution's.
class Linear : public OneDnnStep {
 public:
  Linear(bool inner_product, DType dtype, int64_t m, int64_t k, int64_t n, bool has_bias, DType output_dtype,
         const std::vector<PostOp>& post_ops);
  const PackedDesc& weights() const { return *weights_; }
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  bool inner_product_;
  int64_t k_, n_;
  std::optional<PackedDesc> weights_;
};

// a (…, M, K) * b (…, K, N), both computed: plain, of any strides that oneDNN takes, axes of 1 before the last two broadcast.
// Slots: a, b, output.
class BatchMatmul : public OneDnnStep {
 public:
  BatchMatmul(const TensorDesc& a, const TensorDesc& b, const TensorDesc& output);
};

// The gradient of the weights (O, C, k…) of the convolution that makes (N, O, spatial…) of x (N, C, spatial…). oneDNN chooses how all
// three lie. Slots: x, the gradient of the output, that of the weights.
class ConvolutionWeightGradient : public OneDnnStep {
 public:
  ConvolutionWeightGradient(const Dims& x, const Dims& weights, const Dims& output, const Dims& stride, const Dims& padding_l,
                            const Dims& padding_r, const Dims& dilation);
  const dnnl::memory::desc& x() const { return x_; }
  const dnnl::memory::desc& output() const { return output_; }
  const dnnl::memory::desc& weights() const { return weights_; }

 private:
  dnnl::memory::desc x_, output_, weights_;
};

// The same tensor in another format or dtype. Slots: source, destination.
class Reorder : public OneDnnStep {
 public:
  Reorder(const TensorDesc& source, const TensorDesc& destination);
  Reorder(const dnnl::memory::desc& source, const dnnl::memory::desc& destination);
};

}  // namespace drystone
