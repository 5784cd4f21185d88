#include "cluster_infonce/cuda_block.cuh"
#include "cluster_infonce/cuda_kernels.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {
namespace {

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) merge_kernel(const __grid_constant__ MergeTask task) {
  __shared__ MergeShared<kThreads> shared;
  DeviceBlock block(nullptr);
  Merge<DeviceBlock, kThreads>(block, task, shared).run(int64_t{blockIdx.x});
}

}  // namespace

void launch_merge(const MergeTask& task, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(task.batch);
  if (task.batch < kManyQueries) {
    merge_kernel<kMergeThreads><<<blocks, kMergeThreads, 0, stream>>>(task);
  } else {
    merge_kernel<kSmallMergeThreads><<<blocks, kSmallMergeThreads, 0, stream>>>(task);
  }
  check_cuda(cudaGetLastError(), "launching the merge of cluster_infonce");
}

}  // namespace tmor::cluster_infonce
