// The kernels of one ISA, as function pointers. Each .cpp here is compiled once per ISA with that ISA's flags, inside
// namespace drystone::DRYSTONE_ISA, and table.cpp fills the struct; kernels() picks the one for this machine.
//
// Two rules keep instructions of one ISA out of code that runs on another: a kernel source includes no header with inline
// functions that other sources share (no <vector>, <algorithm>, <string>), and all it defines lies in its own namespace.
#pragma once

namespace drystone {

struct PointwiseArgs;
struct PoolArgs;
struct MaxPoolArgs;
struct ResizeArgs;
struct CopyArgs;
struct ConcatenateArgs;
struct LrnArgs;
struct ReduceArgs;
struct SoftmaxArgs;
struct NormArgs;
struct SideBySideArgs;
struct WinogradArgs;
struct WinogradWeights;
struct WinogradGradientArgs;
struct GemmArgs;
struct GuardArgs;
struct AttentionArgs;
struct ElementwiseArgs;
struct IndexArgs;
struct BagArgs;
struct ScatterArgs;
struct FoldArgs;
struct RotaryArgs;
struct TopkArgs;
struct RecurrentArgs;
struct ThinProductArgs;

struct KernelTable {
  void (*pointwise)(const PointwiseArgs&);
  void (*reduce)(const ReduceArgs&);
  void (*softmax)(const SoftmaxArgs&);
  void (*norm)(const NormArgs&);
  void (*pool)(const PoolArgs&);
  void (*max_pool)(const MaxPoolArgs&);
  void (*resize)(const ResizeArgs&);
  void (*copy)(const CopyArgs&);
  void (*concatenate)(const ConcatenateArgs&);
  void (*lrn)(const LrnArgs&);
  void (*side_by_side)(const SideBySideArgs&);
  void (*winograd)(const WinogradArgs&);
  void (*winograd_weights)(const WinogradWeights&);
  void (*winograd_gradient)(const WinogradGradientArgs&);
  void (*gemm)(const GemmArgs&);
  bool (*guard)(const GuardArgs&);
  void (*attention)(const AttentionArgs&);
  void (*elementwise)(const ElementwiseArgs&);
  bool (*index)(const IndexArgs&);
  bool (*bags)(const BagArgs&);
  void (*scatter)(const ScatterArgs&);
  void (*fold)(const FoldArgs&);
  void (*rotary)(const RotaryArgs&);
  void (*topk)(const TopkArgs&);
  void (*recurrent)(const RecurrentArgs&);
  void (*thin_product)(const ThinProductArgs&);
};

// Null where the machine has no ISA that drystone serves.
const KernelTable* kernels();

namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}

}  // namespace drystone
