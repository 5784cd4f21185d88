// The second pass: numbers of each query, then the gradient of the keys.
#include "cluster_infonce/cuda_block.cuh"
#include "cluster_infonce/cuda_kernels.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {
namespace {

constexpr int kNumbersThreads = 128;

extern __shared__ __align__(1024) unsigned char shared_memory[];

__global__ void __launch_bounds__(kNumbersThreads) numbers_kernel(const __grid_constant__ NumbersTask task) {
  const int64_t i = int64_t{blockIdx.x} * kNumbersThreads + threadIdx.x;
  if (i >= task.batch) return;
  make_numbers(task.upstream, task.statistics, *task.temperature, task.batch, i, task.numbers);
}

__global__ void __launch_bounds__(kMaxThreads, 2) keys_kernel(const __grid_constant__ KeysTask task) {
  DeviceBlock block(shared_memory);
  const Ring ring = placed(task.ring, block, kFixedBytes<KeysShared>);
  auto* shared = reinterpret_cast<KeysShared*>(shared_memory);
  KeyGradient<DeviceBlock, FloatProducts>(block, task, ring, *shared)
      .run(int64_t{blockIdx.x}, static_cast<int>(blockIdx.y));
}

}  // namespace

void launch_keys(const KeysTask& task, const NumbersTask& numbers, const KeysPlan& plan, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(divide_up(numbers.batch, kNumbersThreads));
  numbers_kernel<<<blocks, kNumbersThreads, 0, stream>>>(numbers);
  check_cuda(cudaGetLastError(), "launching cluster_infonce's numbers");
  const int64_t bytes = kFixedBytes<KeysShared> + plan.ring.bytes;
  allow_shared(keys_kernel, "shared memory of cluster_infonce's key gradient");
  const dim3 grid(static_cast<unsigned>(plan.groups), static_cast<unsigned>(plan.parts));
  const auto threads = static_cast<unsigned>(32 * plan.ring.ring.warps);
  keys_kernel<<<grid, threads, static_cast<size_t>(bytes), stream>>>(task);
  check_cuda(cudaGetLastError(), "launching cluster_infonce's key gradient");
}

}  // namespace tmor::cluster_infonce
