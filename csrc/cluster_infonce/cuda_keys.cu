// The second pass: numbers of each query, then the gradient of the keys.
#include "cluster_infonce/cuda_keys.cuh"

namespace tmor::cluster_infonce {
namespace {

constexpr int kNumbersThreads = 128;

// A warp a query.
__global__ void __launch_bounds__(kNumbersThreads) numbers_kernel(const __grid_constant__ NumbersTask task) {
  const int64_t i = int64_t{blockIdx.x} * (kNumbersThreads / 32) + threadIdx.x / 32;
  if (i >= task.batch) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const KeysMemory& memory = task.memory;
  if (lane == 0) make_numbers(task.upstream, task.statistics, *task.temperature, task.batch, i, memory.numbers);
  if (memory.rounded == nullptr) return;
  round_query<DeviceBlock>(task.query + i * task.dimensions, task.dimensions, memory.pitch, lane, 32,
                           memory.rounded + i * memory.pitch / 2);
}

}  // namespace

void launch_numbers(const NumbersTask& task, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(divide_up(task.batch, kNumbersThreads / 32));
  numbers_kernel<<<blocks, kNumbersThreads, 0, stream>>>(task);
  check_cuda(cudaGetLastError(), "launching cluster_infonce's numbers");
}

void launch_keys(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream) {
  // TF32 holds numbers of 16 bits exactly, and what else is rounded to 11 bits moves a result of 16 bits little.
  task.keys.dtype == DType::float32 ? launch_keys_with<FloatProducts>(task, plan, stream)
                                    : launch_keys_with<RoundedProducts>(task, plan, stream);
}

}  // namespace tmor::cluster_infonce
