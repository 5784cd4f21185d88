// Launches the programs of a plan (cuda_plan.hpp) as kernels on one stream. The members are defined for each number
// type beside their kernels: cuda_forward.cu, cuda_backward.cu and cuda_small.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

#include "common/cuda_launch.hpp"
#include "dependency_attention/cuda_block.cuh"
#include "dependency_attention/cuda_small.hpp"
#include "dependency_attention/cuda_tiles.hpp"

namespace tmor::dependency_attention {

template <typename Number>
class Launcher {
 public:
  Launcher(int device, uintptr_t stream) : stream_(reinterpret_cast<cudaStream_t>(stream)) {
    limits_.per_block = device_attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    limits_.per_multiprocessor = device_attribute(device, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  }

  const Limits& limits() const { return limits_; }

  void pack(const PackTask<Number>& first, const PackTask<Number>& second);
  void softmax(const SoftmaxTask<Number>& task, int64_t blocks);
  void softmax_gradient(const SoftmaxGradientTask<Number>& task, int64_t blocks);
  void merge(const MergeTask<Number>& task);
  void logits(const LogitsTask<Number>& task, int64_t blocks);
  void statistics(const StatisticsTask<Number>& task);
  template <bool kBackward, bool kStatistics>
  void values(const ValuesTask<Number>& task, int64_t blocks);
  void embedding(const EmbeddingTask<Number>& task, int64_t blocks);
  void value_weight(const ValueWeightTask<Number>& task, int64_t blocks);

 private:
  template <typename Task>
  void launch_tiles(void (*kernel)(Task), const Task& task, int64_t bytes, int64_t blocks, const char* what) {
    if (blocks > 0x7fffffff) throw std::invalid_argument("dependency_attention: too many clips");
    allow_shared(kernel, what);
    kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(bytes), stream_>>>(task);
    check_cuda(cudaGetLastError(), what);
  }

  cudaStream_t stream_;
  Limits limits_{};
};

// Blocks of a multiprocessor: where it has 100 KB of shared memory only one fits, which may then have more registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kTileBlocks = 1;
#else
constexpr int kTileBlocks = 2;
#endif

#if defined(__CUDACC__)
extern __shared__ __align__(16) unsigned char attention_shared[];
#endif

}  // namespace tmor::dependency_attention
