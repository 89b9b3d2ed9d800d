// The instructions this process may use: what the CPU and the system offer, capped by DRYSTONE_MAX_ISA.
#pragma once

#include <string>
#include <vector>

namespace drystone {

enum class Feature {
  avx2,      // with FMA and F16C
  avx_vnni,  // products of int8 in vectors of AVX2
  avx512,    // F, BW, DQ and VL
  avx512_vnni,
  avx512_bf16,  // VDPBF16PS and VCVTNEPS2BF16
  avx512_fp16,
  amx_bf16,  // with tiles
  amx_int8,
  count
};

// Caps of DRYSTONE_MAX_ISA. Each holds the features of the ones before it; isa.cpp says which are its own.
enum class Level { none, avx2, avx512, amx };

bool has(Feature feature);  // found once, at first use; asks the system for AMX's tile memory where it is needed
Level level();              // the lowest that holds all features in force
const char* name_of(Level level);
int64_t vector_lanes();               // float32 in a vector of the kernels in force
std::vector<std::string> features();  // the names of those in force

}  // namespace drystone
