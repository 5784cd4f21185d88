// What a cluster_infonce backend will be given and must fill in; no backend is compiled yet. The reference is
// tmor_fast/ops/cluster_infonce_reference.py; tmor_fast/ops/cluster_infonce.py has the definitions.
//
// A backend must
// - pass over the keys once with an online log-sum-exp and compare row, cluster and caption ids in registers: no logits
//   and no mask in memory, O(batch * dimensions) beyond the inputs;
// - accumulate the gradient of the query in the same pass (attention whose values are the keys) if it is asked for;
// - split the keys over the chip where the batch is small, and merge by log-sum-exp in a fixed order, so that two equal
//   calls give equal bits;
// - accumulate in float32 (float64 for float64) and keep every offset in 64 bits;
// - enqueue on `stream` without synchronising, and allocate nothing: scratch is given.
#pragma once

#include <cstdint>

#include "common/dtype.hpp"

namespace tmor::cluster_infonce {

enum class Positives : int { sum = 0, mean = 1, supcon = 2, instance = 3 };
enum class Denominator : int { all = 0, negatives = 1 };

struct Params {
  DType dtype = DType::float32;  // of query, keys and positive: float32, float16 or bfloat16
  int64_t batch = 0;             // B
  int64_t bank = 0;              // N
  int64_t dimensions = 0;        // d
  int64_t chosen_count = 0;      // rows drawn a query; 0: all of A_i are positives
  Positives positives = Positives::sum;
  Denominator denominator = Denominator::all;

  const void* query = nullptr;             // (B, d) contiguous
  const void* keys = nullptr;              // (N, d) contiguous
  const void* positive = nullptr;          // (B, d) or null
  const float* temperature = nullptr;      // one number, on the device
  const int64_t* query_id = nullptr;       // (B,)
  const int64_t* key_id = nullptr;         // (N,)
  const int64_t* query_cluster = nullptr;  // (B,), -1 for noise
  const int64_t* key_cluster = nullptr;    // (N,)
  const int64_t* query_caption = nullptr;  // (B,) or null, -1 for none
  const int64_t* key_caption = nullptr;    // (N,) or null
  const float* key_log_weight = nullptr;   // (N,) or null
  const int64_t* chosen = nullptr;         // (B, chosen_count) bank rows, -1 for none, or null

  float* loss = nullptr;            // out, (B,)
  float* statistics = nullptr;      // out, per query what backward needs
  float* query_gradient = nullptr;  // out, (B, d) of the sum of losses, or null
  float* own_gradient = nullptr;    // out, (B,) derivative by the similarity of the own positive, or null

  void* scratch = nullptr;  // scratch_bytes bytes, aligned to 256
  int64_t scratch_bytes = 0;
  int device = 0;             // CUDA backend
  std::uintptr_t stream = 0;  // CUDA backend
  int threads = 1;            // CPU backend
};

}  // namespace tmor::cluster_infonce
