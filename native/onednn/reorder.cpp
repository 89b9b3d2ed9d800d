#include "onednn/onednn.h"

namespace drystone {

Reorder::Reorder(const TensorDesc& source, const TensorDesc& destination) {
  const auto from = onednn_desc(source), to = onednn_desc(destination);
  const dnnl::reorder::primitive_desc desc(engine(), from, engine(), to, onednn_attributes({}));
  finish(dnnl::reorder(desc), desc, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

}  // namespace drystone
