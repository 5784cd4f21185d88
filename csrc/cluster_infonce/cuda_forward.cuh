// The kernel of the forward pass for one arithmetic.
#pragma once

#include "cluster_infonce/cuda_block.cuh"
#include "cluster_infonce/cuda_forward.hpp"
#include "cluster_infonce/cuda_kernels.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {

extern __shared__ __align__(1024) unsigned char shared_memory[];

// Blocks of one split are neighbours, so that they find the keys in the L2 cache.
template <typename Products>
__global__ void __launch_bounds__(kMaxThreads, 2) forward_kernel(const __grid_constant__ ForwardTask task) {
  DeviceBlock block(shared_memory);
  const Ring ring = placed(task.ring, block, kFixedBytes<ForwardShared>);
  auto* shared = reinterpret_cast<ForwardShared*>(shared_memory);
  const Place place = Place::of(task, ring, int64_t{blockIdx.x}, int64_t{blockIdx.y}, static_cast<int>(blockIdx.z));
  Forward<DeviceBlock, Products>(block, task, ring, place, *shared).run();
}

template <typename Products>
void launch_forward(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream) {
  const int64_t bytes = kFixedBytes<ForwardShared> + plan.ring.bytes;
  allow_shared(forward_kernel<Products>, "shared memory of cluster_infonce");
  const dim3 grid(static_cast<unsigned>(plan.groups), static_cast<unsigned>(plan.splits),
                  static_cast<unsigned>(plan.parts));
  const auto threads = static_cast<unsigned>(32 * plan.ring.ring.warps);
  forward_kernel<Products><<<grid, threads, static_cast<size_t>(bytes), stream>>>(task);
  check_cuda(cudaGetLastError(), "launching cluster_infonce");
}

}  // namespace tmor::cluster_infonce
