// The launches of a CUDA call, each in a file of its own because they take long to compile; cuda.cu calls them.
#pragma once

#include <cuda_runtime.h>

#include "cluster_infonce/cuda_plan.hpp"

namespace tmor::cluster_infonce {

void launch_forward_float32(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_forward_float16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_forward_bfloat16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream);
void launch_merge(const MergeTask& task, cudaStream_t stream);

// `numbers` (kNumbers, B) is filled from what the forward pass left.
struct NumbersTask {
  const float* upstream = nullptr;
  const float* statistics = nullptr;
  const float* temperature = nullptr;
  int64_t batch = 0;
  float* numbers = nullptr;
};
void launch_keys(const KeysTask& task, const NumbersTask& numbers, const KeysPlan& plan, cudaStream_t stream);

}  // namespace tmor::cluster_infonce
