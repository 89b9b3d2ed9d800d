// Arguments of the kernel that joins tensors along an axis.
#pragma once

#include <cstdint>

namespace drystone {

// A tensor: in each row of the result, `run` bytes at `offset`. Its own rows begin `pitch` bytes apart.
struct ConcatenatePart {
  const char* data;
  int64_t run, pitch, offset;
};

// The parts lie one after the other and fill the rows of the result, which lie together.
struct ConcatenateArgs {
  char* output;
  int64_t rows, row_bytes;
  const ConcatenatePart* parts;
  int64_t count;
  bool stream;  // past the caches
  int threads;
};

}  // namespace drystone
