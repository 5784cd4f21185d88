// What the CUDA backends of dependency_attention are given. The definition of the result is in params.hpp.
#pragma once

#include <cstdint>
#include <string>

#include "common/dtype.hpp"

namespace tmor::dependency_attention {

// All pointers are of the device, all tensors contiguous and of one dtype. Nothing is allocated, nothing waits for the
// device: everything is enqueued on `stream`, so a call can be captured in a CUDA graph.
struct CudaParams {
  DType dtype = DType::float32;  // float32, float16 or bfloat16
  int64_t clips = 0;             // N >= 0
  int64_t frames = 0;            // T >= 1
  int64_t joints = 0;            // V >= 1
  int64_t channels_in = 0;       // Cin >= 1
  int64_t channels_out = 0;      // Cout >= 1
  int64_t heads = 0;             // H >= 1
  int64_t embedding = 0;         // Ce >= 1
  double scale = 1.0;            // of theta and phi, a power of two near (Ce T)^-1/2: their sum must not overflow

  const void* x = nullptr;                 // (N, T, V, Cin)
  const void* query_key_weight = nullptr;  // (2 H Ce, Cin)
  const void* query_key_bias = nullptr;    // (2 H Ce,)
  const void* dependency = nullptr;        // (H, V, V)
  const void* value_weight = nullptr;      // (Cout, H Cin)
  const void* value_bias = nullptr;        // (Cout,), forward
  const void* shortcut = nullptr;          // (N, T, V, Cout) added to z, or null; forward
  bool relu = false;                       // whether negative results become 0; forward
  void* z = nullptr;                       // out, (N, T, V, Cout); forward
  float* statistics = nullptr;  // out, (2, Cout): mean and biased variance of z over clips, frames and joints; or null;
                                // forward, N >= 1, without shortcut and relu

  const void* grad_z = nullptr;           // (N, T, V, Cout); backward
  void* grad_x = nullptr;                 // out or null; the tile kernels leave out what flows through the attention
  void* grad_dependency = nullptr;        // out or null
  void* grad_value_weight = nullptr;      // out or null
  void* grad_embedding = nullptr;         // out, (last_clip - first_clip, T, V, 2 H Ce), of `cuda_embedding_gradient`
  int64_t first_clip = 0;                 // of `cuda_embedding_gradient`
  int64_t last_clip = 0;                  //
  bool wants_attention = false;           // backward: whether `cuda_embedding_gradient` will follow
  void* grad_query_key_weight = nullptr;  // out or null; the naive backend alone
  void* grad_query_key_bias = nullptr;    //
  void* grad_value_bias = nullptr;        //

  void* workspace = nullptr;  // aligned to 256
  int64_t workspace_bytes = 0;
  int device = 0;
  uintptr_t stream = 0;
};

// Bytes of workspace for the sizes and dtype of `params`.
int64_t cuda_workspace(const CudaParams& params, bool backward);
int64_t cuda_naive_workspace(const CudaParams& params, bool backward);

// Why the device of `params` cannot run these sizes, empty if it can. Pointers are not looked at.
std::string cuda_refusal(const CudaParams& params);

// z. Reads x twice and writes z once.
void run_cuda_forward(const CudaParams& params);

// grad_dependency, grad_value_weight and what reaches grad_x through the values.
void run_cuda_backward(const CudaParams& params);

// The gradient of theta and phi (both unscaled) for some clips; after `run_cuda_backward` with the same workspace.
void run_cuda_embedding_gradient(const CudaParams& params);

// The same results by plain loops with float64 sums, one thread a number, all gradients complete: for finding bugs.
void run_cuda_naive_forward(const CudaParams& params);
void run_cuda_naive_backward(const CudaParams& params);

}  // namespace tmor::dependency_attention
