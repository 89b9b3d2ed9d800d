// Gathers runs of memory by tensors of indices: rows of an embedding, entries along an axis, single elements.
//
// First every index is checked and turned into a byte offset, then the runs are copied: nothing outside of the input is read.
#include "kernels/index.h"

#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// The offset of every entry of the grid; false where an index is out of range.
bool find_offsets(const IndexArgs& args, int64_t count) {
  for (int64_t entry = 0; entry < count; entry++) args.offsets[entry] = 0;
  for (int axis = 0; axis < args.indexed; axis++) {
    const IndexedAxis& from = args.indices[axis];
    int64_t place[index_max_axes] = {}, at = 0;
    for (int64_t entry = 0; entry < count; entry++) {
      int64_t index = from.wide ? static_cast<const int64_t*>(from.indices)[at] : static_cast<const int32_t*>(from.indices)[at];
      if (index < (args.wraps ? -from.size : 0) || index >= from.size) {
        *args.bad_axis = axis;
        *args.bad_index = index;
        return false;
      }
      args.offsets[entry] += (index < 0 ? index + from.size : index) * from.stride;
      for (int i = args.axes - 1; i >= 0; i--) {
        at += from.strides[i];
        if (++place[i] < args.sizes[i]) break;
        at -= place[i] * from.strides[i];
        place[i] = 0;
      }
    }
  }
  return true;
}

template <class T>
void gather(const IndexArgs& args, int64_t count) {
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < args.outer * count; item++) {
    const char* from = static_cast<const char*>(args.input) + item / count * args.outer_stride + args.offsets[item % count];
    static_cast<T*>(args.output)[item] = *reinterpret_cast<const T*>(from);
  }
}

void copy_runs(const IndexArgs& args, int64_t count) {
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < args.outer * count; item++) {
    const char* from = static_cast<const char*>(args.input) + item / count * args.outer_stride + args.offsets[item % count];
    __builtin_memcpy(static_cast<char*>(args.output) + item * args.run, from, static_cast<size_t>(args.run));
  }
}

}  // namespace

bool index(const IndexArgs& args) {
  int64_t count = 1;
  for (int i = 0; i < args.axes; i++) count *= args.sizes[i];
  if (!find_offsets(args, count)) return false;
  switch (args.run) {
    case 1: gather<uint8_t>(args, count); break;
    case 2: gather<uint16_t>(args, count); break;
    case 4: gather<uint32_t>(args, count); break;
    case 8: gather<uint64_t>(args, count); break;
    default: copy_runs(args, count);
  }
  return true;
}

}  // namespace drystone::DRYSTONE_ISA
