// The tile's one template. Included by the tile_<isa>.cpp files alone, each of which defines in an unnamed namespace
// how its instructions multiply and accumulate:
//   Score                     float or int32_t, what a sum is
//   Register                  kLanes sums, or kLanes words of a panel
//   kLanes, kVectors, kRows   kVectors registers of columns by kRows rows of sums stay in registers
//   kFlip                     what `prepare` adds to each byte of a word: 128 for unsigned times signed bytes, else 0
//   load(words), broadcast(word), start(scores), multiply_add(row, column, sum), at_least(sum, bound) -> bits
#pragma once

#include "dbscan/tile.hpp"

namespace tmor::dbscan {
namespace {

// The bounds of a tile. Every float32 rounding here is a relative 2^-24 of terms from which `slack` was made
// (packed.hpp).
template <typename Vector>
struct Bounds {
  using Score = typename Vector::Score;
  static constexpr bool kFloat = static_cast<Score>(0.5F) != 0;
  alignas(64) Score start[kWidth];  // what the sums of column j begin with
  alignas(64) Score low[kWidth];    // row i: not below it, perhaps neighbours
  alignas(64) Score high[kWidth];   // row i: not below it, neighbours for sure

  explicit Bounds(const TileInput& in) {
    const float above = in.column_worst + in.slack;
    if constexpr (kFloat) {
      for (int j = 0; j < kWidth; ++j) start[j] = in.column_start[j];
      for (int i = 0; i < kWidth; ++i) low[i] = in.row_low[i] - in.slack;
      for (int i = 0; i < kWidth; ++i) high[i] = in.row_high[i] + above;
    } else {
      // Truncation moves a number by less than 1, so low goes down by 2 (itself and `start`) and high up by as much.
      for (int j = 0; j < kWidth; ++j) {
        start[j] = to_integer(in.column_start[j] * in.scale) - Vector::kFlip * in.column_sum[j];
      }
      for (int i = 0; i < kWidth; ++i) low[i] = to_integer((in.row_low[i] - in.slack) * in.scale - 2.0F);
      for (int i = 0; i < kWidth; ++i) high[i] = to_integer((in.row_high[i] + above) * in.scale + 2.0F);
    }
  }

  // No sum reaches 2^30 in magnitude (packed.cpp refuses such tiles), so clamping a bound to it changes no answer.
  static int32_t to_integer(float value) {
    constexpr float kLimit = 1073741824.0F;
    value = value < kLimit ? value : kLimit;
    return static_cast<int32_t>(value > -kLimit ? value : -kLimit);
  }
};

template <typename Vector>
uint64_t run_tile(const TileInput& in, Pairs* pairs) {
  constexpr int kLanes = Vector::kLanes;
  constexpr int kRows = Vector::kRows;
  constexpr int kVectors = Vector::kVectors;
  constexpr int kColumns = kLanes * kVectors;
  static_assert(kWidth % kRows == 0 && kWidth % kColumns == 0, "a panel is a whole number of blocks");
  using Register = typename Vector::Register;

  const Bounds<Vector> bounds(in);
  uint64_t any = 0;
  for (int column = 0; column < kWidth; column += kColumns) {
    for (int first = 0; first < kWidth; first += kRows) {
      if ((in.active >> first & ((uint64_t{1} << kRows) - 1)) == 0) continue;
      Register sum[kRows][kVectors];
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[row][v] = Vector::start(bounds.start + column + v * kLanes);
      }
      const uint32_t* left = in.rows + first;
      const uint32_t* right = in.columns + column;
      for (int64_t step = 0; step < in.steps; ++step, left += kWidth, right += kWidth) {
        Register words[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) words[v] = Vector::load(right + v * kLanes);
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) {
          const Register value = Vector::broadcast(left[row]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[row][v] = Vector::multiply_add(value, words[v], sum[row][v]);
        }
      }
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const int i = first + row;
        uint64_t possible = 0;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          possible |= static_cast<uint64_t>(Vector::at_least(sum[row][v], bounds.low[i])) << (v * kLanes);
        }
        const uint64_t bit = uint64_t{1} << i;
        if (possible == 0) {
          if (kColumns < kWidth && (any & bit) == 0) pairs->sure[i] = pairs->maybe[i] = 0;
          continue;
        }
        uint64_t sure = 0;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          sure |= static_cast<uint64_t>(Vector::at_least(sum[row][v], bounds.high[i])) << (v * kLanes);
        }
        const bool more = kColumns < kWidth && (any & bit) != 0;
        pairs->sure[i] = (more ? pairs->sure[i] : 0) | sure << column;
        pairs->maybe[i] = (more ? pairs->maybe[i] : 0) | (possible & ~sure) << column;
        any |= bit;
      }
    }
  }
  return any;
}

// Adds 128 to each byte: signed bytes become unsigned ones, and sums grow by 128 times the sum of the column.
inline void flip_signs(const uint32_t* panel, int64_t steps, uint32_t* rows) {
  for (int64_t i = 0; i < steps * kWidth; ++i) rows[i] = panel[i] ^ 0x80808080U;
}

}  // namespace
}  // namespace tmor::dbscan
