#include "kernels/attention.h"

#include <omp.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "steps/axes.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

constexpr int64_t most_rows = 256, fewest_rows = 32;

// An operand as (batch, head, position, feature).
struct Heads {
  int64_t batch, heads, positions, size;
  int64_t strides[3];
};

Heads heads_of(const TensorDesc& desc, bool heads_first, const std::string& name) {
  check_operand(desc, name);
  if (desc.format != Format::plain || desc.rank() != 4)
    throw std::invalid_argument(name + " (" + desc.str() + ") is not plain of four axes");
  if (desc.shape[3] > 1 && desc.strides[3] != 1) throw std::invalid_argument(name + " (" + desc.str() + ") has gaps on its last axis");
  const int head = heads_first ? 1 : 2, position = 3 - head;
  return {
      desc.shape[0], desc.shape[head], desc.shape[position], desc.shape[3], {desc.strides[0], desc.strides[head], desc.strides[position]}};
}

class AttentionStep final : public Step {
 public:
  AttentionStep(const TensorDesc& query, const TensorDesc& key, const TensorDesc& value, const std::optional<TensorDesc>& mask,
                const TensorDesc& output, const HeadsFirst& heads_first, double scale, bool causal, bool nan_if_hidden)
      : kernel_(require_kernels().attention), threads_(std::max(omp_get_max_threads(), 1)) {
    const Heads q = heads_of(query, heads_first[0], "query"), k = heads_of(key, heads_first[1], "key");
    const Heads v = heads_of(value, heads_first[2], "value"), y = heads_of(output, heads_first[3], "output");
    for (const TensorDesc* other : {&key, &value, &output})
      if (other->dtype != query.dtype) throw std::invalid_argument("query, key, value and output differ in dtype");
    const bool fits = k.batch == q.batch && v.batch == q.batch && y.batch == q.batch && k.size == q.size && v.heads == k.heads &&
                      v.positions == k.positions && y.heads == q.heads && y.positions == q.positions && y.size == v.size;
    if (!fits || (k.heads == 0 ? q.heads != 0 : q.heads % k.heads != 0))
      throw std::invalid_argument("query (" + query.str() + "), key (" + key.str() + "), value (" + value.str() + ") and output (" +
                                  output.str() + ") do not fit together");
    if (q.size == 0) throw std::invalid_argument("an attention over no features");
    args_.dtype = query.dtype;
    args_.pairs = query.dtype == DType::bf16 && has(Feature::avx512_bf16);
    implementation = kernel_name("attention") + (args_.pairs ? "_bf16" : "");
    args_.batch = q.batch, args_.heads = q.heads, args_.key_heads = k.heads, args_.queries = q.positions, args_.keys = k.positions;
    args_.depth = q.size, args_.width = v.size;
    std::copy(q.strides, q.strides + 3, args_.query_strides);
    std::copy(k.strides, k.strides + 3, args_.key_strides);
    std::copy(v.strides, v.strides + 3, args_.value_strides);
    std::copy(y.strides, y.strides + 3, args_.output_strides);
    if (mask) set_mask(*mask);
    args_.scale = static_cast<float>(scale);
    args_.causal = causal;
    args_.hidden = nan_if_hidden ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    elements_ = output.numel();
    if (elements_ > 0) plan();
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    AttentionArgs args = args_;
    void* const* slot = run.slots;
    args.query = *slot++;
    args.key = *slot++;
    args.value = *slot++;
    if (has_mask_) args.mask = *slot++;
    args.output = *slot;
    args.scratch = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) / 64 * 64);
    args.threads = std::min(threads_for(elements_ * args.keys, run.threads), threads_);
    kernel_(args);
  }

 private:
  void set_mask(const TensorDesc& mask) {
    if (mask.dtype != DType::boolean) require_float(mask.dtype, "a mask that is not boolean");
    args_.mask_dtype = mask.dtype;
    has_mask_ = true;
    const Dims full = {args_.batch, args_.heads, args_.queries, args_.keys};
    if (mask.format != Format::plain || mask.rank() > 4)
      throw std::invalid_argument("a mask (" + mask.str() + ") that is not plain of up to four axes");
    for (int64_t i = 0; i < mask.rank(); i++) {
      const int64_t axis = 4 - mask.rank() + i;
      if (mask.strides[i] < 0 || (mask.shape[i] != 1 && mask.shape[i] != full[axis]))
        throw std::invalid_argument("the mask (" + mask.str() + ") does not broadcast to the scores");
      args_.mask_strides[axis] = mask.shape[i] == 1 ? 0 : mask.strides[i];
    }
  }

  // Long chunks pack the keys less often; each thread should have some.
  void plan() {
    const int64_t heads = args_.batch * args_.key_heads, rows = args_.heads / args_.key_heads * args_.queries;
    int64_t chunk = std::min(most_rows, (rows + 7) / 8 * 8);
    while (chunk >= 2 * fewest_rows && heads * ((rows + chunk - 1) / chunk) < 2 * threads_) chunk = (chunk / 2 + 7) / 8 * 8;
    args_.chunk = chunk;
    // As the kernel lays it out, for the widest vectors.
    constexpr int64_t vector = 16, panel = 32, tile = 8, bases = vector / tile, slack = 8 * 16;
    const int64_t width = (args_.width + panel - 1) / panel * panel;
    const int64_t depth = (args_.depth + 15) / 16 * 16;
    const int64_t floats = (chunk + tile) * (depth + width + vector + bases) + attention_keys * (args_.depth + width) + slack;
    args_.scratch_bytes = (floats * 4 + 63) / 64 * 64;
    scratchpad_bytes = threads_ * args_.scratch_bytes + 63;
  }

  void (*kernel_)(const AttentionArgs&);
  AttentionArgs args_{};
  bool has_mask_ = false;
  int threads_;  // that the scratchpad is made for
  int64_t elements_;
};

}  // namespace

std::shared_ptr<Step> make_attention(const TensorDesc& query, const TensorDesc& key, const TensorDesc& value,
                                     const std::optional<TensorDesc>& mask, const TensorDesc& output, const HeadsFirst& heads_first,
                                     double scale, bool causal, bool nan_if_hidden) {
  return std::make_shared<AttentionStep>(query, key, value, mask, output, heads_first, scale, causal, nan_if_hidden);
}

}  // namespace drystone
