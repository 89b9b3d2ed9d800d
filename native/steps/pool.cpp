#include "steps/pool.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "kernels/pool.h"
#include "steps/kernel_step.h"
#include "steps/spatial.h"

namespace drystone {

namespace {

class PoolStep final : public KernelStep<PoolArgs> {
 public:
  PoolStep(const TensorDesc& input, const TensorDesc& output, bool max, const Windows& windows, const Tables& divisors,
           int64_t divisor_override, const Sliding* columns_of_places = nullptr)
      : KernelStep("pool", &KernelTable::pool), with_places_(columns_of_places) {
    require_alike(input, output, "pool");
    const bool takes_codes = !with_places_;
    SpatialView in = spatial_view(input, "pool", takes_codes);
    const SpatialView out = spatial_view(output, "pool", takes_codes);
    if (is_code(input.dtype) && input.has_padding())
      throw std::invalid_argument("pool takes codes of whole blocks of channels only, not " + input.str());
    const size_t axes = input.shape.size() - 2;
    if (windows.size() != axes) throw std::invalid_argument("pool needs windows for each spatial axis");
    const bool divides = !max && divisor_override <= 0;
    if (divides && divisors.size() != axes) throw std::invalid_argument("avg pool needs divisors for each spatial axis");
    for (size_t i = 0; i < 3; i++) {
      const size_t missing = 3 - axes;
      windows_[i] = i < missing ? std::vector<PoolWindow>{{0, 1, 1}}
                                : check_windows(windows[i - missing], in.size[i], out.size[i], max && input.has_padding(), with_places_);
      divisors_[i] = divides && i >= missing ? divisors[i - missing] : std::vector<int64_t>(windows_[i].size(), 1);
      if (divisors_[i].size() != windows_[i].size()) throw std::invalid_argument("avg pool needs a divisor for each output index");
    }
    static_cast<SpatialArgs&>(args_) = spatial_args(input, in, out);
    args_.max = max;
    args_.in_affine = input.affine();
    args_.out_affine = output.affine();
    args_.divisor_override = divisor_override;
    for (int i = 0; i < 3; i++) {
      args_.in_stride[i] = in.stride[i];
      args_.out_stride[i] = out.stride[i];
      args_.out_size[i] = out.size[i];
    }
    if (columns_of_places) {
      tell_places(input, output, in, *columns_of_places);
    } else {
      while (input.format == Format::plain && join_rows(in.size)) {
      }
      find_interior();
    }
    for (int i = 0; i < 3; i++) {
      args_.windows[i] = windows_[i].data();
      args_.divisors[i] = divisors_[i].data();
    }
    if (output.numel() > 0) elements_ = std::max(input.numel(), output.numel());
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    PoolArgs args = args_;
    args.input = run.slots[0];
    args.output = run.slots[1];
    if (with_places_) args.places = static_cast<int64_t*>(run.slots[2]);
    launch(args, run.threads);
  }

 private:
  static std::vector<PoolWindow> check_windows(const Windows::value_type& windows, int64_t in_size, int64_t out_size, bool never_empty,
                                               bool keep_starts) {
    if (static_cast<int64_t>(windows.size()) != out_size) throw std::invalid_argument("pool needs a window for each output index");
    std::vector<PoolWindow> checked;
    for (const auto& [start, stop, step] : windows) {
      if (step < 1) throw std::invalid_argument("pool needs windows with positive steps");
      const bool empty = start >= stop;
      if (!empty && (start < 0 || stop > in_size)) throw std::invalid_argument("a window of pool reaches outside of its input");
      // The maximum of nothing is -inf, which must not get into the channels that pad a block.
      if (empty && never_empty) throw std::invalid_argument("max pool of padded blocks takes no empty windows");
      const int64_t nowhere = keep_starts ? start : 0;  // where the maximum of nothing lies for torch
      checked.push_back(empty ? PoolWindow{nowhere, nowhere, 1} : PoolWindow{start, stop, step});
    }
    return checked;
  }

  void tell_places(const TensorDesc& input, const TensorDesc& output, const SpatialView& in, const Sliding& columns) {
    const bool dense = input.strides == TensorDesc::dense(input.dtype, input.format, input.shape).strides &&
                       output.strides == TensorDesc::dense(output.dtype, output.format, output.shape).strides;
    if (!dense || (input.format != Format::plain && input.format != Format::channels_last))
      throw std::invalid_argument("max pool tells the places of dense tensors, plain or channels_last");
    const double volume = static_cast<double>(in.size[0]) * in.size[1] * in.size[2];
    if (volume > std::numeric_limits<int32_t>::max()) throw std::invalid_argument("max pool tells places of 32 bits");
    std::copy_n(in.size, 3, args_.in_size);
    args_.first_column = -columns.padding;
    args_.column_stride = columns.stride;
    args_.column_taps = columns.size;
    args_.column_step = columns.dilation;
  }

  // Whole rows that follow each other in memory are one row (as in global pooling), if that is not so long that sums lose digits.
  // Drops the last axis, moves the others up, and says whether it did.
  bool join_rows(int64_t* in_size) {
    const int64_t width = in_size[2];
    if (in_size[1] == 1 || args_.out_size[2] != 1 || width * in_size[1] > 4096) return false;
    if (args_.in_stride[1] != width * args_.in_stride[2]) return false;
    const PoolWindow& row = windows_[2][0];
    if (row.start != 0 || row.stop != width || row.step != 1) return false;
    for (const PoolWindow& window : windows_[1])
      if (window.step != 1) return false;
    for (PoolWindow& window : windows_[1]) window = {window.start * width, window.stop * width, 1};
    for (int64_t& divisor : divisors_[1]) divisor *= divisors_[2][0];
    in_size[1] *= width;
    args_.in_stride[1] = args_.in_stride[2];
    for (int i = 2; i > 0; i--) {
      in_size[i] = in_size[i - 1];
      args_.in_stride[i] = args_.in_stride[i - 1];
      args_.out_stride[i] = args_.out_stride[i - 1];
      args_.out_size[i] = args_.out_size[i - 1];
      windows_[i] = windows_[i - 1];
      divisors_[i] = divisors_[i - 1];
    }
    in_size[0] = 1;
    args_.in_stride[0] = args_.out_stride[0] = 0;
    args_.out_size[0] = 1;
    windows_[0] = {{0, 1, 1}};
    divisors_[0] = {1};
    return true;
  }

  // The longest run of columns whose windows differ only by a constant shift.
  void find_interior() {
    const auto& columns = windows_[2];
    const auto taps = [](const PoolWindow& w) { return (w.stop - w.start + w.step - 1) / w.step; };
    for (size_t begin = 0; begin < columns.size();) {
      size_t end = begin + 1;
      const int64_t stride = end < columns.size() ? columns[end].start - columns[begin].start : 1;
      while (end < columns.size() && taps(columns[end]) == taps(columns[begin]) && columns[end].step == columns[begin].step &&
             columns[end].start - columns[end - 1].start == stride && stride > 0)
        end++;
      if (static_cast<int64_t>(end - begin) > args_.interior_end - args_.interior_begin) {
        args_.interior_begin = static_cast<int64_t>(begin);
        args_.interior_end = static_cast<int64_t>(end);
        args_.interior_stride = stride;
      }
      begin = end;
    }
  }

  std::vector<PoolWindow> windows_[3];
  std::vector<int64_t> divisors_[3];
  bool with_places_;
};

}  // namespace

Windows::value_type windows_of(const Sliding& sliding, int64_t inputs, int64_t outputs) {
  const auto& [size, stride, padding, dilation] = sliding;
  Windows::value_type windows;
  windows.reserve(outputs);
  for (int64_t i = 0; i < outputs; i++) {
    const int64_t start = i * stride - padding, stop = std::min(start + (size - 1) * dilation + 1, inputs);
    windows.push_back({start < 0 ? start + (dilation - 1 - start) / dilation * dilation : start, stop, dilation});
  }
  return windows;
}

std::shared_ptr<Step> make_max_pool_with_places(const TensorDesc& input, const TensorDesc& output, const std::vector<Sliding>& axes) {
  if (axes.size() + 2 != input.shape.size() || output.rank() != input.rank())
    throw std::invalid_argument("max pool needs a window for each spatial axis");
  Windows windows;
  for (size_t i = 0; i < axes.size(); i++) windows.push_back(windows_of(axes[i], input.shape[2 + i], output.shape[2 + i]));
  return std::make_shared<PoolStep>(input, output, true, windows, Tables{}, 0, &axes.back());
}

std::shared_ptr<Step> make_pool(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Windows& windows,
                                const Tables& divisors, int64_t divisor_override) {
  if (kind != "max" && kind != "avg") throw std::invalid_argument("pool is 'max' or 'avg', not '" + kind + "'");
  return std::make_shared<PoolStep>(input, output, kind == "max", windows, divisors, divisor_override);
}

}  // namespace drystone
