// The loops of the CPU backend that are compiled once per instruction set. They use nothing from the standard library:
// an inline function compiled here for AVX-512 could be the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>

#include "common/multiply.hpp"

namespace tmor::dependency_attention {

struct Kernel {
  // One for each instruction set; common/kernel_for.hpp takes the best.
  static Kernel portable();
  static Kernel avx2();
  static Kernel avx512();

  int lanes;    // numbers in a vector
  int vectors;  // most vectors in a panel

  // As common/multiply.hpp has them.
  void (*multiply)(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                   float* c, int64_t c_row, int64_t rows, int64_t width, bool add);
  void (*multiply_finish)(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                          float* c, int64_t c_row, int64_t rows, int64_t width, bool add, const Finish& finish);
  void (*row_products)(const Dots& dots);

  // y = relu(y + x), without x where it is null.
  void (*finish_row)(float* y, const float* x, bool relu, int64_t n);
  // As common/add_rows.hpp has it.
  void (*add_rows)(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* sum);
  // As common/moments.hpp has it.
  void (*moments)(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* mean, double* squares);

  void (*from_half)(const uint16_t* from, float* to, int64_t n);
  void (*from_bfloat)(const uint16_t* from, float* to, int64_t n);
  void (*to_half)(const float* from, uint16_t* to, int64_t n);
  void (*to_bfloat)(const float* from, uint16_t* to, int64_t n);
};

}  // namespace tmor::dependency_attention
