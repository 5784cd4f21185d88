// What the CPU backend of batch_norm_relu is given and must fill in. The reference is
// tmor_fast/ops/batch_norm_relu.py, whose docstring has the equations.
//
// Rows are read and written once in the forward pass, and once more where the statistics are not given; the backward
// pass reads the upstream gradient, the result and x, writes the gradient of the shortcut, and reads that and x again.
#pragma once

#include <cstdint>

#include "common/dtype.hpp"
#include "common/isa.hpp"

namespace tmor::batch_norm_relu {

struct Params {
  DType dtype = DType::float32;   // of x, shortcut, out and their gradients: float32, float16 or bfloat16
  int64_t rows = 0;               // R
  int64_t channels = 0;           // C
  const void* x = nullptr;        // (R, C) contiguous
  const float* weight = nullptr;  // (C,)
  double eps = 0.0;
  int threads = 1;
  Isa isa = Isa::portable;
};

struct ForwardParams : Params {
  const float* bias = nullptr;     // (C,)
  const void* shortcut = nullptr;  // (R, C) or null
  bool relu = false;
  bool given = false;           // whether `statistics` are known, else they are computed
  float* statistics = nullptr;  // (2, C): mean and biased variance
  void* out = nullptr;          // out, (R, C)
};

// Gradients that are null are not computed.
struct BackwardParams : Params {
  const float* statistics = nullptr;  // (2, C), of x
  const void* grad = nullptr;         // (R, C), of out
  const void* out = nullptr;          // (R, C) with a ReLU, else null
  void* grad_x = nullptr;             // out, (R, C)
  void* grad_shortcut = nullptr;      // out, (R, C), with a ReLU alone: without one it is `grad`
  float* grad_weight = nullptr;       // out, (C,)
  float* grad_bias = nullptr;         // out, (C,)
};

// The same bits for any number of threads.
void forward_cpu(const ForwardParams& params);
void backward_cpu(const BackwardParams& params);

}  // namespace tmor::batch_norm_relu
