// Data movement: every permutation, slice, padding, expansion, concatenation and reorder between formats, with or without
// conversion between float32 and bfloat16. Each box of CopyArgs is a loop nest; threads share the rows of each box.
//
// Rows that are contiguous on both sides are copied with vectors or memcpy. Where the output runs along one dim and the input along
// another (plain to channels_last, say), tiles are transposed in registers: 16 lines of the input are read as streams, and whole
// cache lines written.
#include "kernels/copy.h"

#include <omp.h>

#include "kernels/transpose.h"

namespace drystone::DRYSTONE_ISA {

namespace {

template <class In, class Out>
inline Out element(In value) {
  if constexpr (sizeof(In) == sizeof(Out)) {
    return value;
  } else {
    Out result;
    store_one(&result, load_one(&value));
    return result;
  }
}

// The position in the dims of a box that lie around its two inner ones.
class Walker {
 public:
  Walker(const CopyBox& box, int64_t position) : box_(box), in(box.in_offset), out(box.out_offset) {
    for (int d = box.rank - 3; d >= 0; d--) {
      index_[d] = position % box.dims[d].size;
      position /= box.dims[d].size;
      out += index_[d] * box.dims[d].out_stride;
      move_input(box.dims[d], index_[d], 1);
    }
  }

  void next() {
    for (int d = box_.rank - 3; d >= 0; d--) {
      const CopyDim& dim = box_.dims[d];
      move_input(dim, index_[d], -1);
      out -= index_[d] * dim.out_stride;
      index_[d] = index_[d] + 1 < dim.size ? index_[d] + 1 : 0;
      out += index_[d] * dim.out_stride;
      move_input(dim, index_[d], 1);
      if (index_[d]) return;
    }
  }

  bool hole() const { return holes_ != 0; }

 private:
  void move_input(const CopyDim& dim, int64_t index, int sign) {
    const int64_t offset = dim.table ? dim.table[index] : index * dim.in_stride;
    if (offset == kCopyHole) {
      holes_ += sign;
    } else {
      in += sign * offset;
    }
  }

  const CopyBox& box_;
  int64_t index_[kCopyMaxRank];
  int holes_ = 0;

 public:
  int64_t in, out;
};

// The two inner dims: `rows` rows of `columns`; strides of rows and columns on both sides.
struct Plane {
  int64_t rows, columns;
  int64_t in_row, out_row, in_column, out_column;
  const int64_t* table;  // of the columns
};

template <class Out>
void fill_plane(const Plane& p, Out* out, Out value) {
  for (int64_t r = 0; r < p.rows; r++, out += p.out_row) {
    if (p.out_column == 1) {
#pragma omp simd
      for (int64_t c = 0; c < p.columns; c++) out[c] = value;
    } else {
      for (int64_t c = 0; c < p.columns; c++) out[c * p.out_column] = value;
    }
  }
}

template <int Bytes, class T>
void copy_short_rows(const Plane& p, const T* in, T* out) {
  for (int64_t r = 0; r < p.rows; r++) __builtin_memcpy(out + r * p.out_row, in + r * p.in_row, Bytes);
}

template <class In, class Out>
void copy_rows(const Plane& p, const In* in, Out* out) {
  if constexpr (sizeof(In) == sizeof(Out)) {
    const int64_t bytes = p.columns * static_cast<int64_t>(sizeof(In));
    switch (bytes) {
      case 8: return copy_short_rows<8>(p, in, out);
      case 16: return copy_short_rows<16>(p, in, out);
      case 32: return copy_short_rows<32>(p, in, out);
      case 64: return copy_short_rows<64>(p, in, out);
    }
    if (bytes >= 512) {
      for (int64_t r = 0; r < p.rows; r++) __builtin_memcpy(out + r * p.out_row, in + r * p.in_row, bytes);
      return;
    }
    constexpr int width = 32 / sizeof(In);
    if (p.columns >= width) {  // the last vector overlaps the one before it
      for (int64_t r = 0; r < p.rows; r++) {
        const In* from = in + r * p.in_row;
        Out* to = out + r * p.out_row;
        for (int64_t c = 0; c < p.columns - width; c += width) store_raw(to + c, load_raw<width>(from + c));
        store_raw(to + p.columns - width, load_raw<width>(from + p.columns - width));
      }
      return;
    }
  }
  for (int64_t r = 0; r < p.rows; r++) {
    const In* from = in + r * p.in_row;
    Out* to = out + r * p.out_row;
#pragma omp simd
    for (int64_t c = 0; c < p.columns; c++) to[c] = element<In, Out>(from[c]);
  }
}

template <class In, class Out>
void gather_plane(const Plane& p, const In* in, Out* out, Out value) {
  for (int64_t r = 0; r < p.rows; r++, in += p.in_row, out += p.out_row) {
    for (int64_t c = 0; c < p.columns; c++) {
      const int64_t offset = p.table[c];
      out[c * p.out_column] = offset == kCopyHole ? value : element<In, Out>(in[offset]);
    }
  }
}

template <int64_t InColumn, class In, class Out>
void copy_fixed_stride(const Plane& p, const In* in, Out* out) {
  for (int64_t r = 0; r < p.rows; r++) {
    const In* from = in + r * p.in_row;
    Out* to = out + r * p.out_row;
#pragma omp simd
    for (int64_t c = 0; c < p.columns; c++) to[c] = element<In, Out>(from[c * InColumn]);
  }
}

template <class In, class Out>
void copy_strided(const Plane& p, const In* in, Out* out) {
  if (p.out_column == 1) {
    switch (p.in_column) {  // expanded, sliced with step 2, flipped
      case 0: return copy_fixed_stride<0>(p, in, out);
      case 2: return copy_fixed_stride<2>(p, in, out);
      case -1: return copy_fixed_stride<-1>(p, in, out);
    }
  }
  for (int64_t r = 0; r < p.rows; r++)
    for (int64_t c = 0; c < p.columns; c++) out[r * p.out_row + c * p.out_column] = element<In, Out>(in[r * p.in_row + c * p.in_column]);
}

// Few columns, interleaved: the columns are streams of the input.
template <int Columns, class In, class Out>
void interleave(const Plane& p, const In* in, Out* out) {
  if (p.out_row == Columns) {
#pragma omp simd
    for (int64_t r = 0; r < p.rows; r++)
      for (int c = 0; c < Columns; c++) out[r * Columns + c] = element<In, Out>(in[c * p.in_column + r]);
  } else {
    for (int64_t r = 0; r < p.rows; r++)
      for (int c = 0; c < Columns; c++) out[r * p.out_row + c] = element<In, Out>(in[c * p.in_column + r]);
  }
}

// W x W tiles, then smaller ones along the lower and the right edge.
template <int W, class In, class Out>
void transpose_plane(const Plane& p, const In* in, Out* out) {
  switch (p.columns) {
    case 1: return interleave<1>(p, in, out);
    case 2: return interleave<2>(p, in, out);
    case 3: return interleave<3>(p, in, out);
  }
  if constexpr (W < 4) {
    for (int64_t r = 0; r < p.rows; r++)
      for (int64_t c = 0; c < p.columns; c++) out[r * p.out_row + c] = element<In, Out>(in[c * p.in_column + r]);
  } else {
    const int64_t rows = p.rows / W * W, columns = p.columns / W * W;
    // A cache line of the output is finished before the next row's: strides that are powers of two leave little of L1.
    constexpr int64_t line = 64 / sizeof(Out) > W ? 64 / sizeof(Out) : W;
    for (int64_t c0 = 0; c0 < columns; c0 += line)
      for (int64_t r = 0; r < rows; r += W)
        for (int64_t c = c0; c < columns && c < c0 + line; c += W)
          transpose_tile<W>(in + c * p.in_column + r, out + r * p.out_row + c, p.in_column, p.out_row);
    Plane rest = p;
    if (rows < p.rows) {
      rest.rows = p.rows - rows;
      rest.columns = columns;
      if (columns) transpose_plane<W / 2>(rest, in + rows, out + rows * p.out_row);
    }
    if (columns < p.columns) {
      rest.rows = p.rows;
      rest.columns = p.columns - columns;
      transpose_plane<W / 2>(rest, in + columns * p.in_column, out + columns);
    }
  }
}

template <class In, class Out>
void copy_plane(const CopyBox& box, const Plane& p, bool hole, const In* in, Out* out) {
  Out value;
  __builtin_memcpy(&value, &box.value, sizeof value);
  constexpr int wide = sizeof(Out) == 8 ? kVectorBytes / 8 : sizeof(Out) == 4 ? kFloats : 16;
  if (hole) return fill_plane(p, out, value);
  switch (box.mode) {
    case CopyMode::fill: return fill_plane(p, out, value);
    case CopyMode::rows: return copy_rows(p, in, out);
    case CopyMode::transpose: return transpose_plane<wide>(p, in, out);
    case CopyMode::gather: return gather_plane(p, in, out, value);
    case CopyMode::strided: return copy_strided(p, in, out);
  }
}

// Pieces of the two inner dims are what threads share: rows in runs of at most `row_run`, columns in runs of `column_run`.
template <class In, class Out>
void copy_box(const CopyBox& box, const In* in, Out* out, int thread, int threads) {
  const CopyDim &row = box.dims[box.rank - 2], &column = box.dims[box.rank - 1];
  int64_t outer = 1;
  for (int d = 0; d < box.rank - 2; d++) outer *= box.dims[d].size;

  int64_t row_run = row.size, column_run = column.size;
  if (outer < 4 * threads && threads > 1) {
    const int64_t wanted = (4 * threads + outer - 1) / outer;
    row_run = (row.size + wanted - 1) / wanted;
    if (box.mode == CopyMode::transpose) row_run = (row_run + 15) / 16 * 16;
    if (row.size < wanted) {
      column_run = (column.size + wanted - 1) / wanted;
      column_run = (column_run + 63) / 64 * 64;
    }
  }
  const int64_t row_runs = (row.size + row_run - 1) / row_run, column_runs = (column.size + column_run - 1) / column_run;
  const int64_t items = outer * row_runs * column_runs;
  const int64_t begin = items * thread / threads, end = items * (thread + 1) / threads;
  if (begin == end) return;

  Walker walker(box, begin / (row_runs * column_runs));
  int64_t r = begin / column_runs % row_runs, c = begin % column_runs;
  for (int64_t item = begin; item < end; item++) {
    const int64_t r0 = r * row_run, c0 = c * column_run;
    const Plane plane = {
        .rows = r0 + row_run < row.size ? row_run : row.size - r0,
        .columns = c0 + column_run < column.size ? column_run : column.size - c0,
        .in_row = row.in_stride,
        .out_row = row.out_stride,
        .in_column = column.in_stride,
        .out_column = column.out_stride,
        .table = column.table ? column.table + c0 : nullptr,
    };
    const int64_t in_column = column.table ? 0 : c0 * column.in_stride;
    copy_plane(box, plane, walker.hole(), in + walker.in + r0 * row.in_stride + in_column,
               out + walker.out + r0 * row.out_stride + c0 * column.out_stride);
    if (++c == column_runs) {
      c = 0;
      if (++r == row_runs) {
        r = 0;
        walker.next();
      }
    }
  }
}

template <class In, class Out>
void copy_boxes(const CopyArgs& args, int thread, int threads) {
  for (int64_t b = 0; b < args.count; b++)
    copy_box(args.boxes[b], static_cast<const In*>(args.input), static_cast<Out*>(args.output), thread, threads);
}

void copy_share(const CopyArgs& args, int thread, int threads) {
  if (args.from != args.to)
    return args.from == DType::f32 ? copy_boxes<float, uint16_t>(args, thread, threads)
                                   : copy_boxes<uint16_t, float>(args, thread, threads);
  switch (size_of(args.from)) {
    case 1: return copy_boxes<uint8_t, uint8_t>(args, thread, threads);
    case 2: return copy_boxes<uint16_t, uint16_t>(args, thread, threads);
    case 4: return copy_boxes<uint32_t, uint32_t>(args, thread, threads);
    default: return copy_boxes<uint64_t, uint64_t>(args, thread, threads);
  }
}

}  // namespace

void copy(const CopyArgs& args) {
  if (args.threads == 1) return copy_share(args, 0, 1);
#pragma omp parallel num_threads(args.threads)
  copy_share(args, omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace drystone::DRYSTONE_ISA
