// What a dependency_attention backend will be given and must fill in; no backend is compiled yet. The reference is
// tmor_fast/ops/dependency_attention.py, whose docstring has the equations.
//
// A backend must
// - read x twice and write z once: theta and phi of all heads are one product, the attention of one clip (V x V a head)
//   stays on chip, and the mixed values never reach memory;
// - take the softmax over v in float32 (float64 for float64), whatever the dtype;
// - recompute the attention in backward, so that nothing but the inputs is saved;
// - enqueue on `stream` without synchronising, and allocate nothing: scratch is given;
// - be as exact as plain PyTorch: error against float64 at most twice its error at the same dtype;
// - keep every offset in 64 bits.
#pragma once

#include <cstdint>

#include "common/dtype.hpp"

namespace tmor::dependency_attention {

struct Params {
  DType dtype = DType::float32;  // of every tensor below: float32, float16 or bfloat16
  int64_t clips = 0;             // N
  int64_t frames = 0;            // T
  int64_t joints = 0;            // V, tau times the skeleton's: 17 and 25 and their multiples matter
  int64_t channels_in = 0;       // Cin
  int64_t channels_out = 0;      // Cout
  int64_t heads = 0;             // H
  int64_t embedding = 0;         // Ce

  const void* x = nullptr;                 // (N, T, V, Cin) contiguous
  const void* query_key_weight = nullptr;  // (2 H Ce, Cin): theta of head 0 .. H-1, then phi of head 0 .. H-1
  const void* query_key_bias = nullptr;    // (2 H Ce,)
  const void* dependency = nullptr;        // (H, V, V)
  const void* value_weight = nullptr;      // (Cout, H Cin), columns head-major
  const void* value_bias = nullptr;        // (Cout,)
  void* z = nullptr;                       // out, (N, T, V, Cout)

  // Backward alone: the gradient of z, and where the others go; null for one that is not needed.
  const void* grad_z = nullptr;
  void* grad_x = nullptr;
  void* grad_query_key_weight = nullptr;
  void* grad_query_key_bias = nullptr;
  void* grad_dependency = nullptr;
  void* grad_value_weight = nullptr;
  void* grad_value_bias = nullptr;

  void* scratch = nullptr;  // scratch_bytes bytes, aligned to 256
  int64_t scratch_bytes = 0;
  int device = 0;             // CUDA backend
  std::uintptr_t stream = 0;  // CUDA backend
  int threads = 1;            // CPU backend
};

}  // namespace tmor::dependency_attention
