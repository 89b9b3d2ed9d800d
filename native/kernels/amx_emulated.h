// AMX in plain C++, after the instructions' pages in Intel's Software Developer's Manual: for tests on machines without it. What would
// raise an exception there ends the process here. Included by amx.h.
#pragma once

namespace drystone::DRYSTONE_ISA::amx {

struct Tile {
  alignas(64) unsigned char row[kTileRows][kTileRowBytes];
};

// A thread's own, as the registers are.
struct TileState {
  bool configured = false;
  TileConfig config{};
  Tile tile[kTiles]{};
};
inline thread_local TileState state;

inline void require(bool condition) {
  if (!condition) __builtin_trap();
}

inline void configure(const TileConfig& config) {
  require(config.palette == 1 && config.start_row == 0);
  for (uint8_t byte : config.reserved) require(byte == 0);
  for (int i = 0; i < 16; i++) {
    require(config.rows[i] <= (i < kTiles ? kTileRows : 0) && config.row_bytes[i] <= (i < kTiles ? kTileRowBytes : 0));
    require((config.rows[i] == 0) == (config.row_bytes[i] == 0));
  }
  state = {true, config, {}};
}

inline void release() { state = {}; }

template <int Index>
void require_usable() {
  static_assert(Index >= 0 && Index < kTiles);
  require(state.configured && state.config.rows[Index] > 0);
}

template <int Index>
void load(const void* from, int64_t stride) {
  require_usable<Index>();
  Tile tile{};  // what lies beyond the rows and bytes configured becomes 0
  for (int r = 0; r < state.config.rows[Index]; r++)
    __builtin_memcpy(tile.row[r], static_cast<const char*>(from) + r * stride, state.config.row_bytes[Index]);
  state.tile[Index] = tile;
}

template <int Index>
void store(void* to, int64_t stride) {
  require_usable<Index>();
  for (int r = 0; r < state.config.rows[Index]; r++)
    __builtin_memcpy(static_cast<char*>(to) + r * stride, state.tile[Index].row[r], state.config.row_bytes[Index]);
}

// Denormals count as zero when read, and are zero when written; MXCSR has no say.
inline float flushed(float value) { return __builtin_fabsf(value) < __FLT_MIN__ ? __builtin_copysignf(0.0f, value) : value; }

inline float multiply_add(float a, float b, float c) { return flushed(__builtin_fmaf(a, b, c)); }

inline float bf16_at(const Tile& tile, int row, int column) {
  uint16_t half;
  __builtin_memcpy(&half, tile.row[row] + 2 * column, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return flushed(value);
}

template <int Sums, int X, int W>
void require_product() {
  static_assert(Sums != X && Sums != W && X != W);
  require_usable<Sums>();
  require_usable<X>();
  require_usable<W>();
  const TileConfig& config = state.config;
  require(config.row_bytes[Sums] % 4 == 0 && config.row_bytes[X] % 4 == 0 && config.row_bytes[W] % 4 == 0);
  require(config.rows[Sums] == config.rows[X] && config.row_bytes[X] / 4 == config.rows[W] &&
          config.row_bytes[Sums] == config.row_bytes[W]);
}

// A row's even k are summed apart from its odd ones, each by fused multiply-adds from 0, and the two sums are added, then that to what was
// there.
template <int Sums, int X, int W>
void multiply_bf16() {
  require_product<Sums, X, W>();
  const TileConfig& config = state.config;
  const Tile &x = state.tile[X], &w = state.tile[W];
  Tile result{};
  const int columns = config.row_bytes[Sums] / 4;
  for (int m = 0; m < config.rows[Sums]; m++) {
    float even[16] = {}, odd[16] = {}, sum[16];
    for (int k = 0; k < config.row_bytes[X] / 4; k++) {
      for (int n = 0; n < columns; n++) {
        even[n] = multiply_add(bf16_at(x, m, 2 * k), bf16_at(w, k, 2 * n), even[n]);
        odd[n] = multiply_add(bf16_at(x, m, 2 * k + 1), bf16_at(w, k, 2 * n + 1), odd[n]);
      }
    }
    __builtin_memcpy(sum, state.tile[Sums].row[m], sizeof sum);
    for (int n = 0; n < columns; n++) sum[n] = flushed(flushed(sum[n]) + flushed(even[n] + odd[n]));
    __builtin_memcpy(result.row[m], sum, config.row_bytes[Sums]);
  }
  state.tile[Sums] = result;
}

// Sums wrap around.
template <int Sums, int X, int W>
void multiply_codes() {
  require_product<Sums, X, W>();
  const TileConfig& config = state.config;
  Tile result{};
  for (int m = 0; m < config.rows[Sums]; m++) {
    for (int n = 0; n < config.row_bytes[Sums] / 4; n++) {
      uint32_t sum;
      __builtin_memcpy(&sum, state.tile[Sums].row[m] + 4 * n, sizeof sum);
      for (int k = 0; k < config.row_bytes[X]; k++)
        sum += static_cast<uint32_t>(int{state.tile[X].row[m][k]} * static_cast<signed char>(state.tile[W].row[k / 4][4 * n + k % 4]));
      __builtin_memcpy(result.row[m] + 4 * n, &sum, sizeof sum);
    }
  }
  state.tile[Sums] = result;
}

}  // namespace drystone::DRYSTONE_ISA::amx
