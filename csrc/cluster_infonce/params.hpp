// What a cluster_infonce backend is given and must fill in. The reference is
// tmor_fast/ops/cluster_infonce_reference.py; tmor_fast/ops/cluster_infonce.py has the definitions.
//
// A backend must
// - pass over the keys once with an online log-sum-exp and compare row, cluster and caption ids in registers: no logits
//   and no mask in memory beyond a tile that stays in cache, O(batch * dimensions) beyond the inputs;
// - accumulate the gradient of the query in the same pass (attention whose values are the keys) if it is asked for;
// - split the keys over the chip where the batch is small, and merge by log-sum-exp in a fixed order, so that two equal
//   calls give equal bits;
// - accumulate in float32 and keep every offset in 64 bits.
// The CUDA backends (cuda_params.hpp) also enqueue on a stream without synchronising and allocate nothing.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "cluster_infonce/finish.hpp"
#include "common/dtype.hpp"
#include "common/isa.hpp"

namespace tmor::cluster_infonce {

struct Params {
  DType key_dtype = DType::float32;  // float32, float16 or bfloat16
  int64_t batch = 0;                 // B
  int64_t bank = 0;                  // N, at least 1
  int64_t dimensions = 0;            // d
  int64_t key_stride = 0;            // elements between two rows of keys
  int64_t chosen_count = 0;          // columns of `chosen`
  bool has_chosen = false;           // the listed rows alone are positives (none, if chosen_count is 0)
  Form form = Form::sum;             // "instance" is "sum" with an empty list
  Denominator denominator = Denominator::all;
  double temperature = 1.0;

  const float* query = nullptr;            // (B, d)
  const void* keys = nullptr;              // (N, d), rows contiguous
  const float* positive = nullptr;         // (B, d) or null
  const int64_t* query_id = nullptr;       // (B,)
  const int64_t* key_id = nullptr;         // (N,)
  const int64_t* query_cluster = nullptr;  // (B,), negative for noise
  const int64_t* key_cluster = nullptr;    // (N,)
  const int64_t* query_caption = nullptr;  // (B,) or null, negative for none
  const int64_t* key_caption = nullptr;    // (N,) or null
  const float* key_log_weight = nullptr;   // (N,) or null
  const int64_t* chosen = nullptr;         // (B, chosen_count) rows of the bank, -1 for none, or null

  int threads = 1;
  Isa isa = Isa::portable;
};

struct ForwardParams : Params {
  float* loss = nullptr;            // out, (B,)
  float* gradient = nullptr;        // out, (B, d): of each loss by its query; or null
  float* own_gradient = nullptr;    // out, (B,): of each loss by the logit of the own positive
  float* statistics = nullptr;      // out, (4, B): D, LP, a, u of finish.hpp
  bool (*interrupted)() = nullptr;  // asked now and then by one thread; true ends the call with Interrupted
};

// One listed pair of the key gradient: dL/d(logit) = value for this query and key, whatever the masks say.
struct KeyGradientParams : Params {
  const float* upstream = nullptr;      // (B,): gradient of the whole by each loss
  const float* statistics = nullptr;    // (4, B), of the forward pass
  const int64_t* pair_key = nullptr;    // (pairs,) ascending
  const int64_t* pair_query = nullptr;  // (pairs,)
  const float* pair_value = nullptr;    // (pairs,) derivative of the query's loss by the logit
  int64_t pairs = 0;
  float* key_gradient = nullptr;  // out, (N, d)
  bool (*interrupted)() = nullptr;
};

struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("cluster_infonce was interrupted") {}
};

void forward_cpu(const ForwardParams& params);
void key_gradient_cpu(const KeyGradientParams& params);

// 2^x of `n` numbers as the kernels of `isa` compute it, for tests of its error bound (exp2.hpp).
void exp2_cpu(const float* x, float* result, int64_t n, Isa isa);

}  // namespace tmor::cluster_infonce
