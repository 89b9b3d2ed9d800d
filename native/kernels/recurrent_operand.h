// How the states of a recurrent layer lie for the tiles that multiply them.
#pragma once

#include "kernels/block.h"
#include "kernels/gemm_math.h"
#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// Rows in the order in which tiles read them (gemm_tile.h): blocks of rows, each [chunk][row][64 bytes].
struct Operand {
  char* data;
  int64_t row_bytes;  // whole chunks

  // Elements from `unit` on, fewer than fill a chunk from there, of a row of a block. `unit` is a multiple of a vector's lanes.
  char* at(Range block, int64_t row, int64_t unit, int element) const {
    const int64_t byte = unit * element, chunk = byte / kChunkBytes, height = block.end - block.begin;
    return data + block.begin * row_bytes + (chunk * height + row - block.begin) * kChunkBytes + byte % kChunkBytes;
  }
};

// A vector of results, as the next product reads it.
inline void store_operand(char* to, const float* values, GemmArithmetic arithmetic) {
  if (arithmetic == GemmArithmetic::f32) {
    __builtin_memcpy(to, values, kFloats * sizeof(float));
  } else if (arithmetic == GemmArithmetic::bf16_dot) {
    store<kFloats>(reinterpret_cast<uint16_t*>(to), load<kFloats>(values));
  } else {
    uint16_t rounded[kFloats];
    store<kFloats>(rounded, load<kFloats>(values));
    store<kFloats>(reinterpret_cast<float*>(to), load<kFloats>(rounded));
  }
}

}  // namespace drystone::DRYSTONE_ISA
