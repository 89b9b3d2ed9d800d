// Joins tensors along an axis: every row of the result is a run of bytes of each.
//
// Long rows are cut among the threads anywhere, and copied run by run. Short ones are taken in blocks that fit L1: within a block
// a part is read to its end before the next, so that few streams are open at a time, and the size of its runs is a constant of the
// loop. A block that is to pass the caches by is put together in L1 first, as runs shorter than a line can't be streamed.
#include "kernels/concatenate.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/streams.h"
#include "kernels/transpose.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t block_bytes = 16384;
constexpr int64_t least_streamed_run = 1024;
// The processor follows few streams by itself: rows of more parts are asked for this much of the result in advance.
constexpr int streams_followed = 8;
constexpr int64_t prefetched_bytes = 16384;

template <int Bytes>
void copy_runs_of(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t rows) {
#pragma GCC unroll 4
  for (int64_t r = 0; r < rows; r++) __builtin_memcpy(to + r * to_pitch, from + r * from_pitch, Bytes);
}

void copy_runs(char* to, int64_t to_pitch, const char* from, int64_t from_pitch, int64_t run, int64_t rows) {
  switch (run) {
    case 1: return copy_runs_of<1>(to, to_pitch, from, from_pitch, rows);
    case 2: return copy_runs_of<2>(to, to_pitch, from, from_pitch, rows);
    case 4: return copy_runs_of<4>(to, to_pitch, from, from_pitch, rows);
    case 8: return copy_runs_of<8>(to, to_pitch, from, from_pitch, rows);
    case 12: return copy_runs_of<12>(to, to_pitch, from, from_pitch, rows);
    case 16: return copy_runs_of<16>(to, to_pitch, from, from_pitch, rows);
    case 32: return copy_runs_of<32>(to, to_pitch, from, from_pitch, rows);
    case 64: return copy_runs_of<64>(to, to_pitch, from, from_pitch, rows);
  }
  for (int64_t r = 0; r < rows; r++) copy_bytes(to + r * to_pitch, from + r * from_pitch, run);
}

template <class T, int... I>
inline void interleave_vectors(T* to, const T* a, const T* b, Indices<I...>) {
  constexpr int width = sizeof...(I);
  const auto x = load_raw<width>(a), y = load_raw<width>(b);
  store_raw(to, __builtin_shufflevector(x, y, (I / 2 + (I % 2) * width)...));
  store_raw(to + width, __builtin_shufflevector(x, y, (width / 2 + I / 2 + (I % 2) * width)...));
}

// An element of each in turn.
template <class T>
void interleave(char* to_bytes, const char* a_bytes, const char* b_bytes, int64_t count) {
  constexpr int width = kVectorBytes / sizeof(T);
  T* to = reinterpret_cast<T*>(to_bytes);
  const T *a = reinterpret_cast<const T*>(a_bytes), *b = reinterpret_cast<const T*>(b_bytes);
  int64_t i = 0;
  for (; i + width <= count; i += width) interleave_vectors(to + 2 * i, a + i, b + i, Indices<__integer_pack(width)...>());
  for (; i < count; i++) {
    __builtin_memcpy(to + 2 * i, a + i, sizeof(T));
    __builtin_memcpy(to + 2 * i + 1, b + i, sizeof(T));
  }
}

// Two dense parts of elements in turn: false for all else.
bool fill_pairs(const ConcatenateArgs& args, int64_t begin, int64_t end, char* to) {
  if (args.count != 2) return false;
  const ConcatenatePart &a = args.parts[0], &b = args.parts[1];
  const int64_t run = a.run;
  if (b.run != run || a.pitch != run || b.pitch != run) return false;
  const char *from_a = a.data + begin * run, *from_b = b.data + begin * run;
  switch (run) {
    case 2: interleave<uint16_t>(to, from_a, from_b, end - begin); return true;
    case 4: interleave<uint32_t>(to, from_a, from_b, end - begin); return true;
    case 8: interleave<uint64_t>(to, from_a, from_b, end - begin); return true;
  }
  return false;
}

// Rows [begin, end) of the result, at `to`.
void fill_rows(const ConcatenateArgs& args, int64_t begin, int64_t end, char* to) {
  if (fill_pairs(args, begin, end, to)) return;
  for (int64_t i = 0; i < args.count; i++) {
    const ConcatenatePart& part = args.parts[i];
    copy_runs(to + part.offset, args.row_bytes, part.data + begin * part.pitch, part.pitch, part.run, end - begin);
  }
}

// Consecutive bytes go out as whole lines, whatever blocks they come in. The bytes of a line that is begun wait in the buffer.
class Stager {
 public:
  explicit Stager(char* to) : to_(to - begun(to)), skipped_(begun(to)), held_(skipped_) {}

  char* next() { return buffer_ + held_; }

  void commit(int64_t bytes) {
    held_ += bytes;
    int64_t at = 0;
    if (skipped_ && held_ >= kLine) {
      copy_short(to_ + skipped_, buffer_ + skipped_, kLine - skipped_);
      skipped_ = 0;
      at = kLine;
    }
    for (; at + kLine <= held_; at += kLine) stream_line(to_ + at, buffer_ + at);
    if (at) __builtin_memcpy(buffer_, buffer_ + at, kLine);
    held_ -= at;
    to_ += at;
  }

  void finish() { copy_short(to_ + skipped_, buffer_ + skipped_, held_ - skipped_); }

 private:
  static int64_t begun(const char* to) { return reinterpret_cast<intptr_t>(to) & (kLine - 1); }

  char* to_;         // of the buffer's first byte
  int64_t skipped_;  // bytes of the first line that belong to someone else
  int64_t held_;
  alignas(kLine) char buffer_[block_bytes + 2 * kLine];
};

void fill_blocks(const ConcatenateArgs& args, Range rows) {
  const int64_t step = block_bytes / args.row_bytes;
  char* to = args.output + rows.begin * args.row_bytes;
  if (!args.stream) {
    for (int64_t r = rows.begin; r < rows.end; r += step, to += step * args.row_bytes) fill_rows(args, r, least(r + step, rows.end), to);
    return;
  }
  Stager stager(to);
  for (int64_t r = rows.begin; r < rows.end; r += step) {
    const int64_t end = least(r + step, rows.end);
    fill_rows(args, r, end, stager.next());
    stager.commit((end - r) * args.row_bytes);
  }
  stager.finish();
}

// The part that holds byte `at` of a row.
int64_t part_at(const ConcatenateArgs& args, int64_t at) {
  int64_t low = 0, high = args.count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (args.parts[middle].offset <= at ? low : high) = middle;
  }
  return low;
}

// Bytes [begin, end) of the result.
void fill_bytes(const ConcatenateArgs& args, Range bytes) {
  if (bytes.begin == bytes.end) return;
  int64_t row = bytes.begin / args.row_bytes, i = part_at(args, bytes.begin % args.row_bytes);
  int64_t skipped = bytes.begin % args.row_bytes - args.parts[i].offset;
  const int64_t ahead = args.count > streams_followed ? ceil_div(prefetched_bytes, args.row_bytes) : 0;
  for (int64_t at = bytes.begin; at < bytes.end;) {
    const ConcatenatePart& part = args.parts[i];
    const int64_t size = least(part.run - skipped, bytes.end - at);
    const char* from = part.data + row * part.pitch + skipped;
    if (args.stream && size >= least_streamed_run) {
      stream_bytes(args.output + at, from, size);
    } else {
      copy_bytes(args.output + at, from, size);
    }
    if (ahead && size <= prefetched_bytes)
      for (int64_t line = 0; line < size; line += kLine) __builtin_prefetch(from + ahead * part.pitch + line);
    at += size;
    skipped = 0;
    if (++i == args.count) {
      i = 0;
      row++;
    }
  }
}

void fill_share(const ConcatenateArgs& args, int thread, int threads) {
  if (args.row_bytes <= block_bytes / 2 && args.row_bytes < 64 * args.count && args.rows >= 4 * threads) {
    fill_blocks(args, share(args.rows, thread, threads));
  } else {
    // Threads meet at lines of the result.
    const int64_t total = args.rows * args.row_bytes;
    const Range lines = share(ceil_div(total, kLine), thread, threads);
    fill_bytes(args, {lines.begin * kLine, least(lines.end * kLine, total)});
  }
  if (args.stream) finish_streams();
}

}  // namespace

void concatenate(const ConcatenateArgs& args) {
  if (args.threads == 1) return fill_share(args, 0, 1);
#pragma omp parallel num_threads(args.threads)
  fill_share(args, omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace drystone::DRYSTONE_ISA
