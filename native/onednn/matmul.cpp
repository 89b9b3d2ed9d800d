#include "onednn/onednn.h"

namespace drystone {

Matmul::Matmul(const TensorDesc& a, const TensorDesc& b, const TensorDesc& output) {
  const auto [primitive, desc] = create<dnnl::matmul>(onednn_desc(a), onednn_desc(b), onednn_desc(output), onednn_attributes({}));
  finish({primitive, desc, {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}, {DNNL_ARG_DST, desc.dst_desc()}}});
}

}  // namespace drystone
