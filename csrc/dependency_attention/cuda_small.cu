// The small programs as kernels, and what a call of the CUDA backend is made of.
#include <algorithm>

#include "dependency_attention/cuda_launcher.cuh"
#include "dependency_attention/cuda_plan.hpp"

namespace tmor::dependency_attention {
namespace {

template <typename Number>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const __grid_constant__ PackTask<Number> first, const __grid_constant__ PackTask<Number> second) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int64_t size = first.size() + second.size();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size; i += stride) {
    i < first.size() ? pack_one(first, i) : pack_one(second, i - first.size());
  }
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ MergeTask<Number> task) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < task.size; i += stride) merge_one(task, i);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) softmax_kernel(const __grid_constant__ SoftmaxTask<Number> task) {
  DeviceBlock block(attention_shared);
  take_softmax(block, task, blockIdx.x);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient_kernel(const __grid_constant__ SoftmaxGradientTask<Number> task) {
  DeviceBlock block(attention_shared);
  take_softmax_gradient(block, task, blockIdx.x);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) statistics_kernel(const __grid_constant__ StatisticsTask<Number> task) {
  DeviceBlock block(attention_shared);
  take_statistics(block, task, blockIdx.x);
}

unsigned grid_for(int64_t numbers) {
  return static_cast<unsigned>(std::clamp<int64_t>((numbers + kThreads - 1) / kThreads, 1, 1024));
}

unsigned checked_grid(int64_t blocks) {
  if (blocks > 0x7fffffff) throw std::invalid_argument("dependency_attention: too many clips");
  return static_cast<unsigned>(blocks);
}

// Calls use(Number()) with the number type of `dtype`.
template <typename Use>
auto with_number(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::float32:
      return use(float());
    case DType::float16:
      return use(Float16());
    case DType::bfloat16:
      return use(BFloat16());
    default:
      throw std::invalid_argument("dependency_attention: float32, float16 or bfloat16");
  }
}

// Checks the sizes, then calls use(plan, launcher) on the device of the call.
template <typename Use>
void run(const CudaParams& params, bool backward, const Use& use) {
  with_number(params.dtype, [&](auto number) {
    using Number = decltype(number);
    const Plan<Number> plan(params, backward);
    const DeviceGuard guard(params.device);
    Launcher<Number> launcher(params.device, params.stream);
    if (const char* refusal = plan.refusal(launcher.limits())) throw std::invalid_argument(refusal);
    use(plan, launcher);
  });
}

}  // namespace

template <typename Number>
void Launcher<Number>::pack(const PackTask<Number>& first, const PackTask<Number>& second) {
  pack_kernel<Number><<<grid_for(first.size() + second.size()), kThreads, 0, stream_>>>(first, second);
  check_cuda(cudaGetLastError(), "launching dependency_attention's packing");
}

template <typename Number>
void Launcher<Number>::merge(const MergeTask<Number>& task) {
  merge_kernel<Number><<<grid_for(task.size), kThreads, 0, stream_>>>(task);
  check_cuda(cudaGetLastError(), "launching dependency_attention's sums");
}

template <typename Number>
void Launcher<Number>::statistics(const StatisticsTask<Number>& task) {
  statistics_kernel<Number><<<checked_grid(task.blocks()), kThreads, task.kBytes, stream_>>>(task);
  check_cuda(cudaGetLastError(), "launching dependency_attention's statistics");
}

template <typename Number>
void Launcher<Number>::softmax(const SoftmaxTask<Number>& task, int64_t blocks) {
  softmax_kernel<Number><<<checked_grid(blocks), kThreads, 0, stream_>>>(task);
  check_cuda(cudaGetLastError(), "launching dependency_attention's softmax");
}

template <typename Number>
void Launcher<Number>::softmax_gradient(const SoftmaxGradientTask<Number>& task, int64_t blocks) {
  softmax_gradient_kernel<Number><<<checked_grid(blocks), kThreads, 0, stream_>>>(task);
  check_cuda(cudaGetLastError(), "launching dependency_attention's gradient of the softmax");
}

int64_t cuda_workspace(const CudaParams& params, bool backward) {
  return with_number(params.dtype, [&](auto number) { return Plan<decltype(number)>(params, backward).bytes(); });
}

std::string cuda_refusal(const CudaParams& params) {
  return with_number(params.dtype, [&](auto number) -> std::string {
    using Number = decltype(number);
    const DeviceGuard guard(params.device);
    const Limits limits = Launcher<Number>(params.device, 0).limits();
    for (const bool backward : {false, true}) {
      if (const char* refusal = Plan<Number>(params, backward).refusal(limits)) return refusal;
    }
    return "";
  });
}

void run_cuda_forward(const CudaParams& params) {
  run(params, false, [](const auto& plan, auto& launcher) { plan.forward(launcher); });
}

void run_cuda_backward(const CudaParams& params) {
  run(params, true, [](const auto& plan, auto& launcher) { plan.backward(launcher); });
}

void run_cuda_embedding_gradient(const CudaParams& params) {
  run(params, true, [](const auto& plan, auto& launcher) { plan.embedding_gradient(launcher); });
}

}  // namespace tmor::dependency_attention
