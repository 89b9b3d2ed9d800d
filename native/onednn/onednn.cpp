#include "onednn/onednn.h"

#include <stdexcept>

#include "core/isa.h"

namespace drystone {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::stream& stream() {
  static thread_local dnnl::stream own(engine());
  return own;
}

void cap_onednn_isa() {
  switch (isa()) {
    case Isa::none:
    case Isa::avx2: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2); break;
    case Isa::avx512: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_fp16); break;
    case Isa::amx: break;
  }
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

static memory::format_tag blocked_tag(int64_t rank, Format format) {
  using tag = memory::format_tag;
  const bool sixteen = format == Format::blocked16;
  switch (rank) {
    case 3: return sixteen ? tag::nCw16c : tag::nCw8c;
    case 4: return sixteen ? tag::nChw16c : tag::nChw8c;
    default: return sixteen ? tag::nCdhw16c : tag::nCdhw8c;
  }
}

memory::desc onednn_desc(const TensorDesc& desc) {
  const auto dtype = onednn_dtype(desc.dtype);
  if (desc.rank() == 0) return memory::desc({1}, dtype, memory::format_tag::a);
  const int64_t block = block_of(desc.format);
  if (block == 1) return memory::desc(desc.shape, dtype, desc.strides);
  const auto tag = blocked_tag(desc.rank(), desc.format);
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
  return text + std::to_string(desc_.get_size());
}

void PackedDesc::pack(const memory::desc& plain, const void* source, void* packed) const {
  memory from(plain, engine(), const_cast<void*>(source)), to(desc_, engine(), packed);
  dnnl::reorder(from, to).execute(stream(), from, to);
  stream().wait();
}

namespace {

// The memory handles of one primitive in one frame: only their addresses change from call to call.
struct Handles : StepState {
  std::vector<memory> memories;
  std::vector<dnnl_exec_arg_t> arguments;
};

}  // namespace

void OneDnnStep::finish(const dnnl::primitive& primitive, const dnnl::primitive_desc_base& desc, std::vector<Argument> arguments) {
  primitive_ = primitive;
  scratchpad_ = desc.scratchpad_desc();
  scratchpad_bytes = static_cast<int64_t>(scratchpad_.get_size());
  implementation = desc.impl_info_str();
  arguments_ = std::move(arguments);
}

std::unique_ptr<StepState> OneDnnStep::make_state() const {
  auto handles = std::make_unique<Handles>();
  for (const Argument& argument : arguments_) {
    handles->memories.emplace_back(argument.desc, engine(), nullptr);
    handles->arguments.push_back({argument.id, handles->memories.back().get()});
  }
  handles->memories.emplace_back(scratchpad_, engine(), nullptr);
  handles->arguments.push_back({DNNL_ARG_SCRATCHPAD, handles->memories.back().get()});
  return handles;
}

void OneDnnStep::run(const Run& run, StepState* state) const {
  auto& handles = *static_cast<Handles*>(state);
  for (size_t i = 0; i < arguments_.size(); i++) dnnl_memory_set_data_handle(handles.memories[i].get(), run.slots[i]);
  dnnl_memory_set_data_handle(handles.memories.back().get(), run.scratchpad);
  const auto status =
      dnnl_primitive_execute(primitive_.get(), stream().get(), static_cast<int>(handles.arguments.size()), handles.arguments.data());
  if (status != dnnl_success) throw std::runtime_error("oneDNN could not run " + implementation);
}

}  // namespace drystone
