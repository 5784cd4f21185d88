// What the CPU's forward and backward passes share: queries packed in panels, keys loaded tile by tile.
#pragma once

#include <cstdint>
#include <optional>

#include "cluster_infonce/codes.hpp"
#include "cluster_infonce/kernel.hpp"
#include "cluster_infonce/params.hpp"
#include "common/buffer.hpp"

namespace tmor::cluster_infonce {

// Keys of one tile in float32 with their codes, in the cache of one thread.
struct KeyTile {
  explicit KeyTile(int64_t tile_keys, int64_t key_stride)
      : values(tile_keys * key_stride), id(tile_keys), cluster(tile_keys), caption(tile_keys), weight(tile_keys) {}
  Buffer<float> values;  // (keys, Problem::stride)
  Buffer<int32_t> id;
  Buffer<int32_t> cluster;
  Buffer<int32_t> caption;
  Buffer<float> weight;
  int64_t first = 0;
  int64_t keys = 0;
};

class Problem {
 public:
  explicit Problem(const Params& params);

  const Params& params;
  const Kernel kernel;
  const int64_t panel_width;  // of all panels but the last
  const int64_t panels;
  const int64_t lanes;      // queries, rounded up to whole vectors
  const int64_t stride;     // floats between two rows of a tile
  const int64_t tile_keys;  // rows of a tile

  int64_t width_of(int64_t panel) const {
    const int64_t left = lanes - panel * panel_width;
    return left < panel_width ? left : panel_width;
  }
  int64_t tiles() const { return (params.bank + tile_keys - 1) / tile_keys; }

  // (d, width) queries of a panel, scaled so that products with keys are logits in base 2.
  const float* queries(int64_t panel) const { return queries_.data() + panel * panel_width * params.dimensions; }

  // Rows [first, first + tile_keys) or what is left of them.
  void load(int64_t first, KeyTile* tile) const;
  // One row of the bank in float32; `row` has room for it.
  void load_row(int64_t key, float* row) const;
  // The products of a tile with a panel, and what `mask` needs beside them.
  Tile multiply(const KeyTile& keys, int64_t panel, float* logits) const;

 private:
  void convert(int64_t key, float* row) const;

  Codes id_;
  Codes cluster_;
  std::optional<Codes> caption_;
  Buffer<float> queries_;
  Buffer<int32_t> query_codes_;  // (3, lanes)
};

}  // namespace tmor::cluster_infonce
