// Which block looks at which tiles, and what it keeps in shared memory: decided by arithmetic alone, on either side.
#pragma once

#include <cmath>
#include <cstdint>

#include "dbscan/cuda_field.hpp"

namespace tmor::dbscan {

// What a sweep over the tiles is for.
enum class Mode : int {
  one_pass = 0,  // lists and unions, as one_pass.hpp has it
  count = 1,     // neighbours up to the capacity, no lists
  weigh = 2,     // sums of weights, each row over all columns in the caller's order
  connect = 3,   // unites core points that are neighbours
  border = 4     // the smallest root among a point's core neighbours
};

// Work of one block: panel `row` against the panels first <= column < last.
struct Unit {
  int64_t row = 0;
  int64_t first = 0;
  int64_t last = 0;
};

// The upper half of panels x panels in units of one row and one strip of columns. The diagonal has a sweep of its own
// that comes first: after it most panels of a dense cluster are finished, so that the other tiles can be skipped.
// Neighbouring units share a strip of columns and a block of rows, which then stay in the L2 cache.
struct Schedule {
  int64_t panels = 0;
  int64_t strip = kStrip;
  bool diagonal = false;  // the diagonal alone, else what lies above it
  bool full = false;      // whole rows, diagonal included

  TMOR_HOST_DEVICE int64_t strips() const { return (panels + strip - 1) / strip; }

  TMOR_HOST_DEVICE int64_t units() const {
    if (diagonal || full) return panels;
    return strip * (strips() * (strips() + 1) / 2);
  }

  // Units before the ones of block of rows `block`.
  TMOR_HOST_DEVICE int64_t before(int64_t block) const { return strip * (block * strips() - block * (block - 1) / 2); }

  // The last unit may be empty: first >= last.
  TMOR_HOST_DEVICE Unit unit(int64_t index) const {
    Unit result;
    if (diagonal || full) {
      result.row = index;
      result.first = diagonal ? index : 0;
      result.last = diagonal ? index + 1 : panels;
      return result;
    }
    // The root of the quadratic before(block) = index, then whole steps for what rounding left.
    const double count = static_cast<double>(strips()) + 0.5;
    const double square = count * count - 2.0 * static_cast<double>(index) / static_cast<double>(strip);
    int64_t block = static_cast<int64_t>(count - sqrt(square > 0.0 ? square : 0.0));
    block = block < 0 ? 0 : block >= strips() ? strips() - 1 : block;
    while (block > 0 && before(block) > index) --block;
    while (block + 1 < strips() && before(block + 1) <= index) ++block;
    const int64_t inside = index - before(block);
    const int64_t column = block + inside / strip;
    result.row = block * strip + inside % strip;
    result.first = column * strip;
    result.last = result.first + strip < panels ? result.first + strip : panels;
    if (result.first <= result.row) result.first = result.row + 1;
    if (result.row >= panels) result.last = result.first;
    return result;
  }
};

// Strips are narrower where 64 would leave blocks without work. A power of two up to 64.
TMOR_HOST_DEVICE int64_t strip_for(int64_t panels, int64_t blocks) {
  int64_t strip = kStrip;
  while (strip > 4 && panels * ((panels + strip - 1) / strip) / 2 < 8 * blocks) strip /= 2;
  return strip;
}

// Positions of a cell of `size` points that has panels of its own, filled up with holes; 0 for one that shares panels.
// Holes are at most an eighth of its points: a panel of one cell alone is more often apart from others, but every panel
// costs a row of tiles.
TMOR_HOST_DEVICE uint32_t own_positions(uint32_t size) {
  const uint32_t positions = (size + kPanel - 1) / kPanel * kPanel;
  return positions - size <= size / 8 ? positions : 0;
}

// Positions that n points can need, however they fall into cells.
TMOR_HOST_DEVICE int64_t most_positions(int64_t n) { return (n + n / 8 + kPanel - 1) / kPanel * kPanel; }

constexpr int64_t kSliceBytes = int64_t{kPanel} * kSlice * 2;

// The ring of slices in shared memory.
struct RingPlan {
  int32_t stages = 2;
  int32_t stationary = 0;  // 1: all slices of the rows' panel stay, a stage holds columns alone; 0: it holds both
  int32_t blocks = 1;      // of a multiprocessor
  int64_t bytes = 0;       // of the ring

  TMOR_HOST_DEVICE int64_t stage_bytes() const { return stationary != 0 ? kSliceBytes : 2 * kSliceBytes; }
  TMOR_HOST_DEVICE int64_t left_bytes(int64_t slices) const { return stationary != 0 ? slices * kSliceBytes : 0; }
};

// Two blocks of a multiprocessor hide each other's epilogues; a stationary panel halves the reads from L2.
inline RingPlan plan_ring(int64_t slices, int64_t fixed_bytes, int64_t per_block, int64_t per_multiprocessor) {
  constexpr int64_t kReserved = 1024;  // of each block, by the driver
  RingPlan plan;
  for (int blocks = 2; blocks >= 1; --blocks) {
    const int64_t share = per_multiprocessor / blocks - kReserved;
    const int64_t room = (share < per_block ? share : per_block) - fixed_bytes;
    for (int stationary = 1; stationary >= 0; --stationary) {
      plan.blocks = blocks;
      plan.stationary = stationary;
      const int64_t fits = (room - plan.left_bytes(slices)) / plan.stage_bytes();
      if (fits < 2) continue;
      plan.stages = static_cast<int32_t>(fits < 4 ? fits : 4);
      plan.bytes = plan.left_bytes(slices) + plan.stages * plan.stage_bytes();
      return plan;
    }
  }
  plan.bytes = 0;  // the device has too little
  return plan;
}

}  // namespace tmor::dbscan
