#pragma once

#include <optional>
#include <string>

#include "kernels/depthwise_codes.h"

namespace drystone {

// A depthwise convolution of codes in integers: its plan and its weights.
class DepthwiseCodes {
 public:
  // Nothing where the kernel does not take it.
  static std::optional<DepthwiseCodes> of(const DepthwiseArgs& args, int32_t zero_point, int64_t threads);

  void run(const DepthwiseArgs& args, const void* weights) const;  // args: with the tensors, planned by plan()
  int64_t packed_bytes() const { return weights_bytes() + vectors() * lanes_ * 4; }
  std::string packed_key() const;
  void pack(const int8_t* source, std::byte* packed) const;  // (O, 1, *kernel), dense

  const DepthwiseArgs& args() const { return args_.common; }
  std::string name() const { return args_.dot ? "_vnni" : "_int8"; }

 private:
  void plan(int64_t threads);
  int64_t vectors() const;
  int64_t weights_bytes() const { return vectors() * args_.common.kernel[1] * args_.together * lanes_ * 4; }

  DepthwiseCodesArgs args_{};
  int64_t lanes_ = 0;
};

}  // namespace drystone
