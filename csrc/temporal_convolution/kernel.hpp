// The loops of temporal_convolution that are compiled once per instruction set. They use nothing from the standard
// library: an inline function compiled here for AVX-512 could be the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>

namespace tmor::temporal_convolution {

struct Kernel {
  // One for each instruction set; common/kernel_for.hpp takes the best.
  static Kernel portable();
  static Kernel avx2();
  static Kernel avx512();

  int64_t width;   // input channels in a panel
  int64_t height;  // output channels in a panel: the products of the two stay in registers

  // The first columns of rows that lie n numbers apart, as a panel: to[r * width + j] = from[r * n + j] where
  // j < columns, else 0. Of outputs alike, with `height` in the place of `width`.
  void (*pack_inputs)(const float* from, int64_t n, int64_t rows, int64_t columns, float* to);
  void (*pack_outputs)(const float* from, int64_t n, int64_t rows, int64_t columns, float* to);

  // sums(o, i) += the sum over the rows r of outputs(r, o) * inputs(r, i), o < columns: panels, and (height, width).
  void (*add_products)(const float* outputs, const float* inputs, int64_t rows, int64_t columns, float* sums);
  // As common/add_rows.hpp has it.
  void (*add_rows)(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* sum);
};

}  // namespace tmor::temporal_convolution
