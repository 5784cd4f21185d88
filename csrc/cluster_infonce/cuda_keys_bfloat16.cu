#include "cluster_infonce/cuda_keys.cuh"

namespace tmor::cluster_infonce {

void launch_keys_bfloat16(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream) {
  with_half_products<BFloat16>(task.keys.count, task.keys.dimensions,
                               [&](auto products) { launch_keys_with<decltype(products)>(task, plan, stream); });
}

}  // namespace tmor::cluster_infonce
