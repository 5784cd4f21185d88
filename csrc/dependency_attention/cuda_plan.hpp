// One call from beginning to end: where everything lies in the workspace, and which programs run in which order. A
// launcher runs them: kernels on the device (cuda_launcher.cuh), or the host that plays them.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "common/carver.hpp"
#include "dependency_attention/cuda_params.hpp"
#include "dependency_attention/cuda_small.hpp"
#include "dependency_attention/cuda_tiles.hpp"

namespace tmor::dependency_attention {

inline Shape shape_of(const CudaParams& params) {
  constexpr int64_t kMost = int64_t{1} << 20;
  for (const int64_t size :
       {params.joints, params.channels_in, params.channels_out, params.heads, params.embedding, params.frames}) {
    if (size < 1) throw std::invalid_argument("dependency_attention: a size is below 1");
  }
  for (const int64_t size : {params.channels_in, params.channels_out, params.heads * params.joints,
                             params.heads * (params.embedding + 16)}) {
    if (size > kMost) throw std::invalid_argument("dependency_attention: more than 2^20 channels or heads x joints");
  }
  // The squares of joints are computed in 31 bits, and so are grids.
  if (params.joints > 32768) throw std::invalid_argument("dependency_attention: more than 32768 joints");
  if (params.clips < 0 || params.clips > kMost * 16 || params.frames > int64_t{1} << 30) {
    throw std::invalid_argument("dependency_attention: too many clips or frames");
  }
  Shape shape;
  shape.clips = params.clips;
  shape.frames = params.frames;
  shape.joints = static_cast<int32_t>(params.joints);
  shape.channels_in = static_cast<int32_t>(params.channels_in);
  shape.channels_out = static_cast<int32_t>(params.channels_out);
  shape.heads = static_cast<int32_t>(params.heads);
  shape.embedding = static_cast<int32_t>(params.embedding);
  return shape;
}

// Statistics are of what z is before anything follows it, and of at least one row.
inline void check_statistics(const CudaParams& params, bool backward) {
  if (params.statistics == nullptr || backward) return;
  if (params.shortcut != nullptr || params.relu) {
    throw std::invalid_argument("dependency_attention: statistics are of z without shortcut and relu, leave these out");
  }
  if (params.clips < 1) throw std::invalid_argument("dependency_attention: no statistics of no clips");
}

template <typename Number>
class Plan {
 public:
  Plan(const CudaParams& params, bool backward)
      : params_(params),
        backward_(backward),
        shape_(shape_of(params)),
        tiling_(make_tiling(shape_)),
        embedding_(make_pieces(shape_, Packing::embedding, kSlice<Number>)),
        values_(make_pieces(shape_, backward ? Packing::value_gradient : Packing::value, kSlice<Number>)) {
    check_statistics(params, backward);
    carve();
  }

  int64_t bytes() const { return bytes_; }

  // Why the tiles do not fit a device, or null.
  const char* refusal(const Limits& limits) const {
    if (memory_of_embedding(limits).stages == 0 || memory_of_values(limits).stages == 0 ||
        (backward_ && plan_value_weight(shape_, tiling_).bytes > limits.per_block)) {
      return "dependency_attention: the device has too little shared memory for so many joints and heads";
    }
    return nullptr;
  }

  template <typename Launcher>
  void forward(Launcher& launch) const {
    if (shape_.clips == 0) return;
    attend(launch);
    ValuesTask<Number> task = values_task(launch.limits());
    task.product.rows = rows_of_tensor(params_.x, shape_.channels_in);
    task.mixing = mixing_;
    task.channels = shape_.channels_out;
    task.out = static_cast<Number*>(params_.z);
    task.bias = static_cast<const Number*>(params_.value_bias);
    task.shortcut = static_cast<const Number*>(params_.shortcut);
    task.relu = params_.relu;
    task.paired = is_paired(params_.z, task.channels);
    if (params_.statistics == nullptr) return launch.template values<false, false>(task, blocks());
    task.moments = moments_;
    launch.template values<false, true>(task, blocks());
    StatisticsTask<Number> statistics;
    statistics.shape = shape_;
    statistics.tiling = tiling_;
    statistics.moments = moments_;
    statistics.bias = task.bias;
    statistics.out = params_.statistics;
    launch.statistics(statistics);
  }

  template <typename Launcher>
  void backward(Launcher& launch) const {
    attend(launch);
    const bool wants_mixing = params_.grad_dependency != nullptr || params_.wants_attention;
    if (shape_.clips > 0 && (params_.grad_x != nullptr || wants_mixing)) {
      ValuesTask<Number> task = values_task(launch.limits());
      task.product.rows = rows_of_tensor(params_.grad_z, shape_.channels_out);
      task.mixing = transposed_;
      task.channels = shape_.channels_in;
      task.out = static_cast<Number*>(params_.grad_x);
      task.paired = is_paired(params_.grad_x, task.channels);
      task.x = rows_of_tensor(params_.x, shape_.channels_in);
      task.partial = wants_mixing ? partial_ : nullptr;
      launch.template values<true, false>(task, blocks());
    }
    if (wants_mixing) finish_mixing(launch);
    if (params_.grad_value_weight != nullptr) sum_values(launch);
  }

  template <typename Launcher>
  void embedding_gradient(Launcher& launch) const {
    if (params_.first_clip < 0 || params_.last_clip > shape_.clips || params_.first_clip >= params_.last_clip) {
      throw std::invalid_argument("dependency_attention: no such clips");
    }
    EmbeddingTask<Number> task;
    task.shape = shape_;
    task.tiling = tiling_;
    task.product = embedding_product(launch.limits());
    task.mixing = logit_gradient_;
    task.first_clip = params_.first_clip;
    task.out = static_cast<Number*>(params_.grad_embedding);
    launch.embedding(task, (params_.last_clip - params_.first_clip) * tiling_.splits);
  }

 private:
  int64_t blocks() const { return shape_.clips * tiling_.splits; }

  Memory memory_of_embedding(const Limits& limits) const {
    return plan_memory(tiling_, embedding_, shape_.padded_joints(), sizeof(Number), false, limits);
  }

  Memory memory_of_values(const Limits& limits) const {
    return plan_memory(tiling_, values_, shape_.padded_all(), sizeof(Number), backward_, limits);
  }

  int64_t value_weights() const { return int64_t{shape_.channels_out} * shape_.heads * shape_.channels_in; }

  // Blocks of one split of the value weight's gradient share the tiles they read.
  int64_t weight_splits() const {
    ValueWeightTask<Number> task;
    task.shape = shape_;
    const int64_t tiles = shape_.clips * tiling_.tiles;
    const int64_t wanted = (kSlots + task.blocks() - 1) / task.blocks();
    return wanted < tiles ? wanted : tiles < 1 ? 1 : tiles;
  }

  void carve() {
    Carver carver(params_.workspace);
    const int64_t all = shape_.clips * shape_.heads * shape_.square();
    const int64_t side = shape_.padded_joints();
    packed_embedding_ = carver.take<Number>(pack_task(Packing::embedding).size());
    packed_bias_ = carver.take<float>(pack_task(Packing::embedding).columns());
    packed_values_ = carver.take<Number>(pack_task(values_packing()).size());
    partial_ = carver.take<float>(all * tiling_.splits);
    attention_ = carver.take<float>(all);
    (backward_ ? transposed_ : mixing_) = carver.take<Number>(shape_.clips * side * shape_.padded_all());
    if (backward_) {
      heads_ = carver.take<Number>(shape_.clips * shape_.heads * side * side);
      logit_gradient_ = carver.take<Number>(shape_.clips * shape_.heads * 2 * side * side);
      merged_ = carver.take<float>(all);
      weight_partial_ = carver.take<float>(weight_splits() * value_weights());
    } else if (params_.statistics != nullptr) {
      moments_ = carver.take<Moments>(blocks() * kWarps * shape_.channels_out);
    }
    bytes_ = carver.used();
    if (params_.workspace != nullptr && params_.workspace_bytes < bytes_) {
      throw std::invalid_argument("dependency_attention: the workspace is too small");
    }
  }

  Packing values_packing() const { return backward_ ? Packing::value_gradient : Packing::value; }

  PackTask<Number> pack_task(Packing packing) const {
    PackTask<Number> task;
    task.shape = shape_;
    task.packing = packing;
    const bool embedding = packing == Packing::embedding;
    task.pieces = embedding ? embedding_ : values_;
    task.weight = static_cast<const Number*>(embedding ? params_.query_key_weight : params_.value_weight);
    task.bias = static_cast<const Number*>(params_.query_key_bias);
    task.packed = embedding ? packed_embedding_ : packed_values_;
    task.packed_bias = packed_bias_;
    return task;
  }

  static Rows<Number> rows_of_tensor(const void* values, int64_t columns) {
    const bool aligned = reinterpret_cast<uintptr_t>(values) % 16 == 0 && columns % kChunk<Number> == 0;
    return {static_cast<const Number*>(values), columns, aligned};
  }

  static bool is_paired(const void* values, int64_t columns) {
    return reinterpret_cast<uintptr_t>(values) % (2 * sizeof(Number)) == 0 && columns % 2 == 0;
  }

  TileProduct<Number> embedding_product(const Limits& limits) const {
    TileProduct<Number> product;
    product.rows = rows_of_tensor(params_.x, shape_.channels_in);
    product.weights = packed_embedding_;
    product.bias = packed_bias_;
    product.scale = static_cast<float>(params_.scale);
    product.pieces = embedding_;
    product.memory = memory_of_embedding(limits);
    product.groups = tiling_.groups;
    return product;
  }

  ValuesTask<Number> values_task(const Limits& limits) const {
    ValuesTask<Number> task;
    task.shape = shape_;
    task.tiling = tiling_;
    task.product.weights = packed_values_;
    task.product.pieces = values_;
    task.product.memory = memory_of_values(limits);
    task.product.groups = tiling_.groups;
    return task;
  }

  // Packs the weights and computes the attention and the mixing matrices.
  template <typename Launcher>
  void attend(Launcher& launch) const {
    launch.pack(pack_task(Packing::embedding), pack_task(values_packing()));
    if (shape_.clips == 0) return;
    LogitsTask<Number> logits;
    logits.shape = shape_;
    logits.tiling = tiling_;
    logits.product = embedding_product(launch.limits());
    logits.partial = partial_;
    launch.logits(logits, blocks());
    SoftmaxTask<Number> softmax;
    softmax.shape = shape_;
    softmax.splits = tiling_.splits;
    softmax.partial = partial_;
    const double terms = static_cast<double>(shape_.embedding) * static_cast<double>(shape_.frames);
    softmax.factor = static_cast<float>(1.0 / (terms * params_.scale * params_.scale));
    softmax.dependency = static_cast<const Number*>(params_.dependency);
    softmax.attention = attention_;
    softmax.mixing = mixing_;
    softmax.transposed = transposed_;
    softmax.heads = heads_;
    launch.softmax(softmax, shape_.clips * shape_.heads);
  }

  template <typename Launcher>
  void finish_mixing(Launcher& launch) const {
    SoftmaxGradientTask<Number> task;
    task.shape = shape_;
    task.splits = tiling_.splits;
    task.partial = partial_;
    task.attention = attention_;
    const double terms = static_cast<double>(shape_.embedding) * static_cast<double>(shape_.frames);
    // One of the two scales of theta and phi is in the one that this is multiplied by.
    task.factor = static_cast<float>(1.0 / (terms * params_.scale));
    task.merged = merged_;
    task.mixing = params_.wants_attention ? logit_gradient_ : nullptr;
    if (shape_.clips > 0) launch.softmax_gradient(task, shape_.clips * shape_.heads);
    if (params_.grad_dependency == nullptr) return;
    MergeTask<Number> merge;
    merge.partial = merged_;
    merge.count = shape_.clips;
    merge.size = shape_.heads * shape_.square();
    merge.out = static_cast<Number*>(params_.grad_dependency);
    launch.merge(merge);
  }

  template <typename Launcher>
  void sum_values(Launcher& launch) const {
    ValueWeightTask<Number> task;
    task.shape = shape_;
    task.tiling = tiling_;
    task.grad = rows_of_tensor(params_.grad_z, shape_.channels_out);
    task.x = rows_of_tensor(params_.x, shape_.channels_in);
    task.mixing = heads_;
    task.partial = weight_partial_;
    task.splits = weight_splits();
    task.memory = plan_value_weight(shape_, tiling_);
    if (shape_.clips > 0) launch.value_weight(task, task.blocks() * task.splits);
    MergeTask<Number> merge;
    merge.partial = weight_partial_;
    merge.count = shape_.clips > 0 ? task.splits : 0;
    merge.size = value_weights();
    merge.out = static_cast<Number*>(params_.grad_value_weight);
    launch.merge(merge);
  }

  const CudaParams& params_;
  bool backward_;
  Shape shape_;
  Tiling tiling_;
  Pieces embedding_;
  Pieces values_;
  Number* packed_embedding_ = nullptr;
  float* packed_bias_ = nullptr;
  Number* packed_values_ = nullptr;
  float* partial_ = nullptr;
  float* attention_ = nullptr;
  Number* mixing_ = nullptr;
  Number* transposed_ = nullptr;
  Number* heads_ = nullptr;
  Number* logit_gradient_ = nullptr;
  float* merged_ = nullptr;
  float* weight_partial_ = nullptr;
  Moments* moments_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace tmor::dependency_attention
