#include "onednn/onednn.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "core/isa.h"
#include "core/memory.h"

namespace drystone {

using dnnl::memory;

constexpr float infinity = std::numeric_limits<float>::infinity();

ForkableMutex creation;
static ForkableMutex exact_primitives;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::stream& stream() {
  static thread_local dnnl::stream own(engine());
  return own;
}

static void cap_isa() {
  switch (level()) {
    case Level::none:
    case Level::avx2: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2_vnni); break;
    case Level::avx512: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_fp16); break;
    case Level::amx: break;
  }
}

void start_onednn() {
  cap_isa();
  const memory::desc one({1}, memory::data_type::f32, memory::format_tag::a);
  float from = 0, to;
  PackedDesc(one).pack(one, &from, &to);
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

memory::data_type onednn_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return memory::data_type::f32;
    case DType::bf16: return memory::data_type::bf16;
    case DType::f16: return memory::data_type::f16;
    case DType::s32: return memory::data_type::s32;
    case DType::s8: return memory::data_type::s8;
    case DType::u8: return memory::data_type::u8;
    default: throw std::invalid_argument(std::string("oneDNN has no dtype ") + name_of(dtype));
  }
}

static memory::format_tag blocked_tag(int64_t rank, int64_t block) {
  using tag = memory::format_tag;
  const auto of_rank = [&](tag one, tag two, tag three) { return rank == 3 ? one : rank == 4 ? two : three; };
  switch (block) {
    case 8: return of_rank(tag::nCw8c, tag::nChw8c, tag::nCdhw8c);
    case 16: return of_rank(tag::nCw16c, tag::nChw16c, tag::nCdhw16c);
    default: throw std::invalid_argument("oneDNN has no blocks of " + std::to_string(block) + " channels");
  }
}

memory::desc onednn_desc(const TensorDesc& desc) {
  const auto dtype = onednn_dtype(desc.dtype);
  if (desc.rank() == 0) return memory::desc({1}, dtype, memory::format_tag::a);
  const int64_t block = desc.format.block;
  if (block == 1) return memory::desc(desc.shape, dtype, desc.strides);
  const auto tag = blocked_tag(desc.rank(), block);
  const TensorDesc dense = TensorDesc::dense(desc.dtype, desc.format, desc.shape);
  Dims strides = desc.strides;
  if (desc.shape[0] == 1) strides[0] = dense.strides[0];
  if (strides == dense.strides) return memory::desc(desc.shape, dtype, tag);
  // A slice of the channels of a wider tensor: only the images lie further apart.
  strides[0] = dense.strides[0];
  if (strides != dense.strides || desc.has_padding()) throw std::invalid_argument("blocked memory of this shape and strides is not served");
  Dims parent = desc.shape;
  parent[1] = desc.shape[1] * desc.strides[0] / dense.strides[0];
  if (parent[1] * dense.strides[0] != desc.shape[1] * desc.strides[0]) throw std::invalid_argument("uneven stride between blocked images");
  return memory::desc(parent, dtype, tag).submemory_desc(desc.shape, Dims(desc.shape.size(), 0));
}

std::string PackedDesc::key() const {
  std::string text;
  const auto list = [&](const memory::dims& dims) {
    for (auto d : dims) text += std::to_string(d) + ",";
    text += ";";
  };
  text += std::to_string(static_cast<int>(desc_.get_data_type())) + ";";
  list(desc_.get_dims());
  list(desc_.get_padded_dims());
  list(desc_.get_strides());
  list(desc_.get_inner_blks());
  list(desc_.get_inner_idxs());
  return text + std::to_string(desc_.get_size()) + packing_;
}

void PackedDesc::pack(const memory::desc& plain, const void* source, void* packed) const {
  memory from(plain, engine(), const_cast<void*>(source)), to(desc_, engine(), packed);
  create<dnnl::reorder>(plain, engine(), desc_, dnnl::primitive_attr()).first.execute(stream(), from, to);
  stream().wait();
}

namespace {

// The memory handles of one primitive in one frame: only their addresses change from call to call.
struct Handles : StepState {
  explicit Handles(const Primitive& primitive) {
    for (const Primitive::Argument& argument : primitive.arguments) add(argument.id, argument.desc);
    for (const auto& [id, constant] : primitive.constants) arguments.push_back({id, constant.get()});
    add(DNNL_ARG_SCRATCHPAD, primitive.scratchpad);
  }
  void add(int id, const memory::desc& desc) {
    memories.emplace_back(desc, engine(), nullptr);
    arguments.push_back({id, memories.back().get()});
  }
  std::vector<memory> memories;
  std::vector<dnnl_exec_arg_t> arguments;
};

void execute(const Primitive& primitive, Handles& handles, void* const* slots, void* scratchpad) {
  for (size_t i = 0; i < primitive.arguments.size(); i++) dnnl_memory_set_data_handle(handles.memories[i].get(), slots[i]);
  dnnl_memory_set_data_handle(handles.memories.back().get(), scratchpad);
  const auto status = dnnl_primitive_execute(primitive.primitive.get(), stream().get(), static_cast<int>(handles.arguments.size()),
                                             handles.arguments.data());
  if (status != dnnl_success) throw std::runtime_error("oneDNN could not run " + primitive.implementation);
}

struct ProductState : StepState {
  explicit ProductState(const Primitive& primitive) : usual(primitive) {}
  Handles usual;
  std::optional<Handles> exact;
};

size_t count_operands(const std::vector<PostOp>& post_ops, size_t begin, size_t end) {
  size_t count = 0;
  for (size_t i = begin; i < end; i++) count += post_ops[i].operand.has_value();
  return count;
}

}  // namespace

void OneDnnStep::finish(Primitive primitive) {
  primitive_ = std::move(primitive);
  scratchpad_bytes = static_cast<int64_t>(primitive_.scratchpad.get_size());
  implementation = primitive_.implementation;
}

std::unique_ptr<StepState> OneDnnStep::make_state() const { return std::make_unique<Handles>(primitive_); }

void OneDnnStep::run(const Run& run, StepState* state) const {
  execute(primitive_, *static_cast<Handles*>(state), run.slots, run.scratchpad);
}

void Product::finish(Make make, const TensorDesc& output, bool has_bias, const std::vector<PostOp>& post_ops, const Codes& codes) {
  make_ = std::move(make);
  post_ops_ = post_ops;
  output_slot_ = has_bias ? 3 : 2;
  const auto limit = [](const PostOp& op) { return op.kind == "sum" ? infinity : post_op_limit(op.kind, op.alpha); };
  const auto fused = std::find_if(post_ops.begin(), post_ops.end(), [&](const PostOp& op) { return limit(op) == 0; });
  const auto kept = std::find_if(post_ops.begin(), fused, [&](const PostOp& op) { return limit(op) < infinity; });
  if (std::any_of(kept, post_ops.end(), [](const PostOp& op) { return op.kind == "sum"; }))
    throw std::invalid_argument("what the output's memory holds can be added only before what a second pass may have to compute");
  const bool rounds = is_code(output.dtype);
  if (rounds && fused != post_ops.end()) throw std::invalid_argument("results that become codes take no second pass, by " + fused->kind);
  cut(usual_, fused - post_ops.begin(), output);
  cut(exact_, rounds ? post_ops.size() : kept - post_ops.begin(), output);
  auto [primitive, weights] = make_({post_ops.begin(), fused}, nullptr);
  if (codes && primitive.implementation.find("ref") != std::string::npos)
    throw std::invalid_argument("oneDNN has only its reference implementation for these codes");
  weights_.emplace(weights, codes.packing());
  codes_ = codes;
  implementation = primitive.implementation;
  scratchpad_bytes = static_cast<int64_t>(primitive.scratchpad.get_size());
  usual_.primitive = std::move(primitive);
}

void Product::pack_plain(const memory::desc& plain, const void* source, void* packed) const {
  codes_->check(source, static_cast<int64_t>(plain.get_size()));
  weights().pack(plain, source, packed);
}

void Product::cut(Way& way, size_t post_ops, const TensorDesc& output) const {
  way.post_ops = post_ops;
  way.operand = output_slot_ + 1 + count_operands(post_ops_, 0, post_ops);
  way.operands = count_operands(post_ops_, post_ops, post_ops_.size());
  if (post_ops == post_ops_.size()) return;
  std::vector<TensorDesc> inputs = {output};
  std::vector<PointwiseOp> ops;
  for (size_t i = post_ops; i < post_ops_.size(); i++) {
    const PostOp& op = post_ops_[i];
    std::pair<std::string, int> running = {"in", 0};
    if (!ops.empty()) running = {"reg", static_cast<int>(ops.size()) - 1};
    ops.push_back({op.kind, {running}, op.alpha, op.beta});
    if (!op.operand) continue;
    ops.back().operands.push_back({"in", static_cast<int>(inputs.size())});
    inputs.push_back(*op.operand);
  }
  way.tail.emplace(inputs, output, ops);
}

std::unique_ptr<StepState> Product::make_state() const { return std::make_unique<ProductState>(*usual_.primitive); }

const Primitive& Product::exact_primitive() const {
  std::optional<Primitive>& made = exact_.primitive;
  {
    std::lock_guard lock(exact_primitives);
    if (made) return *made;
  }
  const std::vector<PostOp> kept(post_ops_.begin(), post_ops_.begin() + static_cast<std::ptrdiff_t>(exact_.post_ops));
  Primitive primitive = make_(kept, &weights_->desc()).first;
  std::lock_guard lock(exact_primitives);
  if (!made) made = std::move(primitive);
  return *made;
}

void Product::run(const Run& run, StepState* state) const {
  auto& own = *static_cast<ProductState*>(state);
  const bool exact = run.exact && has_exact_run();
  if (!exact) {
    execute(*usual_.primitive, own.usual, run.slots, run.scratchpad);
  } else {
    const Primitive& primitive = exact_primitive();
    if (!own.exact) own.exact.emplace(primitive);
    // Seldom: not worth a place in every frame.
    const Memory scratchpad(static_cast<int64_t>(primitive.scratchpad.get_size()) + 64);
    execute(primitive, *own.exact, run.slots, scratchpad.data());
  }
  const Way& way = exact ? exact_ : usual_;
  if (!way.tail) return;
  std::vector<void*> slots = {run.slots[output_slot_]};
  slots.insert(slots.end(), run.slots + way.operand, run.slots + way.operand + way.operands);
  slots.push_back(run.slots[output_slot_]);
  way.tail->run({slots.data(), run.scratchpad, run.threads}, nullptr);
}

}  // namespace drystone
