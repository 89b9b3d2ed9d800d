#include "core/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>
#include <stdexcept>

namespace drystone {

namespace {

constexpr uint32_t bit(int index) { return uint32_t{1} << index; }

bool covers(const Cpu& cpu, const Cpu& needs) {
  return !(needs.leaf1_ecx & ~cpu.leaf1_ecx) && !(needs.leaf7_ebx & ~cpu.leaf7_ebx) && !(needs.leaf7_ecx & ~cpu.leaf7_ecx) &&
         !(needs.leaf7_edx & ~cpu.leaf7_edx) && !(needs.leaf7_1_eax & ~cpu.leaf7_1_eax) && !(needs.xcr0 & ~cpu.xcr0);
}

constexpr uint32_t fma = bit(12), os_saves = bit(27), f16c = bit(29);                                  // leaf 1, ECX
constexpr uint32_t avx2 = bit(5), avx512f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31);         // leaf 7, EBX
constexpr uint32_t amx_bf16 = bit(22), avx512_fp16 = bit(23), amx_tile = bit(24), amx_int8 = bit(25);  // leaf 7, EDX
constexpr uint32_t ymm = bit(1) | bit(2), zmm = bit(5) | bit(6) | bit(7), tiles = bit(17) | bit(18);   // XCR0

struct Row {
  Feature feature;
  const char* name;
  Level level;   // the lowest that holds it
  Feature base;  // what it cannot do without; the first one's is itself
  Cpu needs;     // all bits of these
};

constexpr Row rows[] = {
    {Feature::avx2, "avx2", Level::avx2, Feature::avx2, {.leaf1_ecx = fma | f16c, .leaf7_ebx = avx2, .xcr0 = ymm}},
    {Feature::avx_vnni, "avx_vnni", Level::avx2, Feature::avx2, {.leaf7_1_eax = bit(4)}},
    {Feature::avx512, "avx512", Level::avx512, Feature::avx2, {.leaf7_ebx = avx512f | dq | bw | vl, .xcr0 = zmm}},
    {Feature::avx512_vnni, "avx512_vnni", Level::avx512, Feature::avx512, {.leaf7_ecx = bit(11)}},
    {Feature::avx512_bf16, "avx512_bf16", Level::avx512, Feature::avx512, {.leaf7_1_eax = bit(5)}},
    {Feature::avx512_fp16, "avx512_fp16", Level::avx512, Feature::avx512, {.leaf7_edx = avx512_fp16}},
    {Feature::amx_bf16, "amx_bf16", Level::amx, Feature::avx512, {.leaf7_edx = amx_bf16 | amx_tile, .xcr0 = tiles}},
    {Feature::amx_int8, "amx_int8", Level::amx, Feature::avx512, {.leaf7_edx = amx_int8 | amx_tile, .xcr0 = tiles}},
};

constexpr bool rows_are_in_order() {
  for (size_t i = 0; i < std::size(rows); i++)
    if (static_cast<size_t>(rows[i].feature) != i) return false;
  return std::size(rows) == static_cast<size_t>(Feature::count);
}
static_assert(rows_are_in_order(), "each feature has its row");

constexpr const char* level_names[] = {"none", "avx2", "avx512", "amx"};

uint32_t read_xcr0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Cpu read_cpu() {
  Cpu cpu;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &cpu.leaf1_ecx, &d)) return cpu;
  if (cpu.leaf1_ecx & os_saves) cpu.xcr0 = read_xcr0();
  if (!__get_cpuid_count(7, 0, &a, &cpu.leaf7_ebx, &cpu.leaf7_ecx, &cpu.leaf7_edx)) return cpu;
  if (a >= 1) __get_cpuid_count(7, 1, &cpu.leaf7_1_eax, &b, &c, &d);
  return cpu;
}

#ifdef DRYSTONE_EMULATE_AMX
// By kernels/amx_emulated.h.
void allow_tiles(Cpu& cpu) {
  cpu.leaf7_edx |= amx_int8 | amx_bf16 | amx_tile;
  cpu.xcr0 |= tiles;
}
#else
// Linux hands out the 8 KB of tile memory only to processes that ask.
void allow_tiles(Cpu& cpu) {
  constexpr long arch_req_xcomp_perm = 0x1023, tile_data = 18;
  const bool has_tiles = covers(cpu, {.leaf7_edx = amx_tile, .xcr0 = tiles});
  if (has_tiles && syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) != 0) cpu.xcr0 &= ~tiles;
}
#endif

Level cap() {
  const char* text = std::getenv("DRYSTONE_MAX_ISA");
  if (!text || !*text) return Level::amx;
  const std::string name = text;
  for (size_t i = 0; i < std::size(level_names); i++)
    if (name == level_names[i]) return static_cast<Level>(i);
  throw std::invalid_argument("DRYSTONE_MAX_ISA is '" + name + "'; it takes none, avx2, avx512 or amx");
}

uint32_t find() {
  const Level most = cap();
  Cpu cpu = read_cpu();
  if (most >= Level::amx) allow_tiles(cpu);
  return features_of(cpu, most);
}

}  // namespace

uint32_t features_of(const Cpu& cpu, Level cap) {
  uint32_t found = 0;
  for (const Row& row : rows) {
    const bool has_base = row.base == row.feature || (found & mask_of(row.base));
    if (row.level <= cap && has_base && covers(cpu, row.needs)) found |= mask_of(row.feature);
  }
  return found;
}

bool has(Feature feature) {
  static const uint32_t found = find();
  return found & mask_of(feature);
}

Level level() {
  Level highest = Level::none;
  for (const Row& row : rows)
    if (has(row.feature)) highest = row.level;
  return highest;
}

const char* name_of(Level level) { return level_names[static_cast<int>(level)]; }

int64_t vector_lanes() { return has(Feature::avx512) ? 16 : 8; }

std::vector<std::string> features() {
  std::vector<std::string> names;
  for (const Row& row : rows)
    if (has(row.feature)) names.emplace_back(row.name);
  return names;
}

}  // namespace drystone
