#include "cluster_infonce/cuda_forward.cuh"

namespace tmor::cluster_infonce {

void launch_forward_float32(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream) {
  launch_forward<FloatProducts>(task, plan, stream);
}

}  // namespace tmor::cluster_infonce
