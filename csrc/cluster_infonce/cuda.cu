// One CUDA call of cluster_infonce from beginning to end. Nothing here waits for the device.
#include "cluster_infonce/cuda_kernels.hpp"
#include "cluster_infonce/cuda_params.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {
namespace {

int64_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

template <typename Task>
void set_rows(const CudaParams& params, Task* task) {
  task->query_id = params.query_id;
  task->key_id = params.key_id;
  task->query_cluster = params.query_cluster;
  task->key_cluster = params.key_cluster;
  task->query_caption = params.query_caption;
  task->key_caption = params.key_caption;
  task->key_log_weight = params.key_log_weight;
  task->temperature = params.temperature;
}

RowSource key_rows(const CudaParams& params) {
  RowSource rows;
  rows.values = params.keys;
  rows.dtype = params.key_dtype;
  rows.stride = params.key_stride;
  rows.count = params.bank;
  rows.dimensions = static_cast<int32_t>(params.dimensions);
  return rows;
}

Stream as_stream(const void* values, int64_t stride, int64_t count, int64_t row_bytes) {
  Stream stream;
  stream.values = static_cast<const unsigned char*>(values);
  stream.stride = stride;
  stream.count = count;
  stream.row_bytes = static_cast<int32_t>(row_bytes);
  stream.aligned = is_aligned(stream) ? 1 : 0;
  return stream;
}

ForwardTask forward_task(const CudaForward& params, const ForwardPlan& plan, const ForwardMemory& memory) {
  const int64_t bytes = bytes_of(params.key_dtype);
  ForwardTask task;
  task.queries.values = params.query;
  task.queries.stride = params.dimensions;
  task.queries.count = params.batch;
  task.queries.dimensions = static_cast<int32_t>(params.dimensions);
  task.keys = as_stream(params.keys, params.key_stride * bytes, params.bank, params.dimensions * bytes);
  set_rows(params, &task);
  set_modes(params.form, params.denominator, params.has_chosen, &task);
  task.gradient = params.gradient != nullptr ? 1 : 0;
  task.splits = plan.splits;
  task.partials = memory.partials;
  task.ring = plan.ring.ring;
  return task;
}

MergeTask merge_task(const CudaForward& params, const ForwardTask& task, const ForwardMemory& memory) {
  MergeTask merge = merge_of(task);
  merge.form = params.form;
  merge.denominator = params.denominator;
  merge.keys = key_rows(params);
  merge.query = params.query;
  merge.positive = params.positive;
  merge.chosen = params.chosen;
  merge.chosen_count = params.chosen_count;
  merge.listed = memory.listed;
  merge.loss_out = params.loss;
  merge.gradient_out = params.gradient;
  merge.own_out = params.own_gradient;
  merge.statistics_out = params.statistics;
  return merge;
}

void check_workspace(const CudaParams& params, int64_t needed) {
  if (params.workspace_bytes < needed) throw std::invalid_argument("cluster_infonce: the workspace is too small");
}

}  // namespace

Limits cuda_limits(int device) {
  Limits limits;
  limits.multiprocessors = device_attribute(device, cudaDevAttrMultiProcessorCount);
  limits.shared_per_block = device_attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  limits.shared_per_multiprocessor = device_attribute(device, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  return limits;
}

int64_t cuda_forward_workspace(DType key_dtype, int64_t batch, int64_t bank, int64_t dimensions, int64_t chosen_count,
                               bool gradient, bool wants_aligned, const Limits& limits) {
  const ForwardPlan plan = plan_forward(key_dtype, batch, bank, dimensions, gradient, limits);
  return carve_forward(nullptr, plan, batch, dimensions, chosen_count, gradient, wants_aligned).bytes;
}

int64_t cuda_keys_workspace(DType key_dtype, int64_t batch, int64_t dimensions) {
  return carve_keys(nullptr, key_dtype, batch, dimensions).bytes;
}

void forward_cuda(const CudaForward& params) {
  check_sizes(params.batch, params.bank, params.dimensions);
  const Limits limits = cuda_limits(params.device);
  const bool gradient = params.gradient != nullptr;
  const ForwardPlan plan =
      plan_forward(params.key_dtype, params.batch, params.bank, params.dimensions, gradient, limits);
  const ForwardMemory memory = carve_forward(params.workspace, plan, params.batch, params.dimensions,
                                             params.chosen_count, gradient, !params.has_chosen);
  check_workspace(params, memory.bytes);
  const DeviceGuard guard(params.device);
  const auto stream = reinterpret_cast<cudaStream_t>(params.stream);
  const ForwardTask task = forward_task(params, plan, memory);
  if (params.key_dtype == DType::float32) {
    launch_forward_float32(task, plan, stream);
  } else if (params.key_dtype == DType::float16) {
    launch_forward_float16(task, plan, stream);
  } else {
    launch_forward_bfloat16(task, plan, stream);
  }
  launch_merge(merge_task(params, task, memory), stream);
}

void key_gradient_cuda(const CudaKeyGradient& params) {
  check_sizes(params.batch, params.bank, params.dimensions);
  const DType dtype = params.key_dtype;
  const KeysMemory memory = carve_keys(params.workspace, dtype, params.batch, params.dimensions);
  check_workspace(params, memory.bytes);
  const KeysPlan plan = plan_keys(dtype, params.batch, params.bank, params.dimensions, cuda_limits(params.device));
  const DeviceGuard guard(params.device);
  const auto stream = reinterpret_cast<cudaStream_t>(params.stream);
  NumbersTask numbers;
  numbers.query = params.query;
  numbers.dimensions = params.dimensions;
  numbers.upstream = params.upstream;
  numbers.statistics = params.statistics;
  numbers.temperature = params.temperature;
  numbers.batch = params.batch;
  numbers.memory = memory;
  launch_numbers(numbers, stream);
  KeysTask task;
  task.keys = key_rows(params);
  task.queries = memory.rounded == nullptr
                     ? as_stream(params.query, params.dimensions * 4, params.batch, params.dimensions * 4)
                     : as_stream(memory.rounded, memory.pitch * 2, params.batch, params.dimensions * 2);
  set_rows(params, &task);
  task.numbers = memory.numbers;
  task.chosen = params.chosen;
  task.chosen_count = params.chosen_count;
  task.has_chosen = params.has_chosen ? 1 : 0;
  task.key_gradient = params.key_gradient;
  task.ring = plan.ring.ring;
  dtype == DType::bfloat16 ? launch_keys_bfloat16(task, plan, stream) : launch_keys(task, plan, stream);
}

}  // namespace tmor::cluster_infonce
