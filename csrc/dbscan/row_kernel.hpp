// The functions of rows.hpp as plain loops over kRowStep numbers, which the compiler turns into the vectors of the file
// that includes this; nothing from the standard library, as in tile.hpp.
#pragma once

#include "dbscan/rows.hpp"

namespace tmor::dbscan {
namespace {

constexpr double kTiny = 0x1p-60;

inline uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

inline double sum_of(const double* parts) {
  double total = 0.0;
  for (int i = 0; i < kRowStep; ++i) total += parts[i];
  return total;
}

template <typename Scalar>
void place_row(const Scalar* x, const double* centre, double scale, int64_t dimensions, double* row) {
  for (int64_t k = 0; k < dimensions; ++k) row[k] = (static_cast<double>(x[k]) - centre[k]) * scale;
  for (int64_t k = dimensions; k < padded_row(dimensions); ++k) row[k] = 0.0;
}

inline double largest_of_row(const double* row, int64_t padded) {
  double parts[kRowStep] = {};
  for (int64_t k = 0; k < padded; k += kRowStep) {
    for (int i = 0; i < kRowStep; ++i) {
      const double value = __builtin_fabs(row[k + i]);
      parts[i] = value > parts[i] ? value : parts[i];
    }
  }
  double result = 0.0;
  for (int i = 0; i < kRowStep; ++i) result = parts[i] > result ? parts[i] : result;
  return result;
}

inline double square_of_row(const double* row, int64_t padded) {
  double parts[kRowStep] = {};
  for (int64_t k = 0; k < padded; k += kRowStep) {
    for (int i = 0; i < kRowStep; ++i) parts[i] += row[k + i] * row[k + i];
  }
  return sum_of(parts);
}

template <typename Scalar>
double loose_distance(const Scalar* x, const Scalar* y, int64_t dimensions) {
  double parts[kRowStep] = {};
  int64_t k = 0;
  for (; k + kRowStep <= dimensions; k += kRowStep) {
    for (int i = 0; i < kRowStep; ++i) {
      const double difference = static_cast<double>(x[k + i]) - static_cast<double>(y[k + i]);
      parts[i] += difference * difference;
    }
  }
  double total = sum_of(parts);
  for (; k < dimensions; ++k) {
    const double difference = static_cast<double>(x[k]) - static_cast<double>(y[k]);
    total += difference * difference;
  }
  return total;
}

inline Stored store_row_float32(const double* row, int64_t padded, uint32_t* words) {
  double square[kRowStep] = {};
  double residual[kRowStep] = {};
  for (int64_t k = 0; k < padded; k += kRowStep) {
    for (int i = 0; i < kRowStep; ++i) {
      const double value = row[k + i];
      const float stored = __builtin_fabs(value) < kTiny ? 0.0F : static_cast<float>(value);
      const double wide = static_cast<double>(stored);
      square[i] += wide * wide;
      residual[i] += (value - wide) * (value - wide);
      words[k + i] = float_bits(stored);
    }
  }
  return {sum_of(square), sum_of(residual), 0};
}

inline Stored store_row_bfloat16(const double* row, int64_t padded, uint32_t* words) {
  double square[kRowStep] = {};
  double residual[kRowStep] = {};
  for (int64_t k = 0; k < padded; k += kRowStep) {
    uint32_t upper[kRowStep];
    for (int i = 0; i < kRowStep; ++i) {
      const double value = row[k + i];
      const uint32_t bits = float_bits(__builtin_fabs(value) < kTiny ? 0.0F : static_cast<float>(value));
      upper[i] = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;  // to nearest, ties to even
      const double wide = static_cast<double>(from_bits(upper[i] << 16));
      square[i] += wide * wide;
      residual[i] += (value - wide) * (value - wide);
    }
    for (int i = 0; i < kRowStep / 2; ++i) words[k / 2 + i] = upper[2 * i] | upper[2 * i + 1] << 16;
  }
  return {sum_of(square), sum_of(residual), 0};
}

inline Stored store_row_int8(const double* row, int64_t padded, double unit, uint32_t* words) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves no bits behind the point
  const double inverse = 1.0 / unit;
  double square[kRowStep] = {};
  double residual[kRowStep] = {};
  int32_t sums[kRowStep] = {};
  for (int64_t k = 0; k < padded; k += kRowStep) {
    int32_t integers[kRowStep];
    for (int i = 0; i < kRowStep; ++i) {
      const double value = row[k + i];
      double ratio = value * inverse;
      ratio = ratio < 127.0 ? ratio : 127.0;
      ratio = ratio > -127.0 ? ratio : -127.0;
      const double whole = (ratio + kRound) - kRound;
      const double wide = unit * whole;
      square[i] += wide * wide;
      residual[i] += (value - wide) * (value - wide);
      integers[i] = static_cast<int32_t>(whole);
      sums[i] += integers[i];
    }
    for (int i = 0; i < kRowStep / 4; ++i) {
      const int32_t* four = integers + 4 * i;
      words[k / 4 + i] = (static_cast<uint32_t>(four[0]) & 0xffU) | (static_cast<uint32_t>(four[1]) & 0xffU) << 8 |
                         (static_cast<uint32_t>(four[2]) & 0xffU) << 16 | static_cast<uint32_t>(four[3]) << 24;
    }
  }
  Stored result{sum_of(square), sum_of(residual), 0};
  for (int i = 0; i < kRowStep; ++i) result.sum += sums[i];
  return result;
}

inline Rows all_rows() {
  return {place_row<float>,       place_row<double>, largest_of_row,     square_of_row, loose_distance<float>,
          loose_distance<double>, store_row_float32, store_row_bfloat16, store_row_int8};
}

}  // namespace
}  // namespace tmor::dbscan
