// embedding_bag: sums, means and maxima of the rows of a table, bag by bag.
//
// Threads share the bags, in order. Of a bag, as many columns as registers hold are taken at a time, from its first row to its last. The
// same columns of the row sixteen further on are asked for meanwhile, across the ends of bags. All indices are checked before. Rows are
// added in their order, whatever the threads.
#include "kernels/bags.h"

#include <omp.h>

#include "kernels/row_sums.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t rows_ahead = 16;

template <class T, class Index>
class Bags {
 public:
  Bags(const BagArgs& args, Range bags)
      : args_(args),
        table_(static_cast<const T*>(args.table)),
        indices_(static_cast<const Index*>(args.indices)),
        bags_(bags),
        last_(begin_of(bags.end)) {}

  // False where an index is out of range.
  bool run() {
    if (!valid()) return false;
    for (int64_t bag = bags_.begin; bag < bags_.end; bag++) {
      begin_ = begin_of(bag);
      end_ = begin_of(bag + 1);
      counted_ = end_ - begin_;
      if (args_.padding >= 0)
        for (int64_t at = begin_; at < end_; at++) counted_ -= indices_[at] == args_.padding;
      if (args_.sizes) static_cast<Index*>(args_.sizes)[bag] = static_cast<Index>(counted_);
      for (int64_t at = begin_; at < end_; at++) static_cast<Index*>(args_.bag_of)[at] = static_cast<Index>(bag);
      if (args_.mode == BagMode::max) {
        all_columns<4>(bag, [this]<int K>(int64_t bag, int64_t column) { largest<K>(bag, column); });
      } else if (args_.weights) {
        all_columns<8>(bag, [this]<int K>(int64_t bag, int64_t column) { sum<K, true>(bag, column); });
      } else {
        all_columns<8>(bag, [this]<int K>(int64_t bag, int64_t column) { sum<K, false>(bag, column); });
      }
    }
    return true;
  }

 private:
  int64_t begin_of(int64_t bag) const { return bag < args_.bags ? static_cast<const Index*>(args_.offsets)[bag] : args_.count; }

  bool valid() const {
    Index lowest = 0, highest = 0;
#pragma omp simd reduction(min : lowest) reduction(max : highest)
    for (int64_t at = begin_of(bags_.begin); at < last_; at++) {
      lowest = indices_[at] < lowest ? indices_[at] : lowest;
      highest = indices_[at] > highest ? indices_[at] : highest;
    }
    return lowest == 0 && (highest < args_.rows || begin_of(bags_.begin) == last_);
  }

  Index* places_of(int64_t at) const { return static_cast<Index*>(args_.places) + at; }
  T* output(int64_t bag) const { return static_cast<T*>(args_.output) + bag * args_.width; }

  // do_columns<K>: K vectors of columns from a place on; 0 for a single column. The last vector may overlap the one before it.
  template <int Most, class Do>
  void all_columns(int64_t bag, Do do_columns) const {
    const int64_t width = args_.width;
    int64_t column = 0;
    if (width < kFloats) {
      for (; column < width; column++) do_columns.template operator()<0>(bag, column);
      return;
    }
    for (; column + Most * kFloats <= width; column += Most * kFloats) do_columns.template operator()<Most>(bag, column);
    for (; column + 2 * kFloats <= width; column += 2 * kFloats) do_columns.template operator()<2>(bag, column);
    for (; column + kFloats <= width; column += kFloats) do_columns.template operator()<1>(bag, column);
    if (column < width) do_columns.template operator()<1>(bag, width - kFloats);
  }

  // take(row, its index, where it is in the bag's indices) for each that counts.
  template <int K, class Take>
  void each_row(int64_t column, Take take) const {
    const int64_t stride = args_.row_stride, padding = args_.padding;
    for (int64_t at = begin_; at < end_; at++) {
      const T* ahead = table_ + indices_[least(at + rows_ahead, last_ - 1)] * stride + column;
      constexpr int in_line = kLine / (kFloats * static_cast<int>(sizeof(T)));
      for (int k = 0; k < K; k += in_line) __builtin_prefetch(ahead + k * kFloats);
      const int64_t row = indices_[at];
      if (row != padding) take(table_ + row * stride + column, row, at);
    }
  }

  template <int K, bool Weighted>
  void sum(int64_t bag, int64_t column) const {
    const T* weights = static_cast<const T*>(args_.weights);
    const float divisor = args_.mode == BagMode::mean && counted_ > 1 ? static_cast<float>(counted_) : 1;
    if constexpr (K == 0) {
      float sum = 0;
      each_row<0>(column, [&](const T* row, int64_t, int64_t at) {
        sum = Weighted ? fma(load_one(weights + at), load_one(row), sum) : sum + load_one(row);
      });
      store_one(output(bag) + column, sum / divisor);
    } else {
      Vector<float, kFloats> sums[K];
      for (auto& sum : sums) sum = Vector<float, kFloats>{};
      each_row<K>(column, [&](const T* row, int64_t, int64_t at) {
        const float weight = Weighted ? load_one(weights + at) : 1;
        for (int k = 0; k < K; k++) {
          const auto values = load_floats(row + k * kFloats);
          sums[k] = Weighted ? sums[k] + weight * values : sums[k] + values;
        }
      });
      if (divisor != 1)
        for (auto& sum : sums) sum /= divisor;
      for (int k = 0; k < K; k++) store_floats(output(bag) + column + k * kFloats, sums[k]);
    }
  }

  // The first that is larger than all before it; a NaN only if it is the bag's first.
  template <int K>
  void largest(int64_t bag, int64_t column) const {
    const int64_t to = bag * args_.width + column;
    bool first = true;
    if constexpr (K == 0) {
      float best = 0;
      int64_t place = 0;
      each_row<0>(column, [&](const T* row, int64_t index, int64_t) {
        const float value = load_one(row);
        if (first || value > best) {
          best = value;
          place = index;
        }
        first = false;
      });
      store_one(output(bag) + column, best);
      places_of(to)[0] = static_cast<Index>(place);
    } else {
      using Places = Vector<int32_t, kFloats>;
      Vector<float, kFloats> best[K] = {};
      Places places[K] = {};
      each_row<K>(column, [&](const T* row, int64_t index, int64_t) {
        for (int k = 0; k < K; k++) {
          const auto value = load_floats(row + k * kFloats);
          const Places larger = first ? Places{} - 1 : value > best[k];
          best[k] = larger ? value : best[k];
          places[k] = larger ? Places{} + static_cast<int32_t>(index) : places[k];
        }
        first = false;
      });
      for (int k = 0; k < K; k++) {
        store_floats(output(bag) + column + k * kFloats, best[k]);
        for (int i = 0; i < kFloats; i++) places_of(to)[k * kFloats + i] = places[k][i];
      }
    }
  }

  const BagArgs& args_;
  const T* table_;
  const Index* indices_;
  Range bags_;
  int64_t last_;                               // where this thread's indices end
  int64_t begin_ = 0, end_ = 0, counted_ = 0;  // of the bag
};

template <class T>
bool run_share(const BagArgs& args, Range bags) {
  return args.wide ? Bags<T, int64_t>(args, bags).run() : Bags<T, int32_t>(args, bags).run();
}

bool run_share(const BagArgs& args, Range bags) {
  switch (args.dtype) {
    case DType::f32: return run_share<float>(args, bags);
    case DType::bf16: return run_share<uint16_t>(args, bags);
    default: return run_share<Half>(args, bags);
  }
}

}  // namespace

// False where an index is out of range; the results are then not all written.
bool bags(const BagArgs& args) {
  int bad = 0;
#pragma omp parallel num_threads(args.threads) reduction(| : bad) if (args.threads > 1)
  bad |= !run_share(args, share(args.bags, omp_get_thread_num(), omp_get_num_threads()));
  return !bad;
}

}  // namespace drystone::DRYSTONE_ISA
