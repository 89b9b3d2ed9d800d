#include "kernels/cached_attention.h"

#include <omp.h>

#include <algorithm>
#include <array>

#include "core/cache_pages.h"
#include "core/errors.h"
#include "kernels/attention.h"
#include "steps/axes.h"
#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

static_assert(page_positions == attention_keys);

constexpr int64_t most_rows = 256;
constexpr int parts_a_thread = 4;  // so that threads that other work delays leave parts to the rest

void set_strides(int64_t* strides, const TensorDesc& desc, const std::string& name) {
  check_operand(desc, name);
  require(desc.format == Format::plain && desc.rank() == 4, name + " (" + desc.str() + ") is not plain of four axes");
  require(desc.shape[3] == 1 || desc.strides[3] == 1, name + " (" + desc.str() + ") has gaps on its last axis");
  std::copy(desc.strides.begin(), desc.strides.begin() + 3, strides);
}

int64_t pages_for(int64_t positions) { return (positions + page_positions - 1) / page_positions; }

class CachedAttentionStep final : public Step {
 public:
  CachedAttentionStep(const TensorDesc& query, const std::optional<TensorDesc>& key, const std::optional<TensorDesc>& value,
                      const std::optional<TensorDesc>& cosines, const std::optional<TensorDesc>& sines, const TensorDesc& pages,
                      const TensorDesc& lengths, const std::optional<TensorDesc>& sinks, const std::optional<TensorDesc>& bias,
                      const TensorDesc& output, int64_t layer, double scale, int64_t window, double softcap, bool by_distance, bool causal)
      : kernel_(require_kernels().cached_attention), threads_(std::max(omp_get_max_threads(), 1)) {
    implementation = kernel_name("cached_attention");
    set_strides(args_.query_strides, query, "query");
    set_strides(args_.output_strides, output, "output");
    std::swap(args_.output_strides[1], args_.output_strides[2]);  // (B, T, H, width)
    const Dims &q = query.shape, &y = output.shape;
    args_.batch = q[0], args_.heads = q[1], args_.queries = q[2], args_.depth = q[3], args_.width = y[3];
    require(query.numel() > 0 && output.numel() > 0, "an attention over no features");
    require(y == Dims({q[0], q[2], q[1], y[3]}), "the output (" + output.str() + ") does not fit the query (" + query.str() + ")");
    require(key.has_value() == value.has_value(), "keys come with values");
    writes_ = key.has_value();
    if (writes_) {
      set_strides(args_.key_strides, *key, "key");
      set_strides(args_.value_strides, *value, "value");
      args_.key_heads = key->shape[1];
      require(args_.key_heads > 0 && q[1] % args_.key_heads == 0 && key->shape == Dims({q[0], args_.key_heads, q[2], q[3]}) &&
                  value->shape == Dims({q[0], args_.key_heads, q[2], y[3]}),
              "query (" + query.str() + "), key (" + key->str() + ") and value (" + value->str() + ") do not fit together");
      require(key->dtype == query.dtype && value->dtype == query.dtype, "query, key and value differ in dtype");
    }
    require(output.dtype == query.dtype, "query and output differ in dtype");
    require(cosines.has_value() == sines.has_value(), "cosines come with sines");
    turns_ = cosines.has_value();
    if (turns_) {
      require(q[3] % 2 == 0, "a rotary embedding halves the last axis");
      args_.cosines_dtype = set_factors(args_.cosines_strides, *cosines, "cosines");
      args_.sines_dtype = set_factors(args_.sines_strides, *sines, "sines");
    }
    for (const TensorDesc* table : {&pages, &lengths}) {
      check_dense(*table);
      require(table->dtype == DType::s64, "the tables of a cache are s64");
    }
    require(pages.rank() == 3 && pages.shape[1] == q[0] && lengths.shape == Dims({q[0]}), "the tables of a cache have other rows");
    require(layer >= 0 && layer < pages.shape[0], "there is no layer " + std::to_string(layer) + " in " + pages.str());
    require(window >= 0 && softcap >= 0, "a negative window or softcap");
    if (sinks) {
      check_operand(*sinks, "sinks");
      check_dense(*sinks);
      require(sinks->shape == Dims({q[1]}), "there are other sinks than heads");
      args_.sinks_dtype = sinks->dtype;
    }
    has_sinks_ = sinks.has_value();
    if (bias) {
      check_operand(*bias, "bias");
      check_dense(*bias);
      require(bias->rank() == 2 && bias->shape[0] == q[1] && bias->numel() > 0, "the bias (" + bias->str() + ") has other rows than heads");
      require(bias->dtype == DType::f32, "a bias is float32");
      args_.bias_size = bias->shape[1];
    }
    has_bias_ = bias.has_value();
    args_.dtype = query.dtype;
    args_.capacity = pages.shape[2];
    first_page_ = layer * q[0] * args_.capacity;
    args_.scale = static_cast<float>(scale), args_.softcap = static_cast<float>(softcap);
    args_.window = window, args_.by_distance = by_distance, args_.causal = causal, args_.grows = writes_ || causal;
    plan();
  }

  void run(const Run& run, StepState*) const override {
    CachedAttentionArgs args = args_;
    void* const* slot = run.slots;
    args.query = *slot++;
    if (writes_) args.key = *slot++, args.value = *slot++;
    if (turns_) args.cosines = *slot++, args.sines = *slot++;
    args.pages = static_cast<const int64_t*>(*slot++) + first_page_;
    args.lengths = static_cast<const int64_t*>(*slot++);
    if (has_sinks_) args.sinks = *slot++;
    if (has_bias_) args.bias = static_cast<const float*>(*slot++);
    args.output = *slot;
    args.scratch = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(run.scratchpad) + 63) / 64 * 64);
    const int64_t positions = check_tables(args);
    // From memory a core reads as fast as it moves half as many elements.
    const int64_t elements = positions * args.key_heads * (args.depth + args.width);
    args.threads = std::min(threads_for(elements / 2 * args.queries, run.threads), threads_);
    args.parts = args.threads == 1 ? 1 : args.threads * parts_a_thread;
    kernel_(args);
  }

 private:
  DType set_factors(int64_t* strides, const TensorDesc& desc, const std::string& name) const {
    check_operand(desc, name);
    check_plain(desc);
    require(desc.rank() > 0 && desc.shape.back() == args_.depth && (args_.depth == 1 || desc.strides.back() == 1),
            name + " (" + desc.str() + ") have another last axis than the query");
    const Dims found = broadcast_strides(desc, {args_.batch, 1, args_.queries, args_.depth});
    strides[0] = found[0], strides[1] = found[2];
    return desc.dtype;
  }

  // Sets what only the pages tell. Returns how many positions are read.
  int64_t check_tables(CachedAttentionArgs& args) const {
    PageFinder finder;
    PageShape shape{args.dtype, args.key_heads ? args.key_heads : 1, args.depth, args.width};  // where there is no page
    const int64_t grown = args.grows ? args.queries : 0;
    bool found = false;
    int64_t positions = 0;
    for (int64_t b = 0; b < args.batch; b++) {
      const int64_t length = args.lengths[b];
      if (length < 0 || length > args.capacity * page_positions - grown)
        throw InputError("row " + std::to_string(b) + " of a cache has " + std::to_string(length) + " positions and " +
                         std::to_string(grown) + " new ones, beyond the " + std::to_string(args.capacity) + " pages of its table");
      const int64_t first_last = args.causal ? length : length + grown - 1;  // what the first query sees last
      int64_t begin = args.window ? std::max<int64_t>(0, first_last - args.window + 1) / page_positions : 0;
      if (writes_) begin = std::min(begin, length / page_positions);
      positions += length + grown - begin * page_positions;
      for (int64_t page = begin; page < pages_for(length + grown); page++) {
        const int64_t address = args.pages[b * args.capacity + page];
        const PageShape* own = finder.find(static_cast<uintptr_t>(address));
        if (!own) throw InputError(no_page(address));
        if (!found) check_shape(*own);
        if (found && !(*own == shape)) throw InputError("the pages of a cache differ in dtype or heads from each other");
        shape = *own, found = true;
      }
    }
    args.key_heads = shape.heads;
    args.page_dtype = shape.dtype;
    args.offsets = {shape.head_bytes(), shape.values(), shape.scales()};
    args.pairs = args.dtype == DType::bf16 && shape.dtype == DType::bf16 && has(Feature::avx512_bf16);
    return positions;
  }

  static std::string no_page(int64_t address) {
    const std::string what = address == 0 ? "a page that was not reserved (its address is 0)"
                                          : "the address " + std::to_string(address) + ", where no page begins";
    return "the table of a cache's pages leads to " + what + ": reserve the positions before a call, and keep the cache alive during it";
  }

  void check_shape(const PageShape& shape) const {
    if (args_.heads % shape.heads == 0 && (!writes_ || shape.heads == args_.key_heads) && shape.depth == args_.depth &&
        shape.width == args_.width)
      return;
    throw InputError("the cache is another model's: it has " + std::to_string(shape.heads) + " heads, of " + std::to_string(shape.depth) +
                     " features a key and " + std::to_string(shape.width) + " a value, and is read by " + std::to_string(args_.heads) +
                     " heads of " + std::to_string(args_.depth) + " and " + std::to_string(args_.width));
  }

  void plan() {
    // The heads that share keys are not known yet where none are written: at most all.
    const int64_t rows = args_.queries * (writes_ ? args_.heads / args_.key_heads : args_.heads);
    args_.chunk = std::min(most_rows, rows);
    // As the kernel lays it out, for the widest vectors.
    constexpr int64_t vector = 16, tile = 8, slack = 8 * 16;
    const int64_t depth = (args_.depth + 31) / 32 * 32, width = (args_.width + vector - 1) / vector * vector;
    const int64_t floats = page_positions * (args_.depth + args_.width) + (args_.chunk + tile) * (depth + width + 2 * vector) + slack;
    args_.scratch_bytes = (floats * 4 + 63) / 64 * 64;
    args_.partial_bytes = (args_.chunk * (width + 2) * 4 + 63) / 64 * 64;
    scratchpad_bytes = threads_ * (args_.scratch_bytes + (threads_ > 1 ? 2 * parts_a_thread * args_.partial_bytes : 0)) + 63;
  }

  void (*kernel_)(const CachedAttentionArgs&);
  CachedAttentionArgs args_{};
  bool writes_, turns_, has_sinks_, has_bias_;
  int64_t first_page_;
  int threads_;  // that the scratchpad is made for
};

}  // namespace

std::shared_ptr<Step> make_cached_attention(const TensorDesc& query, const std::optional<TensorDesc>& key,
                                            const std::optional<TensorDesc>& value, const std::optional<TensorDesc>& cosines,
                                            const std::optional<TensorDesc>& sines, const TensorDesc& pages, const TensorDesc& lengths,
                                            const std::optional<TensorDesc>& sinks, const std::optional<TensorDesc>& bias,
                                            const TensorDesc& output, int64_t layer, double scale, int64_t window, double softcap,
                                            bool by_distance, bool causal) {
  return std::make_shared<CachedAttentionStep>(query, key, value, cosines, sines, pages, lengths, sinks, bias, output, layer, scale, window,
                                               softcap, by_distance, causal);
}

}  // namespace drystone
