// The gradient of a table of rows: each row is the sum of the gradients of the places where it was read.
//
// The indices are sorted by counting, so every row of the result is written once, by one thread, and rows that nothing was read
// from are zeroed where nothing else writes. Threads first count, and then enter, the indices of a share of the rows each; then
// they share the rows anew, by what there is to do. A row's gradients are added in the order of the indices, whatever the threads.
#include <omp.h>

#include "kernels/bags.h"
#include "kernels/row_sums.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int rows_ahead = 16;

// Non-temporal or not; `from` is null for zeros.
void write_bytes(char* to, const char* from, int64_t bytes, bool stream) {
  if (from) return stream ? stream_bytes(to, from, bytes) : copy_bytes(to, from, bytes);
  alignas(kLine) static constexpr char zeros[kLine] = {};
  const int64_t head = least(bytes, -reinterpret_cast<intptr_t>(to) & (kLine - 1));
  const int64_t lines = (bytes - head) / kLine * kLine;
  if (!stream || lines == 0) {
    __builtin_memset(to, 0, bytes);
    return;
  }
  copy_bytes(to, zeros, head);
  for (int64_t at = head; at < head + lines; at += kLine) stream_line(to + at, zeros);
  copy_bytes(to + head + lines, zeros, bytes - head - lines);
}

// Sorts the indices. Afterwards ends[r] is where row r ends in `order`, and where row r + 1 begins.
class Sorted {
 public:
  explicit Sorted(const ScatterArgs& args) : args_(args), ends_(args.scratch), order_(args.scratch + args.rows) {}

  // All threads together; `totals` is theirs, too.
  void sort(int32_t* totals, int thread, int threads) {
    const Range rows = share(args_.rows, thread, threads);
    for (int64_t r = rows.begin; r < rows.end; r++) ends_[r] = 0;
    each(rows, [&](int64_t row, int64_t) { ends_[row]++; });
    int32_t total = 0;
    for (int64_t r = rows.begin; r < rows.end; r++) total += ends_[r];
    totals[thread] = total;
#pragma omp barrier
    int32_t begin = 0;
    for (int i = 0; i < thread; i++) begin += totals[i];
    for (int64_t r = rows.begin; r < rows.end; r++) {
      const int32_t count = ends_[r];
      ends_[r] = begin;
      begin += count;
    }
    each(rows, [&](int64_t row, int64_t at) { order_[ends_[row]++] = static_cast<int32_t>(at); });
#pragma omp barrier
  }

  int32_t begin_of(int64_t row) const { return row ? ends_[row - 1] : 0; }
  int32_t at(int64_t position) const { return order_[position]; }

  // A part of the rows: to write one costs as much as to read one.
  Range part(int thread, int threads) const { return {boundary(thread, threads), boundary(thread + 1, threads)}; }

 private:
  template <class Enter>
  void each(Range rows, Enter enter) const {
    for (int64_t i = 0; i < args_.count; i++) {
      const int64_t row = index_at(args_.indices, args_.wide, i);
      if (row >= rows.begin && row < rows.end && row != args_.padding) enter(row, i);
    }
  }

  int64_t boundary(int part, int parts) const {
    const int64_t wanted = (args_.rows + begin_of(args_.rows)) * part / parts;
    int64_t low = 0, high = args_.rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (middle + begin_of(middle) < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  const ScatterArgs& args_;
  int32_t *ends_, *order_;
};

template <class T>
class Scatter {
 public:
  Scatter(const ScatterArgs& args, const Sorted& sorted, float* sums) : args_(args), sorted_(sorted), sums_(sums) {}

  void run(Range rows) {
    const int64_t row_bytes = args_.width * static_cast<int64_t>(sizeof(T));
    char* output = static_cast<char*>(args_.output);
    fetched_ = sorted_.begin_of(rows.begin);
    last_ = sorted_.begin_of(rows.end);
    for (int64_t row = rows.begin; row < rows.end;) {
      int64_t end = row;
      while (end < rows.end && sorted_.begin_of(end) == sorted_.begin_of(end + 1)) end++;
      if (end > row) write_bytes(output + row * row_bytes, nullptr, (end - row) * row_bytes, args_.stream);
      row = end;
      if (row == rows.end) break;
      write_bytes(output + row * row_bytes, sum(row), row_bytes, args_.stream);
      row++;
    }
    if (args_.stream) finish_streams();
  }

 private:
  int64_t source(int64_t entry) const { return args_.sources ? index_at(args_.sources, args_.wide, entry) : entry; }
  const T* gradient(int64_t source) const { return static_cast<const T*>(args_.gradient) + source * args_.width; }

  const char* sum(int64_t row) {
    fill_row(sums_, 0, args_.width);
    const int64_t begin = sorted_.begin_of(row), end = sorted_.begin_of(row + 1);
    const bool weighted = args_.weights || args_.sizes || args_.by_frequency;
    const float frequency = args_.by_frequency ? 1 / static_cast<float>(end - begin) : 1;
    for (int64_t at = begin; at < end;) {
      Group<T> group;
      const int64_t stop = least(end, at + rows_in_group);
      for (const int64_t ahead = least(stop + rows_ahead, last_); fetched_ < ahead; fetched_++)
        prefetch_row(gradient(source(sorted_.at(fetched_))), args_.width * static_cast<int64_t>(sizeof(T)));
      for (; at < stop; at++) {
        const int64_t entry = sorted_.at(at), from = source(entry);
        group.rows[group.count] = gradient(from);
        group.weights[group.count++] = frequency * weight(entry, from);
      }
      if (weighted) {
        add_rows<true>(sums_, group, args_.width);
      } else {
        add_rows<false>(sums_, group, args_.width);
      }
    }
    if constexpr (sizeof(T) == sizeof(float)) return reinterpret_cast<const char*>(sums_);
    T* rounded = reinterpret_cast<T*>(sums_ + args_.width);
    store_row(rounded, sums_, args_.width);
    return reinterpret_cast<const char*>(rounded);
  }

  float weight(int64_t entry, int64_t source) const {
    float weight = args_.weights ? load_one(static_cast<const T*>(args_.weights) + entry) : 1;
    if (args_.sizes)
      if (const int64_t size = index_at(args_.sizes, args_.wide, source)) weight /= static_cast<float>(size);
    return weight;
  }

  const ScatterArgs& args_;
  const Sorted& sorted_;
  float* sums_;
  int64_t fetched_ = 0, last_ = 0;  // positions whose rows were asked for, and that this thread has
};

}  // namespace

void scatter(const ScatterArgs& args) {
  constexpr int most_threads = 1024;
  int32_t totals[most_threads];
  const int wanted = args.threads < most_threads ? args.threads : most_threads;
#pragma omp parallel num_threads(wanted) if (wanted > 1)
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    Sorted sorted(args);
    sorted.sort(totals, thread, threads);
    float* sums = reinterpret_cast<float*>(args.scratch + args.rows + args.count) + 2 * args.width * thread;
    const Range rows = sorted.part(thread, threads);
    switch (args.dtype) {
      case DType::f32: Scatter<float>(args, sorted, sums).run(rows); break;
      case DType::bf16: Scatter<uint16_t>(args, sorted, sums).run(rows); break;
      default: Scatter<Half>(args, sorted, sums).run(rows); break;
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
