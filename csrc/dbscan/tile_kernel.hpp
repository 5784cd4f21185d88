// The tile's one template. Included by the tile_<isa>.cpp files alone, each of which defines a vector type in an
// unnamed namespace: `Vector` with kLanes, kRows, load, broadcast, multiply_add, subtract and at_most.
#pragma once

#include "dbscan/tile.hpp"

namespace tmor::dbscan {
namespace {

// Three vectors of columns by kRows rows of sums stay in registers.
template <typename Vector>
void run_tile(const float* a, const float* b, int64_t dimensions, const float* half_norm, const float* low,
              const float* high, uint64_t* sure, uint64_t* maybe) {
  constexpr int kVectors = 3;
  constexpr int kLanes = Vector::kLanes;
  constexpr int kRows = Vector::kRows;
  constexpr int kWidth = kVectors * kLanes;
  static_assert(kWidth <= kMaxWidth && kWidth % kRows == 0, "a panel is a whole number of row groups");
  using Register = typename Vector::Register;

  for (int first = 0; first < kWidth; first += kRows) {
    Register sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[row][v] = Vector::broadcast(0.0F);
    }
    const float* left = a + first;
    const float* right = b;
    for (int64_t k = 0; k < dimensions; ++k, left += kWidth, right += kWidth) {
      Register column[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) column[v] = Vector::load(right + v * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const Register value = Vector::broadcast(left[row]);
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) sum[row][v] = Vector::multiply_add(value, column[v], sum[row][v]);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      uint64_t below_low = 0;
      uint64_t below_high = 0;
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        const Register h = Vector::subtract(Vector::load(half_norm + v * kLanes), sum[row][v]);
        below_low |= static_cast<uint64_t>(Vector::at_most(h, low[first + row])) << (v * kLanes);
        below_high |= static_cast<uint64_t>(Vector::at_most(h, high[first + row])) << (v * kLanes);
      }
      sure[first + row] = below_low;
      maybe[first + row] = below_high & ~below_low;
    }
  }
}

}  // namespace
}  // namespace tmor::dbscan
