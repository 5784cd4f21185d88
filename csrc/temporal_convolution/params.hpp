// What the CPU backend of temporal_convolution is given and must fill in: the gradients of the weight and the bias. The
// reference is tmor_fast/ops/temporal_convolution.py, whose docstring has the equations; the forward pass and the
// gradient of x are the vendor's.
#pragma once

#include <cstdint>

#include "common/isa.hpp"

namespace tmor::temporal_convolution {

struct Params {
  int64_t clips = 0;          // B
  int64_t frames = 0;         // T
  int64_t output_frames = 0;  // T'
  int64_t joints = 0;         // V
  int64_t in_channels = 0;    // Cin
  int64_t out_channels = 0;   // Cout
  int64_t kernel = 0;         // K
  int64_t stride = 1;         // output frame f sees frames f * stride + k * dilation - padding, k < K
  int64_t dilation = 1;
  int64_t padding = 0;
  const float* x = nullptr;      // (B, T, V, Cin) contiguous
  const float* grad = nullptr;   // (B, T', V, Cout) contiguous, of the result
  float* grad_weight = nullptr;  // out, (Cout, Cin, K)
  float* grad_bias = nullptr;    // out, (Cout,) or null
  int threads = 1;
  Isa isa = Isa::portable;
};

// The same bits for any number of threads.
void weight_gradient_cpu(const Params& params);

}  // namespace tmor::temporal_convolution
