// The matrix product of one tile, written once for the device and for a host that plays a block of threads.
//
// Code of a block is a sequence of steps. `block.each(f)` runs f(thread) for every thread, `PerThread<T>` is what each
// thread keeps from one step to the next (registers on the device, an array on the host), and the collective
// operations are the block's: `DeviceBlock` (cuda_block.cuh) issues them, the host block of csrc/tests imitates them
// as the PTX manual describes them, fragment layouts included.
//
//   barrier(), any(PerThread<uint32_t>&)           __syncthreads, __syncthreads_or
//   warp_sum(PerThread<float>&)                    the sum over its warp, to every thread
//   copy_slice(target, source, stride)             cp.async of 128 rows of 64 coordinates, swizzled
//   commit(), wait(pending)                        cp.async groups
//   load_matrices(address(thread), target(thread)) ldmatrix.x4
//   multiply(sum(thread), left(thread), right(thread))   mma.m16n8k16, bfloat16 to float32
//   next_unit()                                    the next number of a counter that all blocks share
#pragma once

#include <cstdint>

#include "dbscan/cuda_field.hpp"
#include "dbscan/cuda_schedule.hpp"

namespace tmor::dbscan {

constexpr int kRowTiles = 4;     // of 16 rows: a warp has 64
constexpr int kColumnTiles = 8;  // of 8 columns: a warp has 64

// A thread's part of the 128 x 128 products: value[i][j][c] is element fragment_row, fragment_column.
struct Sums {
  float value[kRowTiles][kColumnTiles][4];
};

TMOR_BLOCK_CODE int fragment_row(int thread, int i, int c) {
  return (thread >> 6) * 64 + i * 16 + (c >> 1) * 8 + ((thread & 31) >> 2);
}

TMOR_BLOCK_CODE int fragment_column(int thread, int j, int c) {
  return (thread >> 5 & 1) * 64 + j * 8 + (thread & 3) * 2 + (c & 1);
}

// A slice in shared memory: 128 rows of 128 bytes, each of eight chunks of 16 bytes. A chunk's place is its number
// exclusive-or the row's last three bits, so that the eight rows that ldmatrix reads together lie in different banks.
TMOR_BLOCK_CODE uint32_t slice_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

struct LeftFragment {
  uint32_t value[kRowTiles][4];
};

struct RightFragment {
  uint32_t value[kColumnTiles / 2][4];  // of two tiles of 8 columns each
};

// sums += left slice * right slice, transposed. Both addresses are those of shared memory, multiples of 1024.
template <typename Block>
TMOR_BLOCK_CODE void multiply_slice(Block& block, uint32_t left, uint32_t right,
                                    typename Block::template PerThread<Sums>& sums) {
  TMOR_UNROLL
  for (int step = 0; step < kSlice / 16; ++step) {
    typename Block::template PerThread<LeftFragment> a;
    typename Block::template PerThread<RightFragment> b;
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      // Rows 0-7 and 8-15 of the first eight coordinates, then of the other eight.
      block.load_matrices(
          [&](int thread) {
            const int lane = thread & 31;
            return left + slice_offset((thread >> 6) * 64 + i * 16 + (lane & 15), step * 2 + (lane >> 4));
          },
          [&](int thread) { return a[thread].value[i]; });
    }
    TMOR_UNROLL
    for (int j = 0; j < kColumnTiles / 2; ++j) {
      // Both halves of the coordinates of columns 0-7, then of columns 8-15.
      block.load_matrices(
          [&](int thread) {
            const int lane = thread & 31;
            const int row = (thread >> 5 & 1) * 64 + j * 16 + (lane >> 4) * 8 + (lane & 7);
            return right + slice_offset(row, step * 2 + (lane >> 3 & 1));
          },
          [&](int thread) { return b[thread].value[j]; });
    }
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      TMOR_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) {
        block.multiply([&](int thread) { return sums[thread].value[i][j]; },
                       [&](int thread) { return a[thread].value[i]; },
                       [&](int thread) { return b[thread].value[j / 2] + j % 2 * 2; });
      }
    }
  }
}

// Where the ring lies in shared memory and what flows through it.
struct Ring {
  RingPlan plan;
  uint32_t left = 0;   // address of the stationary slices
  uint32_t stage = 0;  // address of the first stage
  int32_t slices = 0;
  int64_t padded = 0;  // coordinates of a row
};

// Computes panel `row` against each of `count` panels: begin(tile) may fill shared memory for the tile, skip(tile) says
// after a barrier whether it can be left out (the same answer for all threads), finish(tile, sums) gets the products.
// The loads run ahead of the products by stages - 1 slices, from one tile into the next.
template <typename Block, typename Column, typename Begin, typename Skip, typename Finish>
TMOR_BLOCK_CODE void multiply_tiles(Block& block, const Ring& ring, const uint16_t* row, int count,
                                    const Column& column, const Begin& begin, const Skip& skip, const Finish& finish) {
  const uint32_t stage_bytes = static_cast<uint32_t>(ring.plan.stage_bytes());
  const bool stationary = ring.plan.stationary != 0;
  int load_tile = 0;  // what is loaded next, and into which stage
  int load_slice = 0;
  int load_stage = 0;
  const auto load = [&]() {
    if (load_tile < count) {
      const uint32_t target = ring.stage + static_cast<uint32_t>(load_stage) * stage_bytes;
      const int64_t offset = int64_t{load_slice} * kSlice;
      block.copy_slice(target, column(load_tile) + offset, ring.padded);
      if (!stationary) {
        block.copy_slice(target + static_cast<uint32_t>(kSliceBytes), row + offset, ring.padded);
      } else if (load_tile == 0) {
        block.copy_slice(ring.left + static_cast<uint32_t>(load_slice * kSliceBytes), row + offset, ring.padded);
      }
      load_stage = load_stage + 1 == ring.plan.stages ? 0 : load_stage + 1;
      if (++load_slice == ring.slices) {
        load_slice = 0;
        ++load_tile;
      }
    }
    block.commit();  // also of nothing, so that wait counts slices
  };

  for (int ahead = 1; ahead < ring.plan.stages; ++ahead) load();
  int stage = 0;
  for (int tile = 0; tile < count; ++tile) {
    begin(tile);
    typename Block::template PerThread<Sums> sums;
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        TMOR_UNROLL
        for (int j = 0; j < kColumnTiles; ++j) {
          TMOR_UNROLL
          for (int c = 0; c < 4; ++c) sums[thread].value[i][j][c] = 0.0F;
        }
      }
    });
    bool skipped = false;
    for (int slice = 0; slice < ring.slices; ++slice) {
      block.wait(ring.plan.stages - 2);
      block.barrier();  // the slice is there for all, and all have finished the one whose stage is loaded next
      if (slice == 0) skipped = skip(tile);
      load();
      const uint32_t right = ring.stage + static_cast<uint32_t>(stage) * stage_bytes;
      const uint32_t left = stationary ? ring.left + static_cast<uint32_t>(slice * kSliceBytes)
                                       : right + static_cast<uint32_t>(kSliceBytes);
      if (!skipped) multiply_slice(block, left, right, sums);
      stage = stage + 1 == ring.plan.stages ? 0 : stage + 1;
    }
    if (!skipped) finish(tile, sums);
  }
  block.wait(0);
  block.barrier();
}

}  // namespace tmor::dbscan
