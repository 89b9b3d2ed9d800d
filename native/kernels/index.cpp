// Gathers runs of memory by tensors of indices: rows of an embedding, entries along an axis, single elements.
//
// Row by row of the grid of indices. Every index is checked before it is used: nothing outside of the input is read. Whole rows of a
// table are asked for some rows before they are copied, as the next one is nowhere near.
#include "kernels/index.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/streams.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// One row: move(entry, offset in the input) for each entry; false where an index is out of range.
template <class Move>
bool walk_row(const IndexArgs& args, const int64_t* starts, int64_t offset, Move move) {
  const int last = args.axes - 1;
  for (int64_t entry = 0; entry < args.sizes[last]; entry++, offset += args.places[last]) {
    int64_t from = offset;
    for (int axis = 0; axis < args.indexed; axis++) {
      const IndexedAxis& by = args.indices[axis];
      const int64_t index = index_at(by.indices, by.wide, starts[axis] + entry * by.strides[last]);
      if (index < (args.wraps ? -by.size : 0) || index >= by.size) {
#pragma omp critical(drystone_index)
        {
          *args.bad_axis = axis;
          *args.bad_index = index;
        }
        return false;
      }
      from += (index < 0 ? index + by.size : index) * by.stride;
    }
    move(entry, from);
  }
  return true;
}

template <class Move>
bool each_row(const IndexArgs& args, Move move) {
  const int last = args.axes - 1;
  int64_t rows = 1;
  for (int i = 0; i < last; i++) rows *= args.sizes[i];
  int bad = 0;
#pragma omp parallel for num_threads(args.threads) schedule(static) reduction(| : bad) if (args.threads > 1)
  for (int64_t item = 0; item < args.outer * rows; item++) {
    int64_t starts[index_max_axes] = {}, row = item % rows, offset = item / rows * args.outer_stride;
    for (int i = last - 1; i >= 0; i--) {
      const int64_t place = row % args.sizes[i];
      row /= args.sizes[i];
      offset += place * args.places[i];
      for (int axis = 0; axis < args.indexed; axis++) starts[axis] += place * args.indices[axis].strides[i];
    }
    const int64_t first = item * args.sizes[last];
    bad |= !walk_row(args, starts, offset, [&](int64_t entry, int64_t from) { move(first + entry, from); });
  }
  return !bad;
}

template <class T>
bool gather(const IndexArgs& args) {
  const char* input = static_cast<const char*>(args.input);
  T* output = static_cast<T*>(args.output);
  return each_row(args, [=](int64_t entry, int64_t from) { output[entry] = *reinterpret_cast<const T*>(input + from); });
}

bool copy_runs(const IndexArgs& args) {
  const char* input = static_cast<const char*>(args.input);
  char* output = static_cast<char*>(args.output);
  const auto run = static_cast<size_t>(args.run);
  return each_row(args, [=](int64_t entry, int64_t from) { __builtin_memcpy(output + entry * run, input + from, run); });
}

// Rows of a table, or of several: `outer` tables, each with all indices in turn.
class Rows {
 public:
  explicit Rows(const IndexArgs& args) : args_(args), by_(args.indices[0]), count_(args.sizes[0]) {
    const int64_t rows = ceil_div(bytes_ahead, args.run);
    ahead_ = rows < slots ? rows : slots - 1;
  }

  bool copy(Range entries) {
    const char* input = static_cast<const char*>(args_.input);
    char* output = static_cast<char*>(args_.output);
    const bool stream = args_.stream && args_.run >= least_streamed_run;
    int64_t fetched = entries.begin;
    for (int64_t entry = entries.begin; entry < entries.end; entry++) {
      for (const int64_t end = least(entry + ahead_ + 1, entries.end); fetched < end; fetched++)
        if (!fetch(fetched)) return false;
      const char* from = input + offsets_[entry % slots];
      if (stream) {
        stream_bytes(output + entry * args_.run, from, args_.run);
      } else {
        copy_bytes(output + entry * args_.run, from, args_.run);
      }
    }
    if (stream) finish_streams();
    return true;
  }

 private:
  static constexpr int64_t slots = 32, bytes_ahead = 8192, least_streamed_run = 256;

  // Checks an index, and has its row on the way.
  bool fetch(int64_t entry) {
    const int64_t outer = args_.outer == 1 ? 0 : entry / count_;
    const int64_t index = index_at(by_.indices, by_.wide, (entry - outer * count_) * by_.strides[0]);
    if (index < (args_.wraps ? -by_.size : 0) || index >= by_.size) {
#pragma omp critical(drystone_index)
      {
        *args_.bad_axis = 0;
        *args_.bad_index = index;
      }
      return false;
    }
    const int64_t offset = outer * args_.outer_stride + (index < 0 ? index + by_.size : index) * by_.stride;
    for (int64_t line = 0; line < least(args_.run, bytes_ahead); line += kLine)
      __builtin_prefetch(static_cast<const char*>(args_.input) + offset + line);
    offsets_[entry % slots] = offset;
    return true;
  }

  const IndexArgs& args_;
  const IndexedAxis& by_;
  int64_t count_, ahead_;
  int64_t offsets_[slots];
};

bool copy_rows(const IndexArgs& args) {
  int bad = 0;
#pragma omp parallel num_threads(args.threads) reduction(| : bad) if (args.threads > 1)
  bad |= !Rows(args).copy(share(args.outer * args.sizes[0], omp_get_thread_num(), omp_get_num_threads()));
  return !bad;
}

}  // namespace

bool index(const IndexArgs& args) {
  switch (args.run) {
    case 1: return gather<uint8_t>(args);
    case 2: return gather<uint16_t>(args);
    case 4: return gather<uint32_t>(args);
    case 8: return gather<uint64_t>(args);
    default: return args.axes == 1 && args.indexed == 1 && args.places[0] == 0 ? copy_rows(args) : copy_runs(args);
  }
}

}  // namespace drystone::DRYSTONE_ISA
