// The kernel of the gradient of the keys for one arithmetic.
#pragma once

#include "cluster_infonce/cuda_block.cuh"
#include "cluster_infonce/cuda_kernels.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {

extern __shared__ __align__(1024) unsigned char shared_memory[];

template <typename Products>
__global__ void __launch_bounds__(kMaxThreads, 2) keys_kernel(const __grid_constant__ KeysTask task) {
  DeviceBlock block(shared_memory);
  const Ring ring = placed(task.ring, block, kFixedBytes<KeysShared>);
  auto* shared = reinterpret_cast<KeysShared*>(shared_memory);
  KeyGradient<DeviceBlock, Products>(block, task, ring, *shared).run(int64_t{blockIdx.x}, static_cast<int>(blockIdx.y));
}

template <typename Products>
void launch_keys_with(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream) {
  const int64_t bytes = kFixedBytes<KeysShared> + plan.ring.bytes;
  allow_shared(keys_kernel<Products>, "shared memory of cluster_infonce's key gradient");
  const dim3 grid(static_cast<unsigned>(plan.groups), static_cast<unsigned>(plan.parts));
  const auto threads = static_cast<unsigned>(32 * plan.ring.ring.warps);
  keys_kernel<Products><<<grid, threads, static_cast<size_t>(bytes), stream>>>(task);
  check_cuda(cudaGetLastError(), "launching cluster_infonce's key gradient");
}

}  // namespace tmor::cluster_infonce
