#include "onednn/onednn.h"

namespace drystone {

Matmul::Matmul(const TensorDesc& a, const TensorDesc& b, const TensorDesc& output) {
  const dnnl::matmul::primitive_desc desc(engine(), onednn_desc(a), onednn_desc(b), onednn_desc(output), onednn_attributes({}));
  finish({dnnl::matmul(desc),
          desc,
          {{DNNL_ARG_SRC, desc.src_desc()}, {DNNL_ARG_WEIGHTS, desc.weights_desc()}, {DNNL_ARG_DST, desc.dst_desc()}}});
}

}  // namespace drystone
