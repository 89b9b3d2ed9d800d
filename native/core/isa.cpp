#include "core/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace drystone {

const char* name_of(Isa isa) {
  static const char* names[] = {"none", "avx2", "avx512", "amx"};
  return names[static_cast<int>(isa)];
}

#ifdef DRYSTONE_EMULATE_AMX
static bool has_amx() { return true; }  // by kernels/amx_emulated.h
#else
// Linux hands out the 8 KB of tile memory only to processes that ask.
static bool ask_for_tiles() {
  constexpr long arch_req_xcomp_perm = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
}

static bool has_amx_bits() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  return (d & amx_bf16) && (d & amx_tile);
}

static bool has_amx() { return has_amx_bits() && ask_for_tiles(); }
#endif

static Isa cap() {
  const char* text = std::getenv("DRYSTONE_MAX_ISA");
  if (!text || !*text) return Isa::amx;
  const std::string name = text;
  for (Isa isa : {Isa::none, Isa::avx2, Isa::avx512, Isa::amx})
    if (name == name_of(isa)) return isa;
  throw std::invalid_argument("DRYSTONE_MAX_ISA is '" + name + "'; it takes none, avx2, avx512 or amx");
}

static Isa detect() {
  const Isa most = cap();
  if (most == Isa::none || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::none;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (most == Isa::avx2 || !avx512) return Isa::avx2;
  if (most == Isa::avx512 || !has_amx()) return Isa::avx512;
  return Isa::amx;
}

Isa isa() {
  static const Isa found = detect();
  return found;
}

bool has_avx512_bf16() {
  static const bool has = [] {  // in a virtual machine each question takes microseconds
    unsigned a, b, c, d;
    return isa() >= Isa::avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
  }();
  return has;
}

}  // namespace drystone
