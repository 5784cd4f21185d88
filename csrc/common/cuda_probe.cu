#include <algorithm>

#include "common/cuda_launch.hpp"
#include "common/cuda_probe.hpp"

namespace tmor {
namespace {

__global__ void probe_kernel(std::int32_t* values, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    // Seven times the index, wrapped to 31 bits: differs from neighbours and from any constant fill.
    values[i] = static_cast<std::int32_t>((7 * i + 1) & 0x7fffffff);
  }
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

void cuda_probe(int device, std::uintptr_t stream, std::int32_t* values, std::int64_t n) {
  if (n < 1) return;
  const DeviceGuard guard(device);
  constexpr int kThreads = 256;
  const std::int64_t blocks = std::min<std::int64_t>((n + kThreads - 1) / kThreads, 1024);
  probe_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(values, n);
  check_cuda(cudaGetLastError(), "launching the probe kernel");
}

}  // namespace tmor
