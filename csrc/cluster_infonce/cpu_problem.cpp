#include "cluster_infonce/cpu_problem.hpp"

#include <algorithm>
#include <cstring>

#include "common/kernel_for.hpp"
#include "common/round_up.hpp"

namespace tmor::cluster_infonce {
namespace {

// Whole vectors, and never a multiple of a page: rows that far apart would all compete for the same lines of the cache.
int64_t row_stride(int64_t dimensions) {
  constexpr int64_t kLine = 16;
  const int64_t stride = round_up(dimensions, kLine);
  return stride % 256 == 0 ? stride + kLine : stride;
}

// As many keys as stay in the second-level cache beside the panels.
int64_t keys_of_tile(int64_t stride, int64_t rows) {
  constexpr int64_t kTileFloats = 49152;
  constexpr int64_t kMostKeys = 120;
  const int64_t keys = std::min(kMostKeys, kTileFloats / stride);
  return std::max(rows, keys / rows * rows);
}

}  // namespace

Problem::Problem(const Params& given)
    : params(given),
      kernel(kernel_for<Kernel>(given.isa)),
      panel_width(int64_t{kernel.lanes} * kernel.vectors),
      panels((given.batch + panel_width - 1) / panel_width),
      lanes(round_up(given.batch, kernel.lanes)),
      stride(row_stride(given.dimensions)),
      tile_keys(keys_of_tile(stride, kernel.rows)),
      id_(given.query_id, given.batch, false),
      cluster_(given.query_cluster, given.batch, true),
      queries_(lanes * given.dimensions),
      query_codes_(3 * lanes) {
  if (given.query_caption != nullptr) caption_.emplace(given.query_caption, given.batch, true);
  const double scale = kLog2E / given.temperature;
  for (int64_t i = 0; i < lanes; ++i) {
    const bool real = i < given.batch;
    query_codes_[i] = real ? id_.of_query(i) : kQueryNone;
    query_codes_[lanes + i] = real ? cluster_.of_query(i) : kQueryNone;
    query_codes_[2 * lanes + i] = real && caption_ ? caption_->of_query(i) : kQueryNone;
    if (!real) continue;
    const int64_t panel = i / panel_width;
    const int64_t width = width_of(panel);
    float* target = queries_.data() + panel * panel_width * given.dimensions + i % panel_width;
    const float* source = given.query + i * given.dimensions;
    for (int64_t k = 0; k < given.dimensions; ++k)
      target[k * width] = static_cast<float>(static_cast<double>(source[k]) * scale);
  }
}

void Problem::convert(int64_t key, float* row) const {
  const int64_t offset = key * params.key_stride;
  if (params.key_dtype == DType::float32) {
    const float* source = static_cast<const float*>(params.keys) + offset;
    std::memcpy(row, source, static_cast<size_t>(params.dimensions) * sizeof(float));
  } else {
    const uint16_t* source = static_cast<const uint16_t*>(params.keys) + offset;
    (params.key_dtype == DType::float16 ? kernel.from_half : kernel.from_bfloat)(source, row, params.dimensions);
  }
}

void Problem::load_row(int64_t key, float* row) const { convert(key, row); }

void Problem::load(int64_t first, KeyTile* tile) const {
  tile->first = first;
  tile->keys = std::min(tile_keys, params.bank - first);
  for (int64_t row = 0; row < tile->keys; ++row) convert(first + row, tile->values.data() + row * stride);
  id_.of_keys(params.key_id + first, tile->keys, tile->id.data());
  cluster_.of_keys(params.key_cluster + first, tile->keys, tile->cluster.data());
  if (caption_) caption_->of_keys(params.key_caption + first, tile->keys, tile->caption.data());
  if (params.key_log_weight == nullptr) return;
  for (int64_t row = 0; row < tile->keys; ++row) {
    tile->weight[row] = static_cast<float>(params.key_log_weight[first + row] * kLog2E);
  }
}

Tile Problem::multiply(const KeyTile& keys, int64_t panel, float* logits) const {
  const int64_t width = width_of(panel);
  kernel.multiply(keys.values.data(), stride, 1, queries(panel), width, params.dimensions, logits, width, keys.keys,
                  width, false);
  const int32_t* codes = query_codes_.data() + panel * panel_width;
  Tile tile;
  tile.keys = keys.keys;
  tile.width = static_cast<int>(width);
  tile.query_id = codes;
  tile.query_cluster = codes + lanes;
  tile.query_caption = caption_ ? codes + 2 * lanes : nullptr;
  tile.key_id = keys.id.data();
  tile.key_cluster = keys.cluster.data();
  tile.key_caption = keys.caption.data();
  tile.key_weight = params.key_log_weight == nullptr ? nullptr : keys.weight.data();
  tile.logits = logits;
  return tile;
}

void exp2_cpu(const float* x, float* result, int64_t n, Isa isa) {
  const Kernel kernel = kernel_for<Kernel>(isa);
  const int64_t whole = n / kernel.lanes * kernel.lanes;
  kernel.exp2(x, result, whole);
  if (whole == n) return;
  Buffer<float> rest(2 * kernel.lanes);
  std::copy(x + whole, x + n, rest.data());
  kernel.exp2(rest.data(), rest.data() + kernel.lanes, kernel.lanes);
  std::copy(rest.data() + kernel.lanes, rest.data() + kernel.lanes + (n - whole), result + whole);
}

}  // namespace tmor::cluster_infonce
