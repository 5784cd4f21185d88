// What the CPU backend of dependency_attention is given and must fill in. The reference is
// tmor_fast/ops/dependency_attention.py, whose docstring has the equations.
//
// x is read twice and z is written once. The products of a block of frames stay in the cache of one thread, so memory
// beyond the arguments does not grow with the clips, but for the statistics, two float64 a channel and block of frames;
// backward keeps the embeddings of one clip for each thread. Sums
// are float32 (float64 over blocks where a whole column is added up), whatever the type of x.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "common/dtype.hpp"
#include "common/isa.hpp"

namespace tmor::dependency_attention {

struct CpuParams {
  DType dtype = DType::float32;  // of x, z, shortcut and their gradients: float32, float16 or bfloat16
  int64_t clips = 0;             // N
  int64_t frames = 0;            // T
  int64_t joints = 0;            // V
  int64_t channels_in = 0;       // Cin
  int64_t channels_out = 0;      // Cout
  int64_t heads = 0;             // H
  int64_t embedding = 0;         // Ce

  const void* x = nullptr;                  // (N, T, V, Cin) contiguous
  const float* query_key_weight = nullptr;  // (2 H Ce, Cin): theta of head 0 .. H-1, then phi of head 0 .. H-1
  const float* query_key_bias = nullptr;    // (2 H Ce,)
  const float* dependency = nullptr;        // (H, V, V)
  const float* value_weight = nullptr;      // (Cout, H Cin), columns head-major

  int threads = 1;
  Isa isa = Isa::portable;
  bool (*interrupted)() = nullptr;  // asked now and then by one thread; true ends the call with Interrupted
};

struct CpuForwardParams : CpuParams {
  const float* value_bias = nullptr;  // (Cout,)
  const void* shortcut = nullptr;     // (N, T, V, Cout) or null
  bool relu = false;                  // z = relu(attention + shortcut)
  void* z = nullptr;                  // out, (N, T, V, Cout)
  // Out, (2, Cout): mean and biased variance of z over clips, frames and joints. Or null, as it must be with a shortcut
  // or a ReLU.
  float* statistics = nullptr;
};

// Gradients that are null are not computed.
struct CpuBackwardParams : CpuParams {
  const void* grad = nullptr;              // (N, T, V, Cout), of the attention, before shortcut and ReLU
  void* grad_x = nullptr;                  // out, in x's type
  float* grad_query_key_weight = nullptr;  // out, as are the others
  float* grad_query_key_bias = nullptr;
  float* grad_dependency = nullptr;
  float* grad_value_weight = nullptr;
  float* grad_value_bias = nullptr;
};

struct CpuInterrupted : std::runtime_error {
  CpuInterrupted() : std::runtime_error("dependency_attention was interrupted") {}
};

// The same bits for any number of threads.
void forward_cpu(const CpuForwardParams& params);

// Each thread adds up gradients of weights over its own clips; the sums are merged in the order of the threads, so the
// same bits for the same number of threads.
void backward_cpu(const CpuBackwardParams& params);

}  // namespace tmor::dependency_attention
