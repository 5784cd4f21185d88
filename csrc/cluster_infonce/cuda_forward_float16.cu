#include "cluster_infonce/cuda_forward.cuh"

namespace tmor::cluster_infonce {

void launch_forward_float16(const ForwardTask& task, const ForwardPlan& plan, cudaStream_t stream) {
  with_half_products<Float16>(task.queries.count, task.queries.dimensions,
                              [&](auto products) { launch_forward<decltype(products)>(task, plan, stream); });
}

}  // namespace tmor::cluster_infonce
