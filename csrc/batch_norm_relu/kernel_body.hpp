// The kernels' one text, which the compiler makes vectors of. Included by the kernel_<isa>.cpp files alone.
#pragma once

#include "batch_norm_relu/kernel.hpp"
#include "common/half.hpp"
#include "common/moments.hpp"

namespace tmor::batch_norm_relu {
namespace {

template <bool kShortcut, bool kRelu>
void normalise_rows(const float* x, const float* shortcut, const float* mean, const float* scale, const float* bias,
                    float* out, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * n;
    float* to = out + r * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      float y = (from[j] - mean[j]) * scale[j] + bias[j];
      if (kShortcut) y += shortcut[r * n + j];
      to[j] = kRelu && y < 0.0F ? 0.0F : y;  // NaN stays
    }
  }
}

inline void normalise(const float* x, const float* shortcut, const float* mean, const float* scale, const float* bias,
                      bool relu, float* out, int64_t rows, int64_t n) {
  if (shortcut != nullptr) {
    (relu ? normalise_rows<true, true> : normalise_rows<true, false>)(x, shortcut, mean, scale, bias, out, rows, n);
  } else {
    (relu ? normalise_rows<false, true> : normalise_rows<false, false>)(x, shortcut, mean, scale, bias, out, rows, n);
  }
}

template <bool kRelu, bool kMasked>
void sum_rows(const float* grad, const float* out, const float* x, const float* mean, float* masked, int64_t rows,
              int64_t n, float* first, float* second) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = r * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const float g = kRelu && out[row + j] <= 0.0F ? 0.0F : grad[row + j];
      if (kMasked) masked[row + j] = g;
      first[j] += g;
      second[j] += g * (x[row + j] - mean[j]);
    }
  }
}

inline void gradient_sums(const float* grad, const float* out, const float* x, const float* mean, float* masked,
                          int64_t rows, int64_t n, float* room, double* first, double* second) {
  constexpr int64_t kRun = 16;  // rows added up in float32
  float* sums = room;
  float* products = room + n;
  for (int64_t begin = 0; begin < rows; begin += kRun) {
    const int64_t count = begin + kRun < rows ? kRun : rows - begin;
    const int64_t at = begin * n;
    for (int64_t j = 0; j < 2 * n; ++j) room[j] = 0.0F;
    if (out == nullptr) {
      sum_rows<false, false>(grad + at, nullptr, x + at, mean, nullptr, count, n, sums, products);
    } else if (masked == nullptr) {
      sum_rows<true, false>(grad + at, out + at, x + at, mean, nullptr, count, n, sums, products);
    } else {
      sum_rows<true, true>(grad + at, out + at, x + at, mean, masked + at, count, n, sums, products);
    }
    for (int64_t j = 0; j < n; ++j) {
      first[j] += static_cast<double>(sums[j]);
      second[j] += static_cast<double>(products[j]);
    }
  }
}

inline void gradient(const float* g, const float* x, const float* mean, const float* constant, const float* slope,
                     const float* scale, float* grad_x, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = r * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      grad_x[row + j] = (g[row + j] - constant[j] - (x[row + j] - mean[j]) * slope[j]) * scale[j];
    }
  }
}

template <typename Vector>
Kernel kernel_of() {
  return {moments,           normalise,         gradient_sums,   gradient,
          Vector::from_half, from_bfloat_plain, Vector::to_half, to_bfloat_plain};
}

}  // namespace
}  // namespace tmor::batch_norm_relu
