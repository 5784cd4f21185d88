// The naive backend: one kernel that takes one step of cuda_naive.hpp, a thread a number.
#include <algorithm>

#include "common/cuda_launch.hpp"
#include "dependency_attention/cuda_naive.hpp"

namespace tmor::dependency_attention {
namespace {

constexpr int kNaiveThreads = 128;

__global__ void __launch_bounds__(kNaiveThreads, 1)
    naive_kernel(const __grid_constant__ Naive naive, NaiveStep step, int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * kNaiveThreads;
  for (int64_t i = int64_t{blockIdx.x} * kNaiveThreads + threadIdx.x; i < count; i += stride) naive.one(step, i);
}

class Run {
 public:
  Run(const CudaParams& params, const Naive& naive)
      : naive_(naive), stream_(reinterpret_cast<cudaStream_t>(params.stream)) {}

  void operator()(NaiveStep step, int64_t count) const {
    if (count < 1) return;
    const int64_t blocks = std::min<int64_t>((count + kNaiveThreads - 1) / kNaiveThreads, int64_t{1} << 20);
    naive_kernel<<<static_cast<unsigned>(blocks), kNaiveThreads, 0, stream_>>>(naive_, step, count);
    check_cuda(cudaGetLastError(), "launching a naive kernel of dependency_attention");
  }

 private:
  const Naive& naive_;
  cudaStream_t stream_;
};

}  // namespace

int64_t cuda_naive_workspace(const CudaParams& params, bool backward) { return Naive(params, backward).bytes(); }

void run_cuda_naive_forward(const CudaParams& params) {
  const Naive naive(params, false);
  const DeviceGuard guard(params.device);
  naive.forward(Run(params, naive));
}

void run_cuda_naive_backward(const CudaParams& params) {
  const Naive naive(params, true);
  const DeviceGuard guard(params.device);
  naive.backward(Run(params, naive));
}

}  // namespace tmor::dependency_attention
