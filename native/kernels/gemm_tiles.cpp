// The GEMM's tile in AMX: up to 32 rows of x times a strip of up to 48 columns, in up to six tile registers of sums, a seventh for x
// and the eighth for weights. Codes lie and move alike, four in the place of two. TDPBF16PS takes 32 k of 16 rows and 16 columns in 16
// cycles; a chunk of k is six of them and seven loads of about eight cycles. Loading a tile that the product before still reads counts on
// the CPU to rename tile registers.
//
// It has run in emulation only (DRYSTONE_EMULATE_AMX), never on a CPU that has AMX: nothing here is measured.
//
// A change of the configuration takes some hundred cycles and clears the tiles, so there is one for a whole GEMM: 16 rows, or all of x if
// it has fewer. A block of 17 to 31 rows is two tiles that overlap: what both hold is computed twice, to the same bits. gemm_rows.h cuts
// rows so that only one block of a GEMM is of that kind. Columns are padded with zeros where the weights are packed, k where x is packed,
// and here in the weights, whose last chunk is copied if it is not whole.
#include "kernels/gemm_tiles.h"

#ifdef __AVX512F__

#include "kernels/amx.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int kX = 6, kW = 7;  // tile registers; the others hold sums, row by row
constexpr int kPairs = amx::kTileRows;

// body.operator()<0>() to body.operator()<Count - 1>()
template <int Count, int Index = 0, class Body>
inline void unrolled(const Body& body) {
  if constexpr (Index < Count) {
    body.template operator()<Index>();
    unrolled<Count, Index + 1>(body);
  }
}

// 32 k, of codes 64. `second`: bytes between the first tile's rows of x and the second's.
template <bool OnCodes, int RowTiles, int Vectors>
inline void multiply_chunk(const char* x, int64_t second, const char* w) {
  unrolled<RowTiles * Vectors>([&]<int Step>() {
    constexpr int column = Step / RowTiles, at = Step % RowTiles;
    constexpr int row = column % 2 ? RowTiles - 1 - at : at;  // there and back: x is loaded only where it changes
    if constexpr (column == 0 || at > 0) amx::load<kX>(x + row * second, kChunkBytes);
    if constexpr (at == 0) amx::load<kW>(w + column * kVectorBytes, Vectors * kVectorBytes);
    if constexpr (OnCodes)
      amx::multiply_codes<row * Vectors + column, kX, kW>();
    else
      amx::multiply_bf16<row * Vectors + column, kX, kW>();
  });
}

template <bool OnCodes, int RowTiles, int Vectors>
void multiply_tiles(const GemmTile& t) {
  constexpr int chunk_bytes = kPairs * Vectors * kVectorBytes, runs = kPairs / 4;
  const int64_t second = t.rows - amx::kTileRows, x_second = second * kChunkBytes;
  const auto sums = [&]<int Tile>(auto* base, int64_t stride) {
    return base + Tile / Vectors * second * stride + Tile % Vectors * kFloats;
  };

  unrolled<RowTiles * Vectors>(
      [&]<int Tile>() { amx::load<Tile>(sums.template operator()<Tile>(t.start, t.start_stride), t.start_stride * 4); });
  const char *x = t.x, *w = t.weights, *ahead = t.ahead;
  for (int64_t chunk = 0; chunk < t.steps / kPairs; chunk++) {
    multiply_chunk<OnCodes, RowTiles, Vectors>(x, x_second, w);
    x += t.rows * kChunkBytes;
    w += chunk_bytes;
    for (int64_t line = 0; line < runs * t.ahead_lines; line++) __builtin_prefetch(ahead + line * 64, 0, 2);
    ahead += runs * t.ahead_lines * 64;
  }
  if (const int64_t left = t.steps % kPairs * Vectors * kVectorBytes) {
    alignas(64) char padded[chunk_bytes];
    __builtin_memcpy(padded, w, left);
    __builtin_memset(padded + left, 0, chunk_bytes - left);
    multiply_chunk<OnCodes, RowTiles, Vectors>(x, x_second, padded);
  }
  unrolled<RowTiles * Vectors>(
      [&]<int Tile>() { amx::store<Tile>(sums.template operator()<Tile>(t.sums, t.sums_stride), t.sums_stride * 4); });
}

template <bool OnCodes, int RowTiles>
GemmTileFunction of_vectors(int64_t vectors) {
  return vectors == 3   ? multiply_tiles<OnCodes, RowTiles, 3>
         : vectors == 2 ? multiply_tiles<OnCodes, RowTiles, 2>
                        : multiply_tiles<OnCodes, RowTiles, 1>;
}

}  // namespace

GemmTileFunction amx_tile(int64_t rows, int64_t vectors) {
  return rows > amx::kTileRows ? of_vectors<false, 2>(vectors) : of_vectors<false, 1>(vectors);
}
GemmTileFunction amx_codes_tile(int64_t rows, int64_t vectors) {
  return rows > amx::kTileRows ? of_vectors<true, 2>(vectors) : of_vectors<true, 1>(vectors);
}

void open_tiles(int64_t m) {
  amx::TileConfig config;
  for (int i = 0; i < amx::kTiles; i++) {
    config.row_bytes[i] = amx::kTileRowBytes;
    config.rows[i] = i == kW ? kPairs : static_cast<uint8_t>(least(m, amx::kTileRows));
  }
  amx::configure(config);
}

void close_tiles() { amx::release(); }

}  // namespace drystone::DRYSTONE_ISA

#else

namespace drystone::DRYSTONE_ISA {

GemmTileFunction amx_tile(int64_t, int64_t) { return nullptr; }
GemmTileFunction amx_codes_tile(int64_t, int64_t) { return nullptr; }
void open_tiles(int64_t) {}
void close_tiles() {}

}  // namespace drystone::DRYSTONE_ISA

#endif
