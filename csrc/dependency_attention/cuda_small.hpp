// The small programs between the tile programs: packed weights, softmax and its gradient, merged sums. Sums over blocks
// are taken in one fixed order.
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_block.hpp"

namespace tmor::dependency_attention {

template <typename Number>
struct PackTask {
  Shape shape;
  Packing packing = Packing::embedding;
  Pieces pieces;
  const Number* weight = nullptr;
  const Number* bias = nullptr;  // of query_key_weight
  Number* packed = nullptr;      // (pieces.count * pieces.columns(), depth())
  float* packed_bias = nullptr;  // (pieces.count * pieces.columns(),)

  TMOR_HOST_DEVICE int64_t depth() const { return int64_t{pieces.slices} * kSlice<Number>; }
  TMOR_HOST_DEVICE int64_t columns() const { return int64_t{pieces.count} * pieces.columns(); }
  TMOR_HOST_DEVICE int64_t size() const { return columns() * depth(); }
};

template <typename Number>
TMOR_BLOCK_CODE void pack_one(const PackTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const int64_t column = index / task.depth();
  const int64_t k = index % task.depth();
  const Origin from = origin_of(shape, task.packing, task.pieces, column);
  const int64_t inputs = shape.channels_in;
  const int64_t depth = task.packing == Packing::value_gradient ? shape.channels_out : inputs;
  if (task.packing == Packing::embedding && k == 0) {
    task.packed_bias[column] = from.channel < 0 ? 0.0F : widen(task.bias[from.channel]);
  }
  Number value = narrow<Number>(0.0F);
  if (from.channel >= 0 && k < depth) {
    const int64_t wide = shape.heads * inputs;
    if (task.packing == Packing::embedding) value = task.weight[from.channel * inputs + k];
    if (task.packing == Packing::value) value = task.weight[from.channel * wide + from.head * inputs + k];
    if (task.packing == Packing::value_gradient) value = task.weight[k * wide + from.head * inputs + from.channel];
  }
  task.packed[index] = value;
}

// The sum over blocks of one number of one head of one clip.
TMOR_BLOCK_CODE float merge(const Shape& shape, const float* partial, int64_t splits, int64_t clip, int64_t offset) {
  float sum = 0.0F;
  for (int64_t split = 0; split < splits; ++split) {
    sum += partial[(clip * splits + split) * shape.heads * shape.square() + offset];
  }
  return sum;
}

template <typename Number>
struct SoftmaxTask {
  Shape shape;
  int64_t splits = 1;
  const float* partial = nullptr;  // (clips * splits, heads, V, V) sums of products of scaled theta and phi
  float factor = 1.0F;             // from these sums to logits
  const Number* dependency = nullptr;
  float* attention = nullptr;    // out, (clips, heads, V, V)
  Number* mixing = nullptr;      // out or null, (clips, padded_joints, padded_all): row w holds M[v, w] at h V + v
  Number* transposed = nullptr;  // out or null, the same size: row v holds M[v, w] at h V + w
  Number* heads = nullptr;       // out or null, (clips, heads, padded_joints, padded_joints): row w, column v
};

// Block `index` is head index % heads of clip index / heads; the last head fills the columns behind those of all.
template <typename Number, typename Block>
TMOR_BLOCK_CODE void take_softmax(Block& block, const SoftmaxTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const int64_t clip = index / shape.heads;
  const int64_t head = index % shape.heads;
  const int joints = shape.joints;
  const int square = joints * joints;
  float* attention = task.attention + index * square;
  block.each([&](int thread) {
    for (int i = thread; i < square; i += kThreads) {
      attention[i] = merge(shape, task.partial, task.splits, clip, head * square + i) * task.factor;
    }
  });
  block.barrier();
  block.each([&](int thread) {
    for (int w = thread; w < joints; w += kThreads) {
      float largest = attention[w];
      for (int i = w; i < square; i += joints) largest = fmaxf(largest, attention[i]);
      float sum = 0.0F;
      for (int i = w; i < square; i += joints) {
        const float term = expf(attention[i] - largest);
        attention[i] = term;
        sum += term;
      }
      const float inverse = 1.0F / sum;
      for (int i = w; i < square; i += joints) attention[i] *= inverse;
    }
  });
  block.barrier();
  block.each([&](int thread) {
    const int side = shape.padded_joints();
    const int all = shape.padded_all();
    const Number* dependency = task.dependency + head * square;
    const auto mixed = [&](int v, int w) {
      const int i = v * joints + w;
      return narrow<Number>(v < joints && w < joints ? attention[i] + widen(dependency[i]) : 0.0F);
    };
    const int begin = static_cast<int>(head) * joints;
    const int width = head + 1 == shape.heads ? all - begin : joints;
    for (int i = thread; i < side * width; i += kThreads) {
      const int row = i / width;
      const int column = i % width;
      const int64_t at = (clip * side + row) * all + begin + column;
      if (task.mixing != nullptr) task.mixing[at] = mixed(column, row);
      if (task.transposed != nullptr) task.transposed[at] = mixed(row, column);
    }
    if (task.heads == nullptr) return;
    for (int i = thread; i < side * side; i += kThreads) {
      task.heads[index * side * side + i] = mixed(i % side, i / side);
    }
  });
}

template <typename Number>
struct SoftmaxGradientTask {
  Shape shape;
  int64_t splits = 1;
  const float* partial = nullptr;    // (clips * splits, heads, V, V), the gradient of M[v, w]
  const float* attention = nullptr;  // (clips, heads, V, V)
  float factor = 1.0F;               // from the gradient of logits to what scaled theta and phi are multiplied by
  float* merged = nullptr;           // out, (clips, heads, V, V)
  Number* mixing = nullptr;          // out or null, (clips, heads, 2, padded_joints, padded_joints): [v, w] and [w, v]
};

template <typename Number, typename Block>
TMOR_BLOCK_CODE void take_softmax_gradient(Block& block, const SoftmaxGradientTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const int64_t joints = shape.joints;
  float* merged = task.merged + index * shape.square();
  block.each([&](int thread) {
    for (int64_t i = thread; i < shape.square(); i += kThreads) {
      const int64_t offset = index % shape.heads * shape.square() + i;
      merged[i] = merge(shape, task.partial, task.splits, index / shape.heads, offset);
    }
    if (task.mixing == nullptr) return;
    const int side = shape.padded_joints();  // 32 bits: the rest of a 64-bit division would be spilled
    for (int i = thread; i < 2 * side * side; i += kThreads) {
      const bool filling = i % side >= shape.joints || i / side % side >= shape.joints;
      if (filling) task.mixing[index * 2 * side * side + i] = narrow<Number>(0.0F);
    }
  });
  if (task.mixing == nullptr) return;
  block.barrier();
  block.each([&](int thread) {
    const float* attention = task.attention + index * shape.square();
    const int64_t side = shape.padded_joints();
    Number* mixing = task.mixing + index * 2 * side * side;
    for (int64_t w = thread; w < joints; w += kThreads) {
      float mean = 0.0F;
      for (int64_t v = 0; v < joints; ++v) mean = fmaf(attention[v * joints + w], merged[v * joints + w], mean);
      for (int64_t v = 0; v < joints; ++v) {
        const int64_t i = v * joints + w;
        const Number value = narrow<Number>(attention[i] * (merged[i] - mean) * task.factor);
        mixing[v * side + w] = value;
        mixing[(side + w) * side + v] = value;
      }
    }
  });
}

// One number of a result that is a sum of `count` arrays of `size` numbers.
template <typename Number>
struct MergeTask {
  const float* partial = nullptr;
  int64_t count = 0;
  int64_t size = 0;
  Number* out = nullptr;
};

template <typename Number>
TMOR_BLOCK_CODE void merge_one(const MergeTask<Number>& task, int64_t index) {
  float sum = 0.0F;
  for (int64_t i = 0; i < task.count; ++i) sum += task.partial[i * task.size + index];
  task.out[index] = narrow<Number>(sum);
}

}  // namespace tmor::dependency_attention
