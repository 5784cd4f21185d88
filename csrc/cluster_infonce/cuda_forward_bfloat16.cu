#include "cluster_infonce/cuda_forward.cuh"

namespace tmor::cluster_infonce {

void launch_forward_bfloat16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream) {
  if (task.queries.dimensions > 128) {
    launch_forward<WideProducts<BFloat16>>(task, plan, stream);
  } else if (task.queries.count > kFewRows) {
    launch_forward<TallProducts<BFloat16>>(task, plan, stream);
  } else {
    launch_forward<NarrowProducts<BFloat16>>(task, plan, stream);
  }
}

}  // namespace tmor::cluster_infonce
