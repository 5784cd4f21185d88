// The kernels' one template. Included by the kernel_<isa>.cpp files alone, which choose the vectors (common/simd.hpp).
#pragma once

#include "common/add_rows.hpp"
#include "common/half.hpp"
#include "common/moments.hpp"
#include "common/multiply.hpp"
#include "dependency_attention/kernel.hpp"

namespace tmor::dependency_attention {
namespace {

inline void finish_row(float* y, const float* x, bool relu, int64_t n) {
  if (x != nullptr) {
    for (int64_t i = 0; i < n; ++i) y[i] += x[i];
  }
  if (!relu) return;
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] < 0.0F ? 0.0F : y[i];  // NaN stays
}

template <typename Vector>
Kernel kernel_of() {
  return {Vector::kLanes,       Vector::kVectors,  multiply<Vector>, multiply_finish<Vector>,
          row_products<Vector>, finish_row,        add_rows,         moments,
          Vector::from_half,    from_bfloat_plain, Vector::to_half,  to_bfloat_plain};
}

}  // namespace
}  // namespace tmor::dependency_attention
