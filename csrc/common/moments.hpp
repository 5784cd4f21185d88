// Mean and sum of squared deviations of columns. Included by files that are compiled once per instruction set: nothing
// of it may be shared with other files.
#pragma once

#include <cstdint>

namespace tmor {
namespace {

// Of a(r, j), r < rows (at least 1), j < n: mean(j) and squares(j), the sum over r of (a(r, j) - mean(j))^2.
// One pass: deviations are taken from the mean of the first rows, which is near enough that nothing cancels; 16 rows
// are added up in float32, these sums in float64. `room` (3 n,).
inline void moments(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* mean,
                    double* squares) {
  constexpr int64_t kRun = 16;
  float* near = room;
  float* first = room + n;
  float* second = room + 2 * n;
  const int64_t few = rows < kRun ? rows : kRun;
  for (int64_t j = 0; j < n; ++j) near[j] = 0.0F;
  for (int64_t r = 0; r < few; ++r) {
    for (int64_t j = 0; j < n; ++j) near[j] += a[r * a_row + j];
  }
  for (int64_t j = 0; j < n; ++j) {
    near[j] /= static_cast<float>(few);
    mean[j] = 0.0;
    squares[j] = 0.0;
  }
  for (int64_t begin = 0; begin < rows; begin += kRun) {
    const int64_t end = begin + kRun < rows ? begin + kRun : rows;
    for (int64_t j = 0; j < n; ++j) first[j] = second[j] = 0.0F;
    for (int64_t r = begin; r < end; ++r) {
      const float* row = a + r * a_row;
      for (int64_t j = 0; j < n; ++j) {
        const float away = row[j] - near[j];
        first[j] += away;
        second[j] += away * away;
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      mean[j] += static_cast<double>(first[j]);
      squares[j] += static_cast<double>(second[j]);
    }
  }
  const double count = static_cast<double>(rows);
  for (int64_t j = 0; j < n; ++j) {
    const double away = mean[j] / count;
    const double left = squares[j] - mean[j] * away;
    squares[j] = left < 0.0 ? 0.0 : left;  // NaN stays
    mean[j] = static_cast<double>(near[j]) + away;
  }
}

}  // namespace
}  // namespace tmor
