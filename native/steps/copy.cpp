#include "steps/copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

// A part of one output axis along which both offsets are sums of dims: `dims` outermost first.
struct Piece {
  int64_t in_offset = 0, out_offset = 0;
  enum class Source : uint8_t { input, value, zero } source = Source::input;
  std::vector<CopyDim> dims = {};
};

// Where an index of an axis lies; channels of a blocked format go from block to block.
struct Axis {
  int64_t size = 1, stride = 0, block = 1;
  int64_t offset(int64_t index) const { return block == 1 ? index * stride : index / block * stride + index % block; }
};

Axis axis_of(const TensorDesc& desc, int64_t axis) { return {desc.shape[axis], desc.strides[axis], axis == 1 ? desc.format.block : 1}; }

bool same_dims(const Piece& a, const Piece& b) {
  return std::equal(a.dims.begin(), a.dims.end(), b.dims.begin(), b.dims.end(), [](const CopyDim& x, const CopyDim& y) {
    return x.size == y.size && x.in_stride == y.in_stride && x.out_stride == y.out_stride && x.table == y.table;
  });
}

// Runs of like pieces at constant distances become one piece with one dim more.
std::vector<Piece> merge(const std::vector<Piece>& pieces) {
  std::vector<Piece> merged;
  for (size_t i = 0; i < pieces.size();) {
    size_t end = i + 1;
    int64_t in_step = 0, out_step = 0;
    for (; end < pieces.size(); end++) {
      const Piece &before = pieces[end - 1], &next = pieces[end];
      if (next.source != before.source || !same_dims(before, next)) break;
      const int64_t in = next.in_offset - before.in_offset, out = next.out_offset - before.out_offset;
      if (end == i + 1) {
        in_step = in;
        out_step = out;
      } else if (in != in_step || out != out_step) {
        break;
      }
    }
    merged.push_back(pieces[i]);
    if (end > i + 1) {
      auto& dims = merged.back().dims;
      dims.insert(dims.begin(), CopyDim{static_cast<int64_t>(end - i), in_step, out_step, nullptr});
    }
    i = end;
  }
  return merged;
}

// Cuts an output axis into pieces: where the table changes its step, and at the borders of blocks.
class AxisSplitter {
 public:
  AxisSplitter(Axis in, Axis out, const Dims& table) : in_(in), out_(out), table_(table) {}

  std::vector<Piece> pieces() const {
    std::vector<Piece> found;
    for (int64_t o = 0; o < out_.size;) {
      const int64_t end = run_end(o);
      Piece piece{.out_offset = out_.offset(o)};
      if (source(o) < 0) {
        piece.source = Piece::Source::value;
      } else {
        piece.in_offset = in_.offset(source(o));
      }
      if (end > o + 1) {
        const int64_t in_step = source(o) < 0 ? 0 : in_.offset(source(o + 1)) - in_.offset(source(o));
        piece.dims.push_back({end - o, in_step, out_.offset(o + 1) - out_.offset(o), nullptr});
      }
      found.push_back(std::move(piece));
      o = end;
    }
    for (size_t before = 0; found.size() > 1 && before != found.size();) {
      before = found.size();
      found = merge(found);
    }
    if (const int64_t used = out_.size % out_.block) {
      Piece padding{.out_offset = out_.offset(out_.size), .source = Piece::Source::zero};
      padding.dims.push_back({out_.block - used, 0, 1, nullptr});
      found.push_back(std::move(padding));
    }
    return found;
  }

  // Input offsets of all indices, for an axis that would fall into too many pieces.
  std::vector<int64_t> offsets() const {
    std::vector<int64_t> found;
    for (int64_t o = 0; o < out_.size; o++) found.push_back(source(o) < 0 ? kCopyHole : in_.offset(source(o)));
    return found;
  }

 private:
  int64_t source(int64_t o) const { return table_.empty() ? o : table_[o]; }

  // The end of the run of output indices from `begin` that lie in one block, and whose sources have one step and lie in one block.
  int64_t run_end(int64_t begin) const {
    const int64_t limit = out_.block == 1 ? out_.size : std::min(out_.size, (begin / out_.block + 1) * out_.block);
    int64_t end = begin + 1;
    if (end == limit || (source(begin) < 0) != (source(end) < 0)) return end;
    if (source(begin) < 0) {
      while (end < limit && source(end) < 0) end++;
      return end;
    }
    const int64_t step = source(end) - source(begin);
    const auto same_block = [&](int64_t o) { return in_.block == 1 || source(o) / in_.block == source(begin) / in_.block; };
    while (end < limit && source(end) >= 0 && source(end) - source(end - 1) == step && same_block(end)) end++;
    return end;
  }

  Axis in_, out_;
  const Dims& table_;
};

uint64_t bits_of(double value, DType dtype) {
  uint64_t bits = 0;
  const auto put = [&](auto typed) { std::memcpy(&bits, &typed, sizeof typed); };
  switch (dtype) {
    case DType::f64: put(value); break;
    case DType::f32: put(static_cast<float>(value)); break;
    case DType::f16: {
      if (value != 0) throw std::invalid_argument("copy fills float16 with 0 only");
      break;
    }
    case DType::bf16: {
      const float single = static_cast<float>(value);
      uint32_t word;
      std::memcpy(&word, &single, sizeof word);
      put(static_cast<uint16_t>(single != single ? 0x7fc0 : (word + 0x7fff + ((word >> 16) & 1)) >> 16));
      break;
    }
    case DType::s64: put(static_cast<int64_t>(value)); break;
    case DType::s32: put(static_cast<int32_t>(value)); break;
    case DType::s16: put(static_cast<int16_t>(value)); break;
    case DType::s8: put(static_cast<int8_t>(value)); break;
    case DType::u8: put(static_cast<uint8_t>(value)); break;
    case DType::boolean: put(static_cast<uint8_t>(value != 0)); break;
  }
  return bits;
}

// The loop nest over `dims`, those that run on joined, and with the inner loops that suit the kernel best. `fills`: a value is written, and
// nothing read. Its offsets are those that the order of its loops begins at.
CopyBox make_box(std::vector<CopyDim> dims, bool fills) {
  std::erase_if(dims, [](const CopyDim& dim) { return dim.size == 1 && !dim.table; });
  if (fills)
    for (CopyDim& dim : dims) {
      dim.in_stride = 0;
      dim.table = nullptr;
    }
  std::stable_sort(dims.begin(), dims.end(), [](const CopyDim& a, const CopyDim& b) { return a.out_stride > b.out_stride; });
  std::vector<CopyDim> joined;
  for (const CopyDim& dim : dims) {
    CopyDim* last = joined.empty() ? nullptr : &joined.back();
    if (last && !last->table && !dim.table && last->out_stride == dim.out_stride * dim.size &&
        last->in_stride == dim.in_stride * dim.size) {
      *last = {last->size * dim.size, dim.in_stride, dim.out_stride, nullptr};
    } else {
      joined.push_back(dim);
    }
  }
  constexpr CopyDim single{1, 1, 1, nullptr};
  if (joined.empty()) joined.push_back(single);

  CopyBox box{};
  const CopyDim last = joined.back();
  const auto stream = std::find_if(joined.begin(), joined.end() - 1,
                                   [](const CopyDim& dim) { return !dim.table && std::abs(dim.in_stride) == 1 && dim.size >= 4; });
  if (fills) {
    box.mode = CopyMode::fill;
  } else if (last.table) {
    box.mode = CopyMode::gather;
  } else if (last.in_stride == 1 && last.out_stride == 1) {
    box.mode = CopyMode::rows;
  } else if (last.out_stride == 1 && stream != joined.end() - 1) {
    box.mode = CopyMode::transpose;
    if (stream->in_stride < 0) {  // from its other end on
      box.in_offset = stream->in_stride * (stream->size - 1);
      box.out_offset = stream->out_stride * (stream->size - 1);
      *stream = {stream->size, -stream->in_stride, -stream->out_stride, nullptr};
    }
    std::rotate(stream, stream + 1, joined.end() - 1);
  } else {
    box.mode = CopyMode::strided;
  }
  // Short loops around short rows cost more than the rows: the longest dim comes next to the columns.
  if (joined.size() > 2 && box.mode != CopyMode::transpose && last.size <= 64 && joined[joined.size() - 2].size < 4) {
    const auto longest = std::max_element(joined.begin(), joined.end() - 1, [](const CopyDim& a, const CopyDim& b) {
      return (a.table ? 0 : a.size) < (b.table ? 0 : b.size);
    });
    std::rotate(longest, longest + 1, joined.end() - 1);
  }
  if (joined.size() == 1 || joined[joined.size() - 2].table) joined.insert(joined.end() - 1, single);
  if (joined.size() > kCopyMaxRank) throw std::invalid_argument("copy takes at most 16 dims, the blocks counted");
  box.rank = static_cast<int>(joined.size());
  std::copy(joined.begin(), joined.end(), box.dims);
  return box;
}

class CopyStep final : public Step {
 public:
  CopyStep(const TensorDesc& input, const TensorDesc& output, const std::vector<int64_t>& axes, const std::vector<Dims>& tables,
           double value)
      : kernel_(require_kernels().copy), from_(input.dtype), to_(output.dtype), elements_(output.numel()) {
    implementation = kernel_name("copy");
    if (from_ != to_ && !(is_float(from_) && is_float(to_)))
      throw std::invalid_argument(std::string("copy does not convert ") + name_of(from_) + " to " + name_of(to_));
    if (elements_ == 0) return;
    check(input, output, axes, tables);
    std::vector<std::vector<Piece>> pieces;
    for (int64_t i = 0; i < output.rank(); i++) pieces.push_back(split(input, output, i, axes[i], tables[i]));
    int64_t count = 1;
    for (const auto& axis : pieces) count *= static_cast<int64_t>(axis.size());
    if (count > 4096) throw std::invalid_argument("copy would fall into " + std::to_string(count) + " boxes");
    add_boxes(pieces, bits_of(value, output.dtype));
  }

  void run(const Run& run, StepState*) const override {
    if (boxes_.empty()) return;
    kernel_({.input = run.slots[0],
             .output = run.slots[1],
             .from = from_,
             .to = to_,
             .boxes = boxes_.data(),
             .count = static_cast<int64_t>(boxes_.size()),
             .threads = threads_for(elements_, run.threads)});
  }

 private:
  static void check(const TensorDesc& input, const TensorDesc& output, const std::vector<int64_t>& axes, const std::vector<Dims>& tables) {
    const size_t rank = output.shape.size();
    if (axes.size() != rank || tables.size() != rank)
      throw std::invalid_argument("copy needs an axis and a table for each axis of its output");
    std::vector<bool> read(input.shape.size());
    for (size_t i = 0; i < rank; i++) {
      if (axes[i] < -1 || axes[i] >= input.rank()) throw std::invalid_argument("copy reads an axis that its input does not have");
      if (output.strides[i] <= 0 && output.shape[i] > 1) throw std::invalid_argument("copy needs an output with positive strides");
      if (axes[i] >= 0 && read[axes[i]]) throw std::invalid_argument("copy reads an axis of its input twice");
      if (axes[i] >= 0) read[axes[i]] = true;
      const int64_t size = axes[i] < 0 ? 1 : input.shape[axes[i]];
      if (tables[i].empty()) {
        if (axes[i] >= 0 && output.shape[i] > size) throw std::invalid_argument("copy needs a table for an axis that grows");
        continue;
      }
      if (static_cast<int64_t>(tables[i].size()) != output.shape[i]) throw std::invalid_argument("a table of copy does not fit its axis");
      for (int64_t index : tables[i])
        if (index < -1 || (axes[i] >= 0 && index >= size)) throw std::invalid_argument("an index of copy lies outside of its input");
    }
    for (size_t axis = 0; axis < read.size(); axis++)
      if (!read[axis] && input.shape[axis] != 1) throw std::invalid_argument("copy leaves an axis of its input unread");
  }

  std::vector<Piece> split(const TensorDesc& input, const TensorDesc& output, int64_t out_axis, int64_t in_axis, const Dims& table) {
    const Axis out = axis_of(output, out_axis);
    const Axis in = in_axis < 0 ? Axis{} : axis_of(input, in_axis);
    const AxisSplitter splitter(in, out, table);
    std::vector<Piece> pieces = splitter.pieces();
    if (pieces.size() > 8 && out.block == 1) {
      tables_.push_back(splitter.offsets());
      Piece whole;
      whole.dims.push_back({out.size, 0, out.stride, tables_.back().data()});
      return {whole};
    }
    return pieces;
  }

  // One box for each choice of a piece on every axis.
  void add_boxes(const std::vector<std::vector<Piece>>& pieces, uint64_t value) {
    std::vector<size_t> choice(pieces.size());
    for (;;) {
      std::vector<CopyDim> dims;
      int64_t in_offset = 0, out_offset = 0;
      auto source = Piece::Source::input;
      for (size_t axis = 0; axis < pieces.size(); axis++) {
        const Piece& piece = pieces[axis][choice[axis]];
        dims.insert(dims.end(), piece.dims.begin(), piece.dims.end());
        in_offset += piece.in_offset;
        out_offset += piece.out_offset;
        source = std::max(source, piece.source);
      }
      CopyBox box = make_box(std::move(dims), source != Piece::Source::input);
      box.in_offset += in_offset;
      box.out_offset += out_offset;
      box.value = source == Piece::Source::zero ? 0 : value;
      boxes_.push_back(box);
      size_t axis = 0;
      while (axis < pieces.size() && ++choice[axis] == pieces[axis].size()) choice[axis++] = 0;
      if (axis == pieces.size()) return;
    }
  }

  void (*kernel_)(const CopyArgs&);
  DType from_, to_;
  int64_t elements_;
  std::vector<CopyBox> boxes_;
  std::vector<std::vector<int64_t>> tables_;  // moved, never resized: boxes point into them
};

}  // namespace

void copy_elements(DType dtype, const void* input, void* output, std::vector<CopyDim> dims, int threads) {
  const CopyBox box = make_box(std::move(dims), false);
  kernels()->copy({.input = input, .output = output, .from = dtype, .to = dtype, .boxes = &box, .count = 1, .threads = threads});
}

std::shared_ptr<Step> make_copy(const TensorDesc& input, const TensorDesc& output, const std::vector<int64_t>& axes,
                                const std::vector<Dims>& tables, double value) {
  return std::make_shared<CopyStep>(input, output, axes, tables, value);
}

}  // namespace drystone
