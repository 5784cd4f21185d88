#include "cluster_infonce/cuda_keys.cuh"

namespace tmor::cluster_infonce {

void launch_keys_bfloat16(const KeysTask& task, const KeysPlan& plan, cudaStream_t stream) {
  if (task.keys.dimensions > 128) {
    launch_keys_with<WideProducts<BFloat16>>(task, plan, stream);
  } else if (task.keys.count > kFewRows) {
    launch_keys_with<TallProducts<BFloat16>>(task, plan, stream);
  } else {
    launch_keys_with<NarrowProducts<BFloat16>>(task, plan, stream);
  }
}

}  // namespace tmor::cluster_infonce
