// What every oneDNN step shares: engine and stream, descriptors from ours, post-ops, and the memory handles of a frame.
#pragma once

#include <functional>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/forkable_mutex.h"
#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "steps/pointwise.h"

namespace drystone {

const dnnl::engine& engine();
dnnl::stream& stream();  // one a thread

// Caps oneDNN at our own ISA, and runs a first primitive: what oneDNN makes at that, a child forked meanwhile would wait for without end.
// Called once, before there are threads and forks.
void start_onednn();
std::string onednn_version();

dnnl::memory::data_type onednn_dtype(DType dtype);
dnnl::memory::desc onednn_desc(const TensorDesc& desc);

// A primitive and its description, from what oneDNN makes that of. One at a time: oneDNN hands a primitive that one thread makes to
// all who ask for it meanwhile, and a child forked meanwhile would wait for a thread that it does not have.
extern ForkableMutex creation;
template <class Kind, class... Arguments>
std::pair<Kind, typename Kind::primitive_desc> create(const Arguments&... arguments) {
  std::lock_guard lock(creation);
  const typename Kind::primitive_desc desc(engine(), arguments...);
  return {Kind(desc), desc};
}

// A primitive and its arguments, which are its step's first slots in order.
struct Primitive {
  struct Argument {
    int id;
    dnnl::memory::desc desc;
  };
  Primitive() = default;
  using Constants = std::vector<std::pair<int, dnnl::memory>>;
  Primitive(dnnl::primitive primitive, const dnnl::primitive_desc_base& desc, std::vector<Argument> arguments, Constants constants = {})
      : primitive(std::move(primitive)),
        scratchpad(desc.scratchpad_desc()),
        implementation(desc.impl_info_str()),
        arguments(std::move(arguments)),
        constants(std::move(constants)) {}

  dnnl::primitive primitive;
  dnnl::memory::desc scratchpad;
  std::string implementation;
  std::vector<Argument> arguments;
  Constants constants;  // further arguments, of its own: scales and zero points
};

// What a product of codes computes with: x of u8 or s8, weights of s8 with one scale an output channel. oneDNN takes scales and zero
// points as arguments of each call.
class Codes {
 public:
  // Throws std::invalid_argument where oneDNN's kernels are not exact. Without VNNI they add pairs of products in 16 bits, which is exact
  // for u8 and weights from -64 to 64 alone. Not of codes: what the constructor gets is checked, and all else does nothing.
  Codes(const TensorDesc& x, const TensorDesc& output, int64_t channels, const std::vector<float>& weight_scales, bool weights_fit_7_bits);
  explicit operator bool() const { return on_; }
  // Throws std::invalid_argument for weights that do not fit into 7 bits where these kernels need it.
  void check(const void* weights, int64_t count) const;
  DType weights(DType x) const { return on_ ? DType::s8 : x; }
  // weights_mask: of the axes that output channels are on.
  void add_to(dnnl::primitive_attr& attributes, int weights_mask) const;
  const Primitive::Constants& constants() const { return constants_; }
  // Weights of the same layout are packed as other bytes for x of another dtype, and for one that has a zero point.
  std::string packing() const { return packing_; }

 private:
  bool on_, needs_7_bits_ = false;
  std::string packing_;
  Primitive::Constants constants_;
};

// Attributes with these post-ops, on results that go to `output`, and a scratchpad of ours. Throws std::invalid_argument for a kind that
// oneDNN lacks.
dnnl::primitive_attr onednn_attributes(const std::vector<PostOp>& post_ops = {}, const TensorDesc& output = {});

// The operands of post-ops, as the last arguments of the primitive that has them. Those of codes have post-ops of oneDNN's around them.
void add_operands(const std::vector<PostOp>& post_ops, std::vector<Primitive::Argument>& arguments);

// Up to which |x| oneDNN's post-op gives for x what torch gives, whichever kernel has it: infinity where NaN and infinities are
// right as well, 0 where oneDNN has no such post-op.
float post_op_limit(const std::string& kind, float alpha);

// A memory layout that a primitive chose for its weights.
class PackedDesc {
 public:
  explicit PackedDesc(dnnl::memory::desc desc, std::string packing = "") : desc_(std::move(desc)), packing_(std::move(packing)) {}
  const dnnl::memory::desc& desc() const { return desc_; }
  int64_t bytes() const { return static_cast<int64_t>(desc_.get_size()); }
  std::string key() const;  // equal keys: the same bytes for the same weights
  // Reorders plain weights into this layout.
  void pack(const dnnl::memory::desc& plain, const void* source, void* packed) const;

 private:
  dnnl::memory::desc desc_;
  std::string packing_;
};

// A step around one primitive. Its slots are, in order, the arguments it was made with; the scratchpad comes from the run.
class OneDnnStep : public Step {
 public:
  std::unique_ptr<StepState> make_state() const override;
  void run(const Run& run, StepState* state) const override;

 protected:
  void finish(Primitive primitive);

 private:
  Primitive primitive_;
};

// A product and what an epilogue does to its results. Instructions that oneDNN has no post-op for, and all after the first such,
// go over the output in a second pass, by the pointwise kernel. A run that is exact does so from the first on that keeps NaN and
// infinity not as torch does; the primitive for it is made when it is first needed.
// Results that are stored as codes have no second pass: what it needs is refused, and no run is exact.
// Slots: x, weights, bias where there is one, output, operands.
class Product : public Step {
 public:
  std::unique_ptr<StepState> make_state() const override;
  void run(const Run& run, StepState* state) const override;
  bool has_exact_run() const { return exact_.post_ops < usual_.post_ops; }
  const PackedDesc& weights() const { return *weights_; }

 protected:
  // Makes the primitive with post-ops, for weights in a layout that is given (or oneDNN's choice).
  using Make = std::function<std::pair<Primitive, dnnl::memory::desc>(const std::vector<PostOp>&, const dnnl::memory::desc* weights)>;
  // Throws std::invalid_argument where oneDNN, or the second pass, does not serve it.
  void finish(Make make, const TensorDesc& output, bool has_bias, const std::vector<PostOp>& post_ops, const Codes& codes);
  // Weights in a plain layout.
  void pack_plain(const dnnl::memory::desc& plain, const void* source, void* packed) const;
  const Primitive& exact_primitive() const;

 private:
  // A way to run: the primitive has the first `post_ops`, `tail` is the rest.
  struct Way {
    size_t post_ops = 0;
    std::optional<Primitive> primitive;
    std::optional<PointwiseStep> tail;
    size_t operand = 0, operands = 0;  // of the tail: the first one's slot, and how many
  };
  void cut(Way& way, size_t post_ops, const TensorDesc& output) const;

  Make make_;
  std::vector<PostOp> post_ops_;
  std::optional<Codes> codes_;
  std::optional<PackedDesc> weights_;
  size_t output_slot_ = 0;
  Way usual_;
  mutable Way exact_;
};

// x (N, C, spatial…) * weights (O, C/groups, k…) + bias (O). Codes: see Codes; not transposed. Transposed: the gradient of a convolution of
// that stride, padding and dilation; padding is what its output lacks on each side, and on the right may be negative, but not by a whole
// stride.
class Convolution : public Product {
 public:
  Convolution(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
              const Dims& padding_r, const Dims& dilation, int64_t groups, const std::vector<PostOp>& post_ops, bool transposed,
              const std::vector<float>& weight_scales = {}, bool weights_fit_7_bits = false);
  // weights: dense (O, C/groups, k…) of the given dtype.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  Dims weights_shape_;
};

// x (M, K) * weights (N, K) transposed + bias (N) -> output (M, N), both dense, as a matmul or an inner product. Codes: see Codes.
class Linear : public Product {
 public:
  Linear(bool inner_product, const TensorDesc& x, int64_t n, bool has_bias, const TensorDesc& output, const std::vector<PostOp>& post_ops,
         const std::vector<float>& weight_scales = {}, bool weights_fit_7_bits = false);
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  bool inner_product_;
  int64_t k_, n_;
};

// a (…, M, K) * b (…, K, N), both computed: plain, of any strides that oneDNN takes, axes of 1 before the last two broadcast.
// Slots: a, b, output.
class Matmul : public OneDnnStep {
 public:
  Matmul(const TensorDesc& a, const TensorDesc& b, const TensorDesc& output);
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
