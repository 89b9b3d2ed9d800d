// What the depthwise convolution of codes in integers reads, beside what the one in floats does: x and output in channels_last, one
// output a channel, kernels of at most two axes.
#pragma once

#include "kernels/depthwise.h"

namespace drystone {

// Taps of a row whose products an instruction adds: bytes by VPDPBUSD, or words by VPMADDWD.
constexpr int64_t depthwise_codes_taps(bool dot) { return dot ? 4 : 2; }
constexpr int64_t depthwise_codes_vectors = 4;  // of channels, in a group

struct DepthwiseCodesArgs {
  DepthwiseArgs common;
  bool dot;                              // by VPDPBUSD
  const std::byte* weights = nullptr;    // [group][row of the kernel][taps together][vector][lane][tap]
  const int32_t* weight_sums = nullptr;  // of a channel
  int32_t zero;                          // the zero point of x as u8
  int64_t together;                      // taps of a row of the kernel, over those of an instruction
  int64_t apart;                         // from the entry of an output's taps to that of its next ones
};

}  // namespace drystone
