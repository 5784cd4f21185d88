// One tile of the distance matrix: which pairs are neighbours for sure, which may be. The only code that is compiled
// once per instruction set, so it uses nothing from the standard library: an inline function compiled here for AVX-512
// could be the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>

namespace tmor::dbscan {

// Points are packed in panels of `width` points, coordinate by coordinate: panel[k * width + point].
// Row i of panel a and column j of panel b: h = half_norm[j] - <a_i, b_j>, sure if h <= low[i], maybe if low[i] < h <=
// high[i]. Bit j of sure[i] and maybe[i] says so.
using TileFunction = void (*)(const float* a, const float* b, int64_t dimensions, const float* half_norm,
                              const float* low, const float* high, uint64_t* sure, uint64_t* maybe);

constexpr int kMaxWidth = 64;

struct Tile {
  int width;
  TileFunction run;
};

Tile tile_portable();
Tile tile_avx2();
Tile tile_avx512();

}  // namespace tmor::dbscan
