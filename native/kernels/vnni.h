// VPDPBUSD of AVX-512 VNNI or AVX-VNNI: each int32 sum plus the products of four u8 by four s8.
//
// DRYSTONE_FROM_HERE_ON_VNNI stands between what a source shares with others and the templates that it makes for VNNI: what comes before
// it stays as every CPU of the ISA runs it. Steps ask for such kernels where the CPU has the instructions.
#pragma once

#include <immintrin.h>

#include "kernels/vectors.h"

#ifdef __AVX512F__
#define DRYSTONE_VNNI "avx512vnni"
#define DRYSTONE_FROM_HERE_ON_VNNI _Pragma("GCC target(\"avx512vnni\")")
#else
#define DRYSTONE_VNNI "avxvnni"
#define DRYSTONE_FROM_HERE_ON_VNNI _Pragma("GCC target(\"avxvnni\")")
#endif

namespace drystone::DRYSTONE_ISA {

__attribute__((target(DRYSTONE_VNNI), always_inline)) inline Vector<int32_t, kFloats> add_fours(Vector<int32_t, kFloats> sum,
                                                                                                Vector<int32_t, kFloats> u8,
                                                                                                Vector<int32_t, kFloats> s8) {
#ifdef __AVX512F__
  return (Vector<int32_t, kFloats>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)u8, (__m512i)s8);
#else
  return (Vector<int32_t, kFloats>)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)u8, (__m256i)s8);
#endif
}

}  // namespace drystone::DRYSTONE_ISA
