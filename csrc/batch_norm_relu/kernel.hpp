// The loops of batch_norm_relu that are compiled once per instruction set, over rows of n float32 numbers. They use
// nothing from the standard library: an inline function compiled here for AVX-512 could be the copy that the linker
// keeps for everyone.
#pragma once

#include <cstdint>

namespace tmor::batch_norm_relu {

struct Kernel {
  // One for each instruction set; common/kernel_for.hpp takes the best.
  static Kernel portable();
  static Kernel avx2();
  static Kernel avx512();

  // As common/moments.hpp has it.
  void (*moments)(const float* a, int64_t a_row, int64_t rows, int64_t n, float* room, double* mean, double* squares);

  // out = [relu] ((x - mean) * scale + bias + shortcut), without shortcut where it is null. `out` may be x.
  void (*normalise)(const float* x, const float* shortcut, const float* mean, const float* scale, const float* bias,
                    bool relu, float* out, int64_t rows, int64_t n);

  // g = grad where `out` (if not null) is above 0, else 0, written to `masked` if that is not null. first += the sum of
  // g over the rows, second += that of g * (x - mean), added up in float32 first. `room` (2 n,).
  void (*gradient_sums)(const float* grad, const float* out, const float* x, const float* mean, float* masked,
                        int64_t rows, int64_t n, float* room, double* first, double* second);

  // grad_x = (g - constant - (x - mean) * slope) * scale. `grad_x` may be g.
  void (*gradient)(const float* g, const float* x, const float* mean, const float* constant, const float* slope,
                   const float* scale, float* grad_x, int64_t rows, int64_t n);

  void (*from_half)(const uint16_t* from, float* to, int64_t n);
  void (*from_bfloat)(const uint16_t* from, float* to, int64_t n);
  void (*to_half)(const float* from, uint16_t* to, int64_t n);
  void (*to_bfloat)(const float* from, uint16_t* to, int64_t n);
};

}  // namespace tmor::batch_norm_relu
