// The tile programs of the backward pass as kernels.
#include "dependency_attention/cuda_launcher.cuh"

namespace tmor::dependency_attention {
namespace {

// float32 needs more registers than two blocks leave it.
template <typename Number>
__global__ void __launch_bounds__(kThreads, kHalf<Number> ? kTileBlocks : 1)
    values_gradient_kernel(const __grid_constant__ ValuesTask<Number> task) {
  DeviceBlock block(attention_shared);
  mix_values<true, false>(block, task, blockIdx.x);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    embedding_kernel(const __grid_constant__ EmbeddingTask<Number> task) {
  DeviceBlock block(attention_shared);
  mix_embedding(block, task, blockIdx.x);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    value_weight_kernel(const __grid_constant__ ValueWeightTask<Number> task) {
  DeviceBlock block(attention_shared);
  sum_value_weight(block, task, blockIdx.x);
}

}  // namespace

template <typename Number>
template <bool kBackward, bool kStatistics>
void Launcher<Number>::values(const ValuesTask<Number>& task, int64_t blocks) {
  launch_tiles(values_gradient_kernel<Number>, task, task.product.memory.bytes, blocks,
               "launching dependency_attention's gradient of the values");
}

template <typename Number>
void Launcher<Number>::embedding(const EmbeddingTask<Number>& task, int64_t blocks) {
  launch_tiles(embedding_kernel<Number>, task, task.product.memory.bytes, blocks,
               "launching dependency_attention's gradient of the embedding");
}

template <typename Number>
void Launcher<Number>::value_weight(const ValueWeightTask<Number>& task, int64_t blocks) {
  launch_tiles(value_weight_kernel<Number>, task, task.memory.bytes, blocks,
               "launching dependency_attention's gradient of the value weight");
}

template void Launcher<float>::values<true, false>(const ValuesTask<float>&, int64_t);
template void Launcher<Float16>::values<true, false>(const ValuesTask<Float16>&, int64_t);
template void Launcher<BFloat16>::values<true, false>(const ValuesTask<BFloat16>&, int64_t);
template void Launcher<float>::embedding(const EmbeddingTask<float>&, int64_t);
template void Launcher<Float16>::embedding(const EmbeddingTask<Float16>&, int64_t);
template void Launcher<BFloat16>::embedding(const EmbeddingTask<BFloat16>&, int64_t);
template void Launcher<float>::value_weight(const ValueWeightTask<float>&, int64_t);
template void Launcher<Float16>::value_weight(const ValueWeightTask<Float16>&, int64_t);
template void Launcher<BFloat16>::value_weight(const ValueWeightTask<BFloat16>&, int64_t);

}  // namespace tmor::dependency_attention
