// The tile programs of the forward pass as kernels.
#include "dependency_attention/cuda_launcher.cuh"

namespace tmor::dependency_attention {
namespace {

template <typename Number>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    logits_kernel(const __grid_constant__ LogitsTask<Number> task) {
  DeviceBlock block(attention_shared);
  sum_logits(block, task, blockIdx.x);
}

template <typename Number, bool kStatistics>
__global__ void __launch_bounds__(kThreads, kTileBlocks)
    values_kernel(const __grid_constant__ ValuesTask<Number> task) {
  DeviceBlock block(attention_shared);
  mix_values<false, kStatistics>(block, task, blockIdx.x);
}

}  // namespace

template <typename Number>
void Launcher<Number>::logits(const LogitsTask<Number>& task, int64_t blocks) {
  launch_tiles(logits_kernel<Number>, task, task.product.memory.bytes, blocks,
               "launching dependency_attention's logits");
}

template <typename Number>
template <bool kBackward, bool kStatistics>
void Launcher<Number>::values(const ValuesTask<Number>& task, int64_t blocks) {
  launch_tiles(values_kernel<Number, kStatistics>, task, task.product.memory.bytes, blocks,
               "launching dependency_attention's values");
}

template void Launcher<float>::logits(const LogitsTask<float>&, int64_t);
template void Launcher<Float16>::logits(const LogitsTask<Float16>&, int64_t);
template void Launcher<BFloat16>::logits(const LogitsTask<BFloat16>&, int64_t);
template void Launcher<float>::values<false, false>(const ValuesTask<float>&, int64_t);
template void Launcher<float>::values<false, true>(const ValuesTask<float>&, int64_t);
template void Launcher<Float16>::values<false, false>(const ValuesTask<Float16>&, int64_t);
template void Launcher<Float16>::values<false, true>(const ValuesTask<Float16>&, int64_t);
template void Launcher<BFloat16>::values<false, false>(const ValuesTask<BFloat16>&, int64_t);
template void Launcher<BFloat16>::values<false, true>(const ValuesTask<BFloat16>&, int64_t);

}  // namespace tmor::dependency_attention
