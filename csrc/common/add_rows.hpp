// Sums of columns. Included by files that are compiled once per instruction set, whose compiler makes vectors of it.
#pragma once

#include <cstdint>

namespace tmor {
namespace {

// sum(j) += the sum over the rows of a[r * a_row + j], j < n, in float64 but for a few rows at a time; `room` (n,).
inline void add_rows(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* sum) {
  constexpr int64_t kRun = 16;  // rows added up in float32
  for (int64_t first = 0; first < rows; first += kRun) {
    const int64_t end = first + kRun < rows ? first + kRun : rows;
    for (int64_t j = 0; j < n; ++j) room[j] = 0.0F;
    for (int64_t r = first; r < end; ++r) {
      for (int64_t j = 0; j < n; ++j) room[j] += a[r * a_row + j];
    }
    for (int64_t j = 0; j < n; ++j) sum[j] += static_cast<double>(room[j]);
  }
}

}  // namespace
}  // namespace tmor
