#include "kernels/table.h"

namespace drystone::DRYSTONE_ISA {

void pointwise(const PointwiseArgs&);
void reduce(const ReduceArgs&);
void softmax(const SoftmaxArgs&);
void norm(const NormArgs&);
void pool(const PoolArgs&);
void max_pool(const MaxPoolArgs&);
void resize(const ResizeArgs&);
void copy(const CopyArgs&);
void concatenate(const ConcatenateArgs&);
void lrn(const LrnArgs&);
void side_by_side(const SideBySideArgs&);
void winograd(const WinogradArgs&);
void winograd_weights(const WinogradWeights&);
void winograd_gradient(const WinogradGradientArgs&);
void gemm(const GemmArgs&);
bool guard(const GuardArgs&);
void attention(const AttentionArgs&);
void elementwise(const ElementwiseArgs&);
bool index(const IndexArgs&);
bool bags(const BagArgs&);
void scatter(const ScatterArgs&);
void fold(const FoldArgs&);
void rotary(const RotaryArgs&);
void topk(const TopkArgs&);
void recurrent(const RecurrentArgs&);
void thin_product(const ThinProductArgs&);

const KernelTable table = {
    .pointwise = pointwise,
    .reduce = reduce,
    .softmax = softmax,
    .norm = norm,
    .pool = pool,
    .max_pool = max_pool,
    .resize = resize,
    .copy = copy,
    .concatenate = concatenate,
    .lrn = lrn,
    .side_by_side = side_by_side,
    .winograd = winograd,
    .winograd_weights = winograd_weights,
    .winograd_gradient = winograd_gradient,
    .gemm = gemm,
    .guard = guard,
    .attention = attention,
    .elementwise = elementwise,
    .index = index,
    .bags = bags,
    .scatter = scatter,
    .fold = fold,
    .rotary = rotary,
    .topk = topk,
    .recurrent = recurrent,
    .thin_product = thin_product,
};

}  // namespace drystone::DRYSTONE_ISA
