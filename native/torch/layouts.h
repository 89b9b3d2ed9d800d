// Whether torch's structures are laid out as libtorch.h, and calls by mangled names, have them.
#pragma once

namespace drystone::torch {

// Reads known values back through them. Throws std::runtime_error, which names the first that differs. Dispatches nothing, so that
// modes that are on (of fake tensors, say) see nothing of it.
void check_layouts();

}  // namespace drystone::torch
