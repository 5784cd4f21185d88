#include "cluster_infonce/cuda_forward.cuh"

namespace tmor::cluster_infonce {

void launch_forward_float16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream) {
  if (task.queries.dimensions > 128) {
    launch_forward<WideProducts<Float16>>(task, plan, stream);
  } else if (task.queries.count > kFewRows) {
    launch_forward<TallProducts<Float16>>(task, plan, stream);
  } else {
    launch_forward<NarrowProducts<Float16>>(task, plan, stream);
  }
}

}  // namespace tmor::cluster_infonce
