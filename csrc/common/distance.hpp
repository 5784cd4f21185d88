// The distance that decides who is a neighbour, one definition for every backend.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace tmor {

// total + difference^2 with both operations rounded: no fused multiply-add, or backends would disagree on exact ties.
// Host files that include this are compiled with -ffp-contract=off.
TMOR_HOST_DEVICE double add_square(double total, double difference) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(total, __dmul_rn(difference, difference));
#else
  return total + difference * difference;
#endif
}

// Squared Euclidean distance in float64 from differences, summed from the first coordinate to the last.
template <typename Scalar>
TMOR_HOST_DEVICE double squared_distance(const Scalar* x, const Scalar* y, int64_t dimensions) {
  double total = 0.0;
  for (int64_t k = 0; k < dimensions; ++k) {
    total = add_square(total, static_cast<double>(x[k]) - static_cast<double>(y[k]));
  }
  return total;
}

}  // namespace tmor
