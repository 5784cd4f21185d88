// The kernels' one text. Included by the kernel_<isa>.cpp files alone.
#pragma once

#include "common/add_rows.hpp"
#include "common/multiply.hpp"
#include "temporal_convolution/kernel.hpp"

namespace tmor::temporal_convolution {
namespace {

template <int64_t kWidth>
void pack(const float* from, int64_t n, int64_t rows, int64_t columns, float* to) {
  if (columns == kWidth) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < kWidth; ++j) to[r * kWidth + j] = from[r * n + j];
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) to[r * kWidth + j] = from[r * n + j];
    for (int64_t j = columns; j < kWidth; ++j) to[r * kWidth + j] = 0.0F;
  }
}

template <typename Vector>
struct Panels {
  static constexpr int kVectors = 2;
  static constexpr int kHeight = Vector::kSums / kVectors;
  static constexpr int64_t kWidth = kVectors * Vector::kLanes;

  static void add_products(const float* outputs, const float* inputs, int64_t rows, int64_t height, float* sums) {
    const AsTheyAre<Vector> as_they_are;
    // Distances known to the compiler: it needs no registers for them.
    if (height == kHeight) {
      return multiply_block<Vector, kHeight, kVectors>(outputs, 1, kHeight, inputs, kWidth, rows, sums, kWidth, true,
                                                       as_they_are);
    }
    multiply_rest<Vector, kHeight - 1, kVectors>(outputs, 1, kHeight, inputs, kWidth, rows, sums, kWidth, height, true,
                                                 as_they_are);
  }
};

template <typename Vector>
Kernel kernel_of() {
  using Our = Panels<Vector>;
  return {Our::kWidth, Our::kHeight, pack<Our::kWidth>, pack<Our::kHeight>, Our::add_products, add_rows};
}

}  // namespace
}  // namespace tmor::temporal_convolution
