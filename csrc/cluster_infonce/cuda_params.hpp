// What the CUDA backends of cluster_infonce are given. The definition of the result is in params.hpp.
#pragma once

#include <cstdint>

#include "cluster_infonce/finish.hpp"
#include "common/dtype.hpp"

namespace tmor::cluster_infonce {

// All pointers are of the device. Nothing is allocated, nothing waits for the device: everything is enqueued on
// `stream`, so a call can be captured in a CUDA graph. The temperature stays on the device for the same reason.
struct CudaParams {
  DType key_dtype = DType::float32;  // float32, float16 or bfloat16
  int64_t batch = 0;                 // B, 1 .. 2^31 - 1
  int64_t bank = 0;                  // N, at least 1
  int64_t dimensions = 0;            // d, 1 .. 768 (naive: any)
  int64_t key_stride = 0;            // elements between two rows of keys
  int64_t chosen_count = 0;          // columns of `chosen`
  bool has_chosen = false;           // the listed rows alone are positives (none, if chosen_count is 0)
  Form form = Form::sum;
  Denominator denominator = Denominator::all;

  const float* query = nullptr;            // (B, d)
  const void* keys = nullptr;              // (N, d), rows contiguous
  const float* positive = nullptr;         // (B, d) or null
  const float* temperature = nullptr;      // one number
  const int64_t* query_id = nullptr;       // (B,)
  const int64_t* key_id = nullptr;         // (N,)
  const int64_t* query_cluster = nullptr;  // (B,), negative for noise
  const int64_t* key_cluster = nullptr;    // (N,)
  const int64_t* query_caption = nullptr;  // (B,) or null, negative for none
  const int64_t* key_caption = nullptr;    // (N,) or null
  const float* key_log_weight = nullptr;   // (N,) or null
  const int64_t* chosen = nullptr;         // (B, chosen_count) rows of A, -1 for none, or null

  void* workspace = nullptr;  // as many bytes as the functions below say, aligned to 256
  int64_t workspace_bytes = 0;
  int device = 0;
  uintptr_t stream = 0;
};

struct CudaForward : CudaParams {
  float* loss = nullptr;          // out, (B,)
  float* gradient = nullptr;      // out, (B, d): of each loss by its query; or null
  float* own_gradient = nullptr;  // out, (B,): of each loss by the logit of the own positive
  float* statistics = nullptr;    // out, (4, B): D, LP, a, u of finish.hpp
};

struct CudaKeyGradient : CudaParams {
  const float* upstream = nullptr;    // (B,): gradient of the whole by each loss
  const float* statistics = nullptr;  // (4, B), of the forward pass
  float* key_gradient = nullptr;      // out, (N, d)
};

// What a call depends on of a device.
struct Limits {
  int64_t multiprocessors = 1;
  int64_t shared_per_block = 0;
  int64_t shared_per_multiprocessor = 0;
};

Limits cuda_limits(int device);

// Bytes of the workspace. That of the forward pass grows with the multiprocessors, O(splits B d).
int64_t cuda_forward_workspace(DType key_dtype, int64_t batch, int64_t bank, int64_t dimensions, int64_t chosen_count,
                               bool gradient, bool wants_aligned, const Limits& limits);
int64_t cuda_keys_workspace(DType key_dtype, int64_t batch, int64_t dimensions);
int64_t cuda_naive_workspace(int64_t batch, int64_t dimensions);

// One pass over the keys on the matrix units (cuda_forward.hpp), and one that merges its splits.
void forward_cuda(const CudaForward& params);
// A second pass (cuda_keys.hpp).
void key_gradient_cuda(const CudaKeyGradient& params);

// The same by plain loops in float64, a thread a query or a key, for finding bugs.
void forward_cuda_naive(const CudaForward& params);
void key_gradient_cuda_naive(const CudaKeyGradient& params);

}  // namespace tmor::cluster_infonce
