// Which instruction sets this process may use: what the CPU and the system offer, capped by DRYSTONE_MAX_ISA.
#pragma once

namespace drystone {

enum class Isa { none, avx2, avx512, amx };  // each includes the ones before it; avx512 is F + BW + DQ + VL

Isa isa();               // read once, at first use; asks the system for AMX's tile memory where it is needed
bool has_avx512_bf16();  // VDPBF16PS and VCVTNEPS2BF16 at the cap in force
const char* name_of(Isa isa);

}  // namespace drystone
