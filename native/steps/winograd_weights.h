#pragma once

#include <algorithm>
#include <vector>

#include "kernels/winograd.h"

namespace drystone {

// Row p of G, which transforms the weights: (1, p, p^2) / M'(p) for the finite points, M(x) the product of all x - p.
struct WeightTransform {
  double rows[6][3] = {};

  explicit WeightTransform(int tile) {
    std::vector<double> points = {0, 1, -1};
    if (tile == 4) points = {0, winograd_a, -winograd_a, winograd_b, -winograd_b};
    int count = 0;
    for (double p : points) {
      double divisor = 1;
      for (double q : points)
        if (q != p) divisor *= p - q;
      const double row[3] = {1 / divisor, p / divisor, p * p / divisor};
      std::copy(row, row + 3, rows[count++]);
    }
    rows[count][2] = 1;
  }
};

}  // namespace drystone
