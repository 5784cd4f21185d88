// The launches of a CUDA call, each in a file of its own because they take long to compile; cuda.cu calls them.
#pragma once

#include <cuda_runtime.h>

#include "cluster_infonce/cuda_plan.hpp"

namespace tmor::cluster_infonce {

void launch_forward_float32(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_forward_float16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_forward_bfloat16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_merge(const MergeTask& task, cudaStream_t stream);

// `numbers` (kNumbers, B) is filled from what the forward pass left, `rounded` (B, pitch) from the queries if it is
// there.
struct NumbersTask {
  const float* query = nullptr;
  int64_t dimensions = 0;
  const float* upstream = nullptr;
  const float* statistics = nullptr;
  const float* temperature = nullptr;
  int64_t batch = 0;
  KeysMemory memory;
};
void launch_numbers(const NumbersTask& task, cudaStream_t stream);
void launch_keys(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream);  // float32 and float16
void launch_keys_bfloat16(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream);

}  // namespace tmor::cluster_infonce
