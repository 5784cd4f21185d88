#include "cluster_infonce/cuda_block.cuh"
#include "cluster_infonce/cuda_kernels.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {
namespace {

__global__ void __launch_bounds__(kMergeThreads, 2) merge_kernel(const __grid_constant__ MergeTask task) {
  __shared__ MergeShared shared;
  DeviceBlock block(nullptr);
  Merge<DeviceBlock>(block, task, shared).run(int64_t{blockIdx.x});
}

}  // namespace

void launch_merge(const MergeTask& task, cudaStream_t stream) {
  merge_kernel<<<static_cast<unsigned>(task.batch), kMergeThreads, 0, stream>>>(task);
  check_cuda(cudaGetLastError(), "launching the merge of cluster_infonce");
}

}  // namespace tmor::cluster_infonce
