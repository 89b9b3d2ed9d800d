// embedding_bag: sums, means and maxima of the rows of a table, bag by bag.
//
// Threads share the bags, in order. A row is asked for sixteen rows before it is added, across the ends of bags; its index is checked then,
// once. Rows are added in their order, whatever the threads.
#include "kernels/bags.h"

#include <omp.h>

#include "kernels/row_sums.h"

namespace drystone::DRYSTONE_ISA {

namespace {

template <class T>
class Bags {
 public:
  Bags(const BagArgs& args, int thread)
      : args_(args), table_(static_cast<const T*>(args.table)), sums_(args.scratch + 2 * args.width * thread) {}

  bool run(Range bags) {
    if (bags.begin == bags.end) return true;
    fetched_ = begin_of(bags.begin);
    last_ = begin_of(bags.end);
    fetch(fetched_ + rows_ahead);
    for (int64_t bag = bags.begin; bag < bags.end && !bad_; bag++) {
      if (args_.mode == BagMode::max) {
        find_max(bag);
      } else if (args_.weights) {
        sum<true>(bag);
      } else {
        sum<false>(bag);
      }
    }
    return !bad_;
  }

 private:
  int64_t begin_of(int64_t bag) const { return bag < args_.bags ? index_at(args_.offsets, args_.wide, bag) : args_.count; }

  // Has the rows of all indices before `end` on their way.
  void fetch(int64_t end) {
    end = least(end, last_);
    for (; fetched_ < end; fetched_++) {
      const int64_t row = index_at(args_.indices, args_.wide, fetched_);
      if (row < 0 || row >= args_.rows) {
        bad_ = true;
        return;
      }
      rows_[fetched_ % row_slots] = row;
      prefetch_row(table_ + row * args_.row_stride, args_.width * static_cast<int64_t>(sizeof(T)));
    }
  }

  // The indices of [at, end) that count, eight at most; `at` moves on.
  Group<T> next_group(int64_t& at, int64_t end, int64_t bag, int64_t* rows) {
    Group<T> group;
    end = least(end, at + rows_in_group);
    fetch(end + rows_ahead);
    if (bad_) return group;
    for (; at < end; at++) {
      if (args_.bag_of) set_index(args_.bag_of, args_.wide, at, bag);
      const int64_t row = rows_[at % row_slots];
      if (row == args_.padding) continue;
      group.rows[group.count] = table_ + row * args_.row_stride;
      if (args_.weights) group.weights[group.count] = load_one(static_cast<const T*>(args_.weights) + at);
      rows[group.count++] = row;
    }
    return group;
  }

  template <bool Weighted>
  void sum(int64_t bag) {
    fill_row(sums_, 0, args_.width);
    int64_t counted = 0, rows[rows_in_group];
    for (int64_t at = begin_of(bag), end = begin_of(bag + 1); at < end && !bad_;) {
      const Group<T> group = next_group(at, end, bag, rows);
      add_rows<Weighted>(sums_, group, args_.width);
      counted += group.count;
    }
    if (args_.mode == BagMode::mean && counted > 1) {
      const float divisor = static_cast<float>(counted);
#pragma omp simd
      for (int64_t column = 0; column < args_.width; column++) sums_[column] /= divisor;
    }
    finish(bag, counted);
  }

  void find_max(int64_t bag) {
    auto* places = reinterpret_cast<int32_t*>(sums_ + args_.width);
    fill_row(sums_, 0, args_.width);
    for (int64_t column = 0; column < args_.width; column++) places[column] = 0;
    int64_t counted = 0, rows[rows_in_group];
    for (int64_t at = begin_of(bag), end = begin_of(bag + 1); at < end && !bad_;) {
      const Group<T> group = next_group(at, end, bag, rows);
      for (int r = 0; r < group.count; r++) take_larger(group.rows[r], static_cast<int32_t>(rows[r]), places, counted++ == 0);
    }
    for (int64_t column = 0; column < args_.width; column++) set_index(args_.places, args_.wide, bag * args_.width + column, places[column]);
    finish(bag, counted);
  }

  void take_larger(const T* row, int32_t index, int32_t* places, bool first) {
    using Floats = Vector<float, kFloats>;
    using Places = Vector<int32_t, kFloats>;
    int64_t column = 0;
    for (; column + kFloats <= args_.width; column += kFloats) {
      const Floats value = load_floats(row + column), best = load_raw<kFloats>(sums_ + column);
      const Places place = load_raw<kFloats>(places + column), larger = first ? Places{} - 1 : value > best;
      store_raw(sums_ + column, larger ? value : best);
      store_raw(places + column, larger ? Places{} + index : place);
    }
    for (; column < args_.width; column++) {
      const float value = load_one(row + column);
      if (first || value > sums_[column]) {
        sums_[column] = value;
        places[column] = index;
      }
    }
  }

  void finish(int64_t bag, int64_t counted) {
    store_row(static_cast<T*>(args_.output) + bag * args_.width, sums_, args_.width);
    if (args_.sizes) set_index(args_.sizes, args_.wide, bag, counted);
  }

  const BagArgs& args_;
  const T* table_;
  float* sums_;
  int64_t rows_[row_slots];
  int64_t fetched_ = 0, last_ = 0;  // indices that were fetched, and that this thread has
  bool bad_ = false;
};

bool run_share(const BagArgs& args, int thread, int threads) {
  const Range bags = share(args.bags, thread, threads);
  switch (args.type) {
    case RowType::f32: return Bags<float>(args, thread).run(bags);
    case RowType::bf16: return Bags<uint16_t>(args, thread).run(bags);
    case RowType::f16: return Bags<Half>(args, thread).run(bags);
  }
  return false;
}

}  // namespace

// False where an index is out of range; the results are then not all written.
bool bags(const BagArgs& args) {
  int bad = 0;
#pragma omp parallel num_threads(args.threads) reduction(| : bad) if (args.threads > 1)
  bad |= !run_share(args, omp_get_thread_num(), omp_get_num_threads());
  return !bad;
}

}  // namespace drystone::DRYSTONE_ISA
