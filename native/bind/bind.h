// One function a topic; module.cpp calls them all.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/post_op.h"
#include "core/tensor.h"

namespace drystone {

// `pack` of whatever packs weights, on addresses.
template <class Packing>
void pack(const Packing& packing, DType dtype, uintptr_t source, uintptr_t packed) {
  packing.pack(dtype, reinterpret_cast<const void*>(source), reinterpret_cast<void*>(packed));
}

// What Python asks of whatever packs weights.
template <class Class>
void bind_packing(Class& bound) {
  using Packing = typename Class::Type;
  bound.def_prop_ro("packed_bytes", &Packing::packed_bytes)
      .def_prop_ro("packed_key", &Packing::packed_key)
      .def("pack", &pack<Packing>, nanobind::arg("dtype"), nanobind::arg("source"), nanobind::arg("packed"));
}

using PostOpTuple = std::tuple<std::string, float, float, std::optional<TensorDesc>>;

inline std::vector<PostOp> post_ops_of(const std::vector<PostOpTuple>& tuples) {
  std::vector<PostOp> list;
  for (const auto& [kind, alpha, beta, operand] : tuples) list.push_back({kind, alpha, beta, operand});
  return list;
}

void bind_core(nanobind::module_& m);         // TensorDesc, Step, Program, Frame, isa
void bind_onednn(nanobind::module_& m);       // convolution, matmul, reorder
void bind_steps(nanobind::module_& m);        // steps/list.h, pointwise
void bind_winograd(nanobind::module_& m);     // winograd: convolution 3x3
void bind_depthwise(nanobind::module_& m);    // depthwise: convolution in groups of a channel or a few
void bind_gemm(nanobind::module_& m);         // gemm: linear layers
void bind_recurrent(nanobind::module_& m);    // recurrent: the hidden part of LSTM, GRU and RNN
void bind_cache_pages(nanobind::module_& m);  // memory of caches of keys and values
void bind_torch(nanobind::module_& m);        // operators under torch's own names, pages used again

}  // namespace drystone
