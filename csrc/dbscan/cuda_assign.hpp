// Where points are sorted by place: the nearest of a few thousand pivots, by the tile code of the sweep. A wrong answer
// costs time alone, so no bounds are needed.
#pragma once

#include <cstdint>

#include "dbscan/cuda_block.hpp"

namespace tmor::dbscan {

struct AssignTask {
  Panels rows;
  int64_t row_panels = 0;
  int64_t points = 0;
  Panels pivots;
  int32_t pivot_panels = 0;
  const Frame* frame = nullptr;
  const uint32_t* leader = nullptr;  // (pivots,) or null
  uint32_t* answer = nullptr;        // (points,)
  uint32_t pivot_count = 0;
};

// Without leaders (rows are the pivots themselves): answer is the first pivot within eps, so that one pivot speaks for
// all of a dense cluster. With leaders: answer is the cell, the nearest pivot's leader, plus the number of pivots where
// even that pivot is farther than eps away: such points are noise more often than not and must not spoil the panels of
// clusters.
struct AssignShared {
  float row_half[kPanel];
  float column_half[2][kPanel];
  unsigned long long nearest[kPanel];  // order-preserving bits of half the squared distance, then the pivot
};

// Unsigned numbers in the order of finite floats.
TMOR_BLOCK_CODE uint32_t ordered_bits(float value) {
  const uint32_t bits = bits_of_float(value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

TMOR_BLOCK_CODE float from_ordered_bits(uint32_t bits) {
  return float_of_bits((bits & 0x80000000U) != 0 ? bits & 0x7fffffffU : ~bits);
}

struct Nearest {
  float half[kRowTiles][2];
  uint32_t pivot[kRowTiles][2];
};

template <typename Block>
TMOR_BLOCK_CODE void keep_nearest(Block& block, const AssignShared& shared, int tile, float reach,
                                  typename Block::template PerThread<Sums>& sums,
                                  typename Block::template PerThread<Nearest>& nearest) {
  block.each([&](int thread) {
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      TMOR_UNROLL
      for (int c = 0; c < 4; ++c) {
        const float row_half = shared.row_half[fragment_row(thread, i, c)];
        TMOR_UNROLL
        for (int j = 0; j < kColumnTiles; ++j) {
          const int column = fragment_column(thread, j, c);
          float half = row_half + shared.column_half[tile & 1][column] - sums[thread].value[i][j][c];
          // For leaders all pivots within reach are as good, so the first one wins.
          if (reach >= 0.0F) half = half <= reach ? 0.0F : kHoleNorm;
          const uint32_t pivot = static_cast<uint32_t>(tile * kPanel + column);
          float& best = nearest[thread].half[i][c / 2];
          uint32_t& best_pivot = nearest[thread].pivot[i][c / 2];
          if (half < best || (half == best && pivot < best_pivot)) {
            best = half;
            best_pivot = pivot;
          }
        }
      }
    }
  });
}

template <typename Block>
TMOR_BLOCK_CODE void assign_points(Block& block, const AssignTask& task, const Ring& ring, AssignShared& shared) {
  if (task.frame->valid == 0) return;
  const float half_threshold = static_cast<float>(task.frame->threshold * 0.5);
  for (int64_t row = block.next_unit(); row < task.row_panels; row = block.next_unit()) {
    typename Block::template PerThread<Nearest> nearest;
    block.each([&](int thread) {
      shared.row_half[thread] = task.rows.norm[row * kPanel + thread] * 0.5F;
      shared.nearest[thread] = ~0ULL;
      TMOR_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        nearest[thread].half[i][0] = nearest[thread].half[i][1] = kHoleNorm;
        nearest[thread].pivot[i][0] = nearest[thread].pivot[i][1] = 0;
      }
    });
    multiply_tiles(
        block, ring, task.rows.values + row * kPanel * ring.padded, task.pivot_panels,
        [&](int tile) { return task.pivots.values + int64_t{tile} * kPanel * ring.padded; },
        [&](int tile) {
          block.each([&](int thread) {
            shared.column_half[tile & 1][thread] = task.pivots.norm[int64_t{tile} * kPanel + thread] * 0.5F;
          });
        },
        [](int) { return false; },
        [&](int tile, typename Block::template PerThread<Sums>& sums) {
          keep_nearest(block, shared, tile, task.leader == nullptr ? half_threshold : -1.0F, sums, nearest);
        });
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        TMOR_UNROLL
        for (int h = 0; h < 2; ++h) {
          const unsigned long long packed = static_cast<unsigned long long>(ordered_bits(nearest[thread].half[i][h]))
                                                << 32 |
                                            nearest[thread].pivot[i][h];
          block.smallest(&shared.nearest[fragment_row(thread, i, 2 * h)], packed);
        }
      }
    });
    block.barrier();
    block.each([&](int thread) {
      const int64_t point = row * kPanel + thread;
      if (point >= task.points) return;
      const float half = from_ordered_bits(static_cast<uint32_t>(shared.nearest[thread] >> 32));
      const uint32_t pivot = static_cast<uint32_t>(shared.nearest[thread]);
      if (task.leader == nullptr) {
        task.answer[point] = half < kHoleNorm ? pivot : static_cast<uint32_t>(point);
      } else {
        task.answer[point] = task.leader[pivot] + (half <= half_threshold ? 0U : task.pivot_count);
      }
    });
  }
}

}  // namespace tmor::dbscan
