// How a CUDA call is cut into blocks and what it keeps in memory: arithmetic alone, the same on a machine without a
// GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "cluster_infonce/cuda_aligned.hpp"
#include "cluster_infonce/cuda_keys.hpp"
#include "cluster_infonce/cuda_merge.hpp"
#include "cluster_infonce/cuda_params.hpp"
#include "common/carver.hpp"

namespace tmor::cluster_infonce {

constexpr int64_t kMostDimensions = 768;

// The shapes that are compiled. Registers hold the sums of a warp: 16 rows by 128 columns, for three blocks of a
// multiprocessor; 32 by 128, which reads shared memory half as often, or 16 by 256, for two.
template <typename Number>
using NarrowProducts = HalfProducts<Number, Tiles<1, 128, true>>;  // up to 128 dimensions and kFewRows rows
template <typename Number>
using TallProducts = HalfProducts<Number, Tiles<2, 128, true>>;  // up to 128 dimensions
template <typename Number>
using WideProducts = HalfProducts<Number, Tiles<1, 256>>;
using FloatProducts = SingleProducts<Tiles<1, 128>>;
using RoundedProducts = SingleProducts<Tiles<1, 128>, 1>;
constexpr int64_t kFewRows = 128;

struct Shape {
  int32_t bytes;  // of a number
  int32_t warp_rows;
  int32_t width;  // columns of the sums
  bool one_part;  // whole tiles in the ring, always
};

template <typename Products>
constexpr Shape shape_of() {
  return {Products::kBytes, Products::kWarpRows, 8 * Products::kSumTiles, Products::kOnePart};
}

// use(products) with those for this many rows of a type of 16 bits: what plans, launches and the host's play agree on.
template <typename Number, typename Use>
auto with_half_products(int64_t rows, int64_t dimensions, const Use& use) {
  if (dimensions > 128) return use(WideProducts<Number>());
  return rows > kFewRows ? use(TallProducts<Number>()) : use(NarrowProducts<Number>());
}

inline Shape half_shape(int64_t rows, int64_t dimensions) {
  return with_half_products<BFloat16>(rows, dimensions, [](auto products) { return shape_of<decltype(products)>(); });
}

inline Shape forward_shape(DType key_dtype, int64_t batch, int64_t dimensions) {
  return key_dtype == DType::float32 ? shape_of<FloatProducts>() : half_shape(batch, dimensions);
}

// Of the gradient of the keys, whose rows they are.
inline Shape keys_shape(DType key_dtype, int64_t bank, int64_t dimensions) {
  return key_dtype == DType::bfloat16 ? half_shape(bank, dimensions) : shape_of<FloatProducts>();
}

// A type's size in shared memory, before the rows.
template <typename Fixed>
constexpr int64_t kFixedBytes = (static_cast<int64_t>(sizeof(Fixed)) + 127) / 128 * 128;

struct RingPlan {
  Ring ring;           // addresses count from the end of the fixed part
  int32_t blocks = 0;  // of a multiprocessor
  int64_t bytes = 0;   // of the rows and the ring
};

// As many rows as there are, up to four warps of them, and whole tiles in the ring, if that fits; two blocks of a
// multiprocessor hide each other's epilogues.
inline RingPlan plan_ring(const Shape& shape, int64_t rows, int64_t dimensions, int64_t fixed, const Limits& limits) {
  constexpr int64_t kReserved = 1024;  // of each block, by the driver
  RingPlan plan;
  Ring& ring = plan.ring;
  ring.slices = static_cast<int32_t>((dimensions * shape.bytes + kRowBytes - 1) / kRowBytes);
  ring.steps = static_cast<int32_t>((dimensions * shape.bytes + kStepBytes - 1) / kStepBytes);
  ring.width = shape.width;
  for (int warps = kMaxWarps; warps >= 1; warps /= 2) {
    if (warps > 1 && rows <= int64_t{shape.warp_rows} * warps / 2) continue;
    ring.warps = warps;
    ring.rows = shape.warp_rows * warps;
    const int64_t rows_bytes = int64_t{ring.rows} * ring.slices * kRowBytes;
    for (const int resident : {1, 0}) {
      if (resident == 0 && shape.one_part) continue;
      ring.resident = resident;
      const int64_t least = resident != 0 ? 2 : 3;
      for (int blocks = shape.one_part && shape.warp_rows == 16 ? 3 : 2; blocks >= 1; --blocks) {
        const int64_t share = limits.shared_per_multiprocessor / blocks - kReserved;
        const int64_t room = std::min(share, limits.shared_per_block) - fixed - rows_bytes;
        const int64_t stages = std::min<int64_t>(kMostStages, room / ring.stage_bytes());
        if (room < 0 || stages < least) continue;
        ring.stages = static_cast<int32_t>(stages);
        ring.stage_at = static_cast<uint32_t>(rows_bytes);
        plan.blocks = blocks;
        plan.bytes = rows_bytes + stages * ring.stage_bytes();
        return plan;
      }
    }
  }
  throw std::runtime_error("cluster_infonce: the device has too little shared memory for this many dimensions");
}

inline int64_t divide_up(int64_t n, int64_t step) { return (n + step - 1) / step; }

struct ForwardPlan {
  RingPlan ring;
  int64_t groups = 1;  // of rows
  int64_t splits = 1;
  int64_t parts = 1;  // of the gradient's columns
};

inline void check_sizes(int64_t batch, int64_t bank, int64_t dimensions) {
  if (batch < 1 || bank < 1 || dimensions < 1 || dimensions > kMostDimensions || batch > 0x7fffffff ||
      bank > int64_t{1} << 35) {
    throw std::invalid_argument("cluster_infonce: sizes out of range");
  }
}

// Splits for all multiprocessors, if each has 256 keys to read; the result depends on the device only through them.
inline ForwardPlan plan_forward(DType key_dtype, int64_t batch, int64_t bank, int64_t dimensions, bool gradient,
                                const Limits& limits) {
  constexpr int64_t kShortest = 256;     // keys worth a split of their own
  constexpr int64_t kLongest = 1 << 17;  // keys whose weighted sum one float32 adds up
  check_sizes(batch, bank, dimensions);
  const Shape shape = forward_shape(key_dtype, batch, dimensions);
  ForwardPlan plan;
  plan.ring = plan_ring(shape, batch, dimensions, kFixedBytes<ForwardShared>, limits);
  plan.groups = divide_up(batch, plan.ring.ring.rows);
  plan.parts = gradient ? divide_up(dimensions, shape.width) : 1;
  const int64_t slots = limits.multiprocessors * plan.ring.blocks;
  const int64_t wanted = std::max<int64_t>(1, slots / (plan.groups * plan.parts));
  const int64_t least = divide_up(bank, kLongest);
  // More than one wave of blocks comes as whole waves.
  plan.splits = least > wanted ? wanted * divide_up(least, wanted) : std::min(wanted, divide_up(bank, kShortest));
  plan.splits = std::min<int64_t>(plan.splits, kMostSplits);
  return plan;
}

struct ForwardMemory {
  Partials partials;
  double* listed = nullptr;  // (B, chosen)
  int64_t bytes = 0;
};

inline ForwardMemory carve_forward(void* memory, const ForwardPlan& plan, int64_t batch, int64_t dimensions,
                                   int64_t chosen_count, bool gradient, bool wants_aligned) {
  ForwardMemory result;
  Carver carver(memory);
  const int64_t rows = plan.splits * batch;
  result.partials.maximum = carver.take<float>(rows);
  result.partials.total = carver.take<double>(rows);
  if (gradient) result.partials.weighted = carver.take<float>(rows * dimensions);
  if (wants_aligned) {
    result.partials.aligned_maximum = carver.take<float>(rows);
    result.partials.aligned_total = carver.take<double>(rows);
    result.partials.aligned_count = carver.take<uint32_t>(rows);
    if (gradient) result.partials.aligned_weighted = carver.take<float>(rows * dimensions);
  }
  result.listed = carver.take<double>(batch * chosen_count);
  result.bytes = carver.used();
  return result;
}

// Whether cp.async can fetch the rows.
inline bool is_aligned(const Stream& stream) {
  return reinterpret_cast<uintptr_t>(stream.values) % 16 == 0 && (stream.count == 1 || stream.stride % 16 == 0);
}

inline void set_modes(Form form, Denominator denominator, bool has_chosen, ForwardTask* task) {
  task->wants_aligned = has_chosen ? 0 : 1;
  task->plain = form == Form::supcon ? 1 : 0;
  // The denominator of supcon takes A in as it is; its positives only count as they are.
  task->whole = !has_chosen && task->plain != 0 && denominator == Denominator::all ? 1 : 0;
}

// What the merge takes over from the pass.
inline MergeTask merge_of(const ForwardTask& task) {
  MergeTask merge;
  merge.wants_aligned = task.wants_aligned;
  merge.plain = task.plain;
  merge.gradient = task.gradient;
  merge.splits = task.splits;
  merge.batch = task.queries.count;
  merge.partials = task.partials;
  merge.key_log_weight = task.key_log_weight;
  merge.temperature = task.temperature;
  return merge;
}

struct KeysPlan {
  RingPlan ring;
  int64_t groups = 1;
  int64_t parts = 1;
};

inline KeysPlan plan_keys(DType key_dtype, int64_t batch, int64_t bank, int64_t dimensions, const Limits& limits) {
  check_sizes(batch, bank, dimensions);
  const Shape shape = keys_shape(key_dtype, bank, dimensions);
  KeysPlan plan;
  plan.ring = plan_ring(shape, bank, dimensions, kFixedBytes<KeysShared>, limits);
  plan.groups = divide_up(bank, plan.ring.ring.rows);
  plan.parts = divide_up(dimensions, shape.width);
  if (plan.groups > 0x7fffffff) throw std::invalid_argument("cluster_infonce: sizes out of range");
  return plan;
}

struct KeysMemory {
  float* numbers = nullptr;     // (kNumbers, B)
  uint32_t* rounded = nullptr;  // (B, pitch) in pairs of bfloat16, for a bank of that type
  int64_t pitch = 0;            // whole chunks of 16 bytes
  int64_t bytes = 0;
};

inline KeysMemory carve_keys(void* memory, DType key_dtype, int64_t batch, int64_t dimensions) {
  KeysMemory result;
  Carver carver(memory);
  result.numbers = carver.take<float>(kNumbers * batch);
  if (key_dtype == DType::bfloat16) {
    result.pitch = divide_up(dimensions, 8) * 8;
    result.rounded = carver.take<uint32_t>(batch * result.pitch / 2);
  }
  result.bytes = carver.used();
  return result;
}

}  // namespace tmor::cluster_infonce
