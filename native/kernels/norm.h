// Arguments of the normalisation kernel (layer norm, group norm and batch norm).
#pragma once

#include "core/dtype.h"
#include "core/quantisation.h"
#include "kernels/walk.h"

namespace drystone {

struct NormArgs {
  const void* input;
  const void* weight;  // null where there is none, and bias too
  const void* bias;
  void* output;
  DType input_dtype, weight_dtype, bias_dtype, output_dtype;
  Affine output_affine;  // of codes
  Walk kept, reduced;    // all axes but the inner one; reduced are those of the statistics
  InnerAxis inner;
  bool inner_reduced;
  int64_t period;  // where the inner axis is reduced: weight and bias repeat after so many elements of it
  int64_t merged;  // where the inner axis is kept: so many neighbours on it share their statistics
  double eps;
  bool centred;  // otherwise the mean counts as 0 (RMS norm)
  // Where the inner axis is reduced, and where these are not null: the statistics of each step over `kept`.
  float* means;
  float* deviations;  // reciprocals of the standard deviations
  float* variances;   // without eps
  int threads;
};

}  // namespace drystone
