// What is done with single points, coordinate after coordinate, compiled once per instruction set (see tile.hpp).
#pragma once

#include <cstdint>

namespace tmor::dbscan {

// Rows of float64 numbers are padded with zeros to a multiple of this; `padded` is such a length.
constexpr int64_t kRowStep = 16;
constexpr int64_t padded_row(int64_t dimensions) { return (dimensions + kRowStep - 1) / kRowStep * kRowStep; }

// What was stored of a row x, x' being the stored numbers.
struct Stored {
  double square = 0.0;    // |x'|^2
  double residual = 0.0;  // |x - x'|^2
  int32_t sum = 0;        // of the integers
};

struct Rows {
  // (x - centre) * scale, each operation rounded; `padded` numbers are written, zeros behind the last.
  void (*place32)(const float* x, const double* centre, double scale, int64_t dimensions, double* row);
  void (*place64)(const double* x, const double* centre, double scale, int64_t dimensions, double* row);
  double (*largest)(const double* row, int64_t padded);  // magnitude
  double (*square)(const double* row, int64_t padded);
  // Squared distances summed in any order: right to 1e-10 of themselves unless something overflows or vanishes.
  double (*distance32)(const float* x, const float* y, int64_t dimensions);
  double (*distance64)(const double* x, const double* y, int64_t dimensions);
  // Low-precision copies: `padded` numbers, words in a row. Coordinates below 2^-60 are stored as zero.
  Stored (*store_float32)(const double* row, int64_t padded, uint32_t* words);
  Stored (*store_bfloat16)(const double* row, int64_t padded, uint32_t* words);
  // At most 127 units each.
  Stored (*store_int8)(const double* row, int64_t padded, double unit, uint32_t* words);
};

Rows rows_portable();
Rows rows_avx2();
Rows rows_avx512();

}  // namespace tmor::dbscan
