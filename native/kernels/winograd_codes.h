// Winograd's convolution where x is codes.
#pragma once

#include "kernels/winograd.h"

namespace drystone::DRYSTONE_ISA {

void winograd_of_codes(const WinogradArgs& args);

}  // namespace drystone::DRYSTONE_ISA
