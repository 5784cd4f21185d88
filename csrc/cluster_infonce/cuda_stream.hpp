// How a block streams columns past its rows: shared memory, the ring of asynchronous copies, the loop over tiles.
#pragma once

#include <cstdint>

#include "cluster_infonce/cuda_tile.hpp"
#include "common/dtype.hpp"

namespace tmor::cluster_infonce {

// Where things lie in a block's shared memory and how they flow; cuda_plan.hpp makes it.
struct Ring {
  uint32_t rows_at = 0;   // address of the rows' slices
  uint32_t stage_at = 0;  // address of the first stage
  int32_t warps = 1;
  int32_t rows = 0;      // of the block
  int32_t slices = 0;    // of a row
  int32_t steps = 0;     // of kStepBytes in a row
  int32_t stages = 2;    // 2 to kMostStages
  int32_t resident = 0;  // 1: a stage holds a whole tile, which stays for both products; 0: one slice
  int32_t width = 0;     // columns of the sums that a block makes, a multiple of a slice's; blocks share the rest

  TMOR_HOST_DEVICE uint32_t stage_bytes() const {
    return kColumnSliceBytes * static_cast<uint32_t>(resident != 0 ? slices : 1);
  }
};

constexpr int kMostStages = 4;

// Rows to stream, as they lie in global memory.
struct Stream {
  const unsigned char* values = nullptr;
  int64_t stride = 0;  // bytes between two rows
  int64_t count = 0;
  int32_t row_bytes = 0;
  int32_t aligned = 0;  // every row starts at a multiple of 16 bytes
};

// The block's rows, of any type.
struct RowSource {
  const void* values = nullptr;
  DType dtype = DType::float32;
  int64_t stride = 0;  // numbers between two rows
  int64_t count = 0;
  int32_t dimensions = 0;

  TMOR_BLOCK_CODE float value(int64_t row, int k) const {
    const int64_t at = row * stride + k;
    if (dtype == DType::float32) return static_cast<const float*>(values)[at];
    const uint16_t bits = static_cast<const uint16_t*>(values)[at];
    return dtype == DType::float16 ? Float16::widen(bits) : BFloat16::widen(bits);
  }
};

// A power of two that brings `largest` to [1, 2) and its inverse; 1 for what is no finite number.
struct PowerOfTwo {
  float scale;
  float inverse;
};

TMOR_BLOCK_CODE PowerOfTwo normalising(float largest) {
  uint32_t exponent = bits_of_float(largest) >> 23 & 0xffU;
  if (exponent == 255U) return {1.0F, 1.0F};
  exponent = exponent < 1U ? 1U : exponent > 252U ? 252U : exponent;
  return {float_of_bits((254U - exponent) << 23), float_of_bits(exponent << 23)};
}

// Writes rows [first, first + ring.rows) to shared memory, zeros where there is none or no dimension, scaled by powers
// of two if the arithmetic wants it; their inverses go to `inverse` (ring.rows,). Eight threads a row, a chunk each.
template <typename Products, typename Block>
TMOR_BLOCK_CODE void load_rows(Block& block, const Ring& ring, const RowSource& source, int64_t first, float* inverse) {
  constexpr int kNumbers = 16 / Products::kBytes;
  for (int group = 0; group < ring.rows; group += ring.warps * 4) {
    const auto number = [&](int thread, int slice, int i) {
      const int64_t row = first + group + thread / 8;
      const int k = (slice * 8 + thread % 8) * kNumbers + i;
      return row < source.count && k < source.dimensions ? source.value(row, k) : 0.0F;
    };
    typename Block::template PerThread<float> largest;
    block.each([&](int thread) {
      largest[thread] = 1.0F;
      if (!Products::kScaled) return;
      float most = 0.0F;
      for (int slice = 0; slice < ring.slices; ++slice) {
        TMOR_UNROLL
        for (int i = 0; i < kNumbers; ++i) {
          const float size = fabsf(number(thread, slice, i));
          most = size > most ? size : most;
        }
      }
      largest[thread] = most;
    });
    if (Products::kScaled) {
      TMOR_UNROLL
      for (int distance = 1; distance < 8; distance *= 2) {
        typename Block::template PerThread<float> other;
        block.exchange(largest, other, distance);
        block.each(
            [&](int thread) { largest[thread] = other[thread] > largest[thread] ? other[thread] : largest[thread]; });
      }
    }
    block.each([&](int thread) {
      const int row = group + thread / 8;
      const PowerOfTwo power = normalising(largest[thread]);
      if (thread % 8 == 0) inverse[row] = power.inverse;
      for (int slice = 0; slice < ring.slices; ++slice) {
        uint32_t words[4];
        TMOR_UNROLL
        for (int i = 0; i < 4; ++i) {
          if constexpr (Products::kScaled) {
            words[i] = Block::template pack<typename Products::Number>(number(thread, slice, 2 * i) * power.scale,
                                                                       number(thread, slice, 2 * i + 1) * power.scale);
          } else {
            words[i] = bits_of_float(number(thread, slice, i));
          }
        }
        const uint32_t target = ring.rows_at + static_cast<uint32_t>(slice * ring.rows * kRowBytes);
        block.store_chunk(target + slice_offset(row, thread % 8), words);
      }
    });
  }
}

// Enqueues one slice of a tile; what lies behind the last row or dimension becomes zero.
template <typename Block>
TMOR_BLOCK_CODE void copy_slice(Block& block, const Ring& ring, const Stream& stream, int tile, int slice,
                                uint32_t target) {
  block.each([&](int thread) {
    if (stream.aligned != 0 && ring.warps == kMaxWarps && (int64_t{tile} + 1) * kTileColumns <= stream.count) {
      const int offset = slice * kRowBytes + thread % 8 * 16;  // most tiles: nothing to ask of each row
      int valid = stream.row_bytes - offset;
      valid = valid < 0 ? 0 : valid > 16 ? 16 : valid;
      const int64_t row = int64_t{tile} * kTileColumns + thread / 8;
      const unsigned char* source = stream.values + row * stream.stride + (valid > 0 ? offset : 0);
      constexpr int kStep = 4 * kMaxWarps;
      TMOR_UNROLL
      for (int k = 0; k < kTileColumns / kStep; ++k) {
        block.copy_chunk(target + slice_offset(thread / 8 + k * kStep, thread % 8), source, valid);
        source += kStep * stream.stride;
      }
      return;
    }
    for (int i = thread; i < kTileColumns * 8; i += 32 * ring.warps) {
      const int64_t row = int64_t{tile} * kTileColumns + i / 8;
      const int offset = slice * kRowBytes + i % 8 * 16;
      int valid = row < stream.count ? stream.row_bytes - offset : 0;
      valid = valid < 0 ? 0 : valid > 16 ? 16 : valid;
      const unsigned char* source = valid > 0 ? stream.values + row * stream.stride + offset : stream.values;
      const uint32_t to = target + slice_offset(i / 8, i % 8);
      if (stream.aligned != 0) {
        block.copy_chunk(to, source, valid);
      } else {  // rows start anywhere: number by number, at once
        uint32_t words[4];
        TMOR_UNROLL
        for (int w = 0; w < 4; ++w) {
          const auto* halves = reinterpret_cast<const uint16_t*>(source) + 2 * w;
          words[w] = valid > 4 * w ? halves[0] : 0U;
          if (valid > 4 * w + 2) words[w] |= static_cast<uint32_t>(halves[1]) << 16;
        }
        block.store_chunk(to, words);
      }
    }
  });
}

// For every tile in [first, last): describe(tile) enqueues what else is known of its columns; weigh(tile, scores,
// decay, wanted) makes weights of the scores and says what the sums so far are multiplied with; then, if `mixes`, sums
// = sums decay + weights columns, for the columns from slice `first_slice` on. If the task has a second set of weights,
// the warps that `wanted` it (all threads of a warp alike) get it from second.weights(thread) and give the products
// with the same columns to second.add(thread, tile of 8 columns, row tile, products). Loads run ahead by stages - 1
// stages; prepare() runs once, while the first of them are on their way.
template <typename Products, bool kHasSecond, typename Block, typename Prepare, typename Describe, typename Weigh,
          typename Second>
TMOR_BLOCK_CODE void stream_tiles(Block& block, const Ring& ring, const Stream& stream, int first, int last,
                                  int first_slice, bool mixes,
                                  typename Block::template PerThread<typename Products::Sums>& sums,
                                  const Prepare& prepare, const Describe& describe, const Weigh& weigh,
                                  Second& second) {
  constexpr int kSumSlices = Products::kSumTiles / Products::kSliceTiles;
  const int left_slices = ring.slices - first_slice;
  const int sum_slices = !mixes ? 0 : left_slices < kSumSlices ? left_slices : kSumSlices;
  const bool resident = Products::kOnePart || ring.resident != 0;
  const int units = resident ? 1 : ring.slices + sum_slices;
  int load_tile = first;  // what is loaded next, and into which stage
  int load_unit = 0;
  int load_stage = 0;
  const auto load = [&]() {
    if (load_tile < last) {
      const uint32_t target = ring.stage_at + static_cast<uint32_t>(load_stage) * ring.stage_bytes();
      if (load_unit == 0) describe(load_tile);
      if (resident) {
        for (int slice = 0; slice < ring.slices; ++slice) {
          copy_slice(block, ring, stream, load_tile, slice, target + static_cast<uint32_t>(slice) * kColumnSliceBytes);
        }
      } else {
        const int slice = load_unit < ring.slices ? load_unit : first_slice + load_unit - ring.slices;
        copy_slice(block, ring, stream, load_tile, slice, target);
      }
      load_stage = load_stage + 1 == ring.stages ? 0 : load_stage + 1;
      if (++load_unit == units) {
        load_unit = 0;
        ++load_tile;
      }
    }
    block.commit();  // also of nothing, so that wait counts units
  };

  int stage = -1;
  const auto next = [&]() {
    block.wait(ring.stages - 2);
    block.barrier();  // the unit is there for all, and all have finished the one whose stage is loaded next
    load();
    stage = stage + 1 == ring.stages ? 0 : stage + 1;
    return ring.stage_at + static_cast<uint32_t>(stage) * ring.stage_bytes();
  };

  for (int ahead = 1; ahead < ring.stages; ++ahead) load();
  prepare();
  for (int tile = first; tile < last; ++tile) {
    typename Block::template PerThread<typename Products::Scores> scores;
    block.each([&](int thread) { scores[thread] = typename Products::Scores{}; });
    uint32_t right = 0;
    for (int slice = 0; slice < ring.slices; ++slice) {
      if (!resident || slice == 0) right = next();
      const uint32_t at = right + (resident ? static_cast<uint32_t>(slice) * kColumnSliceBytes : 0U);
      const uint32_t left = ring.rows_at + static_cast<uint32_t>(slice * ring.rows * kRowBytes);
      const int steps = ring.steps - slice * kSteps;
      if (steps >= kSteps) {
        multiply_slice<Products, true>(block, left, at, kSteps, scores);
      } else {
        multiply_slice<Products, false>(block, left, at, steps, scores);
      }
    }
    typename Block::template PerThread<typename Products::Rows> decay;
    typename Block::template PerThread<uint32_t> wanted;
    weigh(tile, scores, decay, wanted);
    if (sum_slices == 0) continue;
    typename Block::template PerThread<typename Products::Weights> weights;
    block.each([&](int thread) { Products::template pack<Block>(scores[thread], &weights[thread]); });
    TMOR_UNROLL
    for (int s = 0; s < kSumSlices; ++s) {
      if (s >= sum_slices) break;
      const int slice = first_slice + s;
      const uint32_t at = resident ? right + static_cast<uint32_t>(slice) * kColumnSliceBytes : next();
      const int tiles = (ring.steps - slice * kSteps) * kStepBytes / (8 * Products::kBytes);
      const auto use = [&](int thread, int n, int i, const Quad& quad) {
        TMOR_UNROLL
        for (int c = 0; c < 4; ++c) {
          float& sum = sums[thread].value[i][s * Products::kSliceTiles + n][c];
          sum = sum * decay[thread].value[i][c >> 1] + quad.value[c];
        }
      };
      // With 32 rows a warp there are no registers for loads that run ahead here.
      if (Products::kRowTiles == 1 && tiles >= Products::kSliceTiles) {
        Products::template mix<Products::kRowTiles == 1>(block, weights, at, tiles, use);
      } else {
        Products::template mix<false>(block, weights, at, tiles, use);
      }
      if constexpr (kHasSecond) {
        block.where(wanted, [&]() {
          typename Block::template PerThread<typename Products::Weights> others;
          block.each([&](int thread) { others[thread] = second.weights(thread); });
          Products::template mix<false>(block, others, at, tiles, [&](int thread, int n, int i, const Quad& quad) {
            second.add(thread, s * Products::kSliceTiles + n, i, quad);
          });
        });
      }
    }
  }
  block.wait(0);
  block.barrier();
}

}  // namespace tmor::cluster_infonce
