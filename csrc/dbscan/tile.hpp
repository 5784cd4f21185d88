// One tile of the distance matrix: which pairs are neighbours for sure, which may be. The only code that is compiled
// once per instruction set, so it uses nothing from the standard library: an inline function compiled here for AVX-512
// could be the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>

namespace tmor::dbscan {

constexpr int kWidth = 64;  // points of a panel: one bit each in a word

// In what numbers tiles are computed.
enum class Arithmetic : int { automatic = 0, float32 = 1, bfloat16 = 2, int8 = 3 };

// The least and the largest number of coordinates in a 32-bit word of a panel.
constexpr int elements_per_word(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::int8 ? 4 : arithmetic == Arithmetic::bfloat16 ? 2 : 1;
}

// Panels hold words[step * kWidth + point], a word being 1 float32, 2 bfloat16 or 4 int8 coordinates of that point.
//
// A pair (i, j) may be neighbours if <x_i, y_j> + column_start[j] is at least row_low[i] - slack, and is sure to be if
// it is at least row_high[i] + column_worst + slack (packed.hpp says why). Integer products are in units of 1 / scale.
struct TileInput {
  const uint32_t* rows;       // a panel, through Tile::prepare where there is one
  const uint32_t* columns;    // a panel
  int64_t steps;              // words per point
  uint64_t active;            // rows whose pairs are wanted; a few more may be answered
  const float* row_low;       // (kWidth,)
  const float* row_high;      // (kWidth,)
  const float* column_start;  // (kWidth,)
  const int32_t* column_sum;  // (kWidth,) sums of the integer coordinates; null for floats
  float column_worst;
  float slack;  // not negative, may be infinite
  float scale;  // 1 for floats
};

// Bit j of sure[i] and of maybe[i]; rows that are not in the mask which the tile returns have no bits and hold garbage.
struct Pairs {
  uint64_t sure[kWidth];
  uint64_t maybe[kWidth];
};

struct Tile {
  uint64_t (*run)(const TileInput& input, Pairs* pairs);
  // Rows as `run` wants them, or null if it takes panels as they are.
  void (*prepare)(const uint32_t* panel, int64_t steps, uint32_t* rows);
};

Tile tile_portable();
Tile tile_avx2();
Tile tile_avx512();
Tile tile_avx512_vnni();
Tile tile_avx512_bf16();
// One number at a time, like the instructions of the same name: for tests of the loop.
Tile tile_scalar_int8();
Tile tile_scalar_bf16();

}  // namespace tmor::dbscan
