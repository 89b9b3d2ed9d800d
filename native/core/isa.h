// The instructions this process may use: what the CPU and the system offer, capped by DRYSTONE_MAX_ISA.
#pragma once

#include <cstdint>
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

// Words of CPUID, named by leaf and register, and the registers that the system saves.
struct Cpu {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf7_1_eax = 0, xcr0 = 0;
};

constexpr uint32_t mask_of(Feature feature) { return uint32_t{1} << static_cast<int>(feature); }
uint32_t features_of(const Cpu& cpu, Level cap);  // their masks together

// Of this process:
bool has(Feature feature);  // found once, at first use; asks the system for AMX's tile memory where it is needed
Level level();              // the lowest that holds all features in force
const char* name_of(Level level);
int64_t vector_lanes();               // float32 in a vector of the kernels in force
std::vector<std::string> features();  // the names of those in force

}  // namespace drystone
