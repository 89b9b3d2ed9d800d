#include "onednn/onednn.h"

namespace drystone {

Reorder::Reorder(const TensorDesc& source, const TensorDesc& destination) : Reorder(onednn_desc(source), onednn_desc(destination)) {}

Reorder::Reorder(const dnnl::memory::desc& source, const dnnl::memory::desc& destination) {
  const auto [primitive, desc] = create<dnnl::reorder>(source, engine(), destination, onednn_attributes({}));
  finish({primitive, desc, {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, destination}}});
}

}  // namespace drystone
