// The gradient of the keys: a second pass, in which a block holds keys and streams the queries past them, so that every
// key's sum is added up by one warp in the order of the queries. A bfloat16 bank is multiplied in its type, by queries
// rounded as the forward pass rounds them; a float16 bank in SingleProducts with one product (gradients of a softmax
// over a large bank are too small for float16), a float32 bank with three.
#pragma once

#include <cmath>
#include <cstdint>

#include "cluster_infonce/cuda_aligned.hpp"

namespace tmor::cluster_infonce {

// Of each query, in rows of KeysTask::numbers: D and LP of finish.hpp in base 2, f = its upstream gradient over the
// temperature, and f a and f u.
enum Number : int { kDenominator = 0, kFactor = 1, kPositive = 2, kShare = 3, kPlain = 4, kNumbers = 5 };

// Writes query i's numbers.
TMOR_BLOCK_CODE void make_numbers(const float* upstream, const float* statistics, float temperature, int64_t batch,
                                  int64_t i, float* numbers) {
  const double factor = static_cast<double>(upstream[i]) / static_cast<double>(temperature);
  numbers[kDenominator * batch + i] = static_cast<float>(static_cast<double>(statistics[i]) * kLog2E);
  numbers[kFactor * batch + i] = static_cast<float>(factor);
  numbers[kPositive * batch + i] = static_cast<float>(static_cast<double>(statistics[batch + i]) * kLog2E);
  numbers[kShare * batch + i] = static_cast<float>(factor * static_cast<double>(statistics[2 * batch + i]));
  numbers[kPlain * batch + i] = static_cast<float>(factor * static_cast<double>(statistics[3 * batch + i]));
}

// Writes a query's `dimensions` numbers, rounded to bfloat16, and zeros up to `pitch` (even); thread `first` of `step`.
template <typename Block>
TMOR_BLOCK_CODE void round_query(const float* query, int64_t dimensions, int64_t pitch, int first, int step,
                                 uint32_t* to) {
  for (int64_t k = 2 * first; k < pitch; k += 2 * step) {
    const float low = k < dimensions ? query[k] : 0.0F;
    const float high = k + 1 < dimensions ? query[k + 1] : 0.0F;
    to[k / 2] = Block::template pack<BFloat16>(low, high);
  }
}

struct KeysTask {
  RowSource keys;
  Stream queries;  // float32, or bfloat16 for such a bank
  const int64_t* query_id = nullptr;
  const int64_t* key_id = nullptr;
  const int64_t* query_cluster = nullptr;
  const int64_t* key_cluster = nullptr;
  const int64_t* query_caption = nullptr;  // or null
  const int64_t* key_caption = nullptr;
  const float* key_log_weight = nullptr;  // or null
  const float* temperature = nullptr;     // one number
  const float* numbers = nullptr;         // (kNumbers, B)
  const int64_t* chosen = nullptr;        // (B, chosen_count), -1 for none
  int64_t chosen_count = 0;
  int32_t has_chosen = 0;         // of A the listed rows alone count
  float* key_gradient = nullptr;  // out, (N, d)
  Ring ring;
};

struct KeysShared {
  struct Columns {
    int64_t id[kTileColumns];
    int64_t cluster[kTileColumns];
    int64_t caption[kTileColumns];
    float number[kNumbers][kTileColumns];
  };
  Columns columns[kMostStages];
  int64_t id[kMaxThreads];
  int64_t cluster[kMaxThreads];
  int64_t caption[kMaxThreads];
  float weight[kMaxThreads];
  float factor[kMaxThreads];  // makes logits of the products
};

template <typename Block, typename Products>
class KeyGradient {
 public:
  template <typename T>
  using PerThread = typename Block::template PerThread<T>;
  using Scores = typename Products::Scores;
  using Rows = typename Products::Rows;

  TMOR_BLOCK_CODE KeyGradient(Block& block, const KeysTask& task, const Ring& ring, KeysShared& shared)
      : block_(block), task_(task), ring_(ring), shared_(shared) {}

  // `group` of keys, `part` of the columns.
  TMOR_BLOCK_CODE void run(int64_t group, int part) {
    first_row_ = group * ring_.rows;
    const int first_column = part * ring_.width;
    PerThread<typename Products::Sums> sums;
    const int64_t tiles = (task_.queries.count + kTileColumns - 1) / kTileColumns;
    stream_tiles<Products, false>(
        block_, ring_, task_.queries, 0, static_cast<int>(tiles), first_column * Products::kBytes / kRowBytes, true,
        sums, [&]() { prepare(sums); }, [&](int tile) { describe(tile); },
        [&](int tile, PerThread<Scores>& scores, PerThread<Rows>& decay, PerThread<uint32_t>&) {
          block_.each([&](int thread) {
            TMOR_UNROLL
            for (int i = 0; i < Products::kRowTiles; ++i) {
              decay[thread].value[i][0] = decay[thread].value[i][1] = 1.0F;
            }
          });
          derive(tile, scores);
        },
        *this);
    write(first_column, sums);
  }

 private:
  TMOR_BLOCK_CODE void prepare(PerThread<typename Products::Sums>& sums) {
    load_rows<Products>(block_, ring_, task_.keys, first_row_, shared_.factor);
    block_.barrier();
    const float scale = static_cast<float>(kLog2E / static_cast<double>(*task_.temperature));
    block_.each([&](int thread) {
      sums[thread] = typename Products::Sums{};
      for (int row = thread; row < ring_.rows; row += 32 * ring_.warps) {
        const int64_t key = first_row_ + row;
        const bool real = key < task_.keys.count;
        shared_.id[row] = real ? task_.key_id[key] : 0;
        shared_.cluster[row] = or_nobody(real ? task_.key_cluster[key] : -1);
        shared_.caption[row] = or_nobody(real && task_.key_caption != nullptr ? task_.key_caption[key] : -1);
        const bool weighted = real && task_.key_log_weight != nullptr;
        shared_.weight[row] = weighted ? task_.key_log_weight[key] * static_cast<float>(kLog2E) : 0.0F;
        shared_.factor[row] *= scale;
      }
    });
  }

  TMOR_BLOCK_CODE void describe(int tile) {
    typename KeysShared::Columns& columns = shared_.columns[tile % kMostStages];
    block_.each([&](int thread) {
      for (int column = thread; column < kTileColumns; column += 32 * ring_.warps) {
        const int64_t query = int64_t{tile} * kTileColumns + column;
        const bool real = query < task_.queries.count;
        const int64_t at = real ? query : 0;
        const int valid = real ? 8 : 0;
        block_.template copy_word<8>(&columns.id[column], task_.query_id + at, valid);
        block_.template copy_word<8>(&columns.cluster[column], task_.query_cluster + at, valid);
        if (task_.query_caption != nullptr) {
          block_.template copy_word<8>(&columns.caption[column], task_.query_caption + at, valid);
        }
        TMOR_UNROLL
        for (int k = 0; k < kNumbers; ++k) {
          block_.template copy_word<4>(&columns.number[k][column], task_.numbers + k * task_.queries.count + at,
                                       valid / 2);
        }
      }
    });
  }

  // Products become the derivatives of the loss by the logits, times f.
  TMOR_BLOCK_CODE void derive(int tile, PerThread<Scores>& scores) {
    PerThread<uint32_t> near;
    PerThread<uint32_t> some;
    PerThread<uint32_t> none;
    block_.each([&](int thread) { near[thread] = scale(thread, tile, scores[thread]); });
    block_.any(near, some);
    block_.each([&](int thread) { none[thread] = 1U - some[thread]; });
    block_.where(none, [&]() {
      block_.each([&](int thread) {
        for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t, int, int column) {
          scores[thread].value[i][j][c] = of_negative(tile, scores[thread].value[i][j][c], column);
        });
      });
    });
    block_.where(some, [&]() {
      block_.each([&](int thread) {
        for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int row, int column) {
          float& score = scores[thread].value[i][j][c];
          score = (near[thread] & bit) == 0 ? of_negative(tile, score, column) : of_any(tile, score, row, column);
        });
      });
    });
  }

  // Products become logits. Bits of the pairs that may share an id, as in Forward::scale, or lie behind the last query.
  TMOR_BLOCK_CODE uint32_t scale(int thread, int tile, Scores& scores) const {
    const typename KeysShared::Columns& columns = shared_.columns[tile % kMostStages];
    const int64_t left = task_.queries.count - int64_t{tile} * kTileColumns;
    uint32_t near = near_pairs<Products>(thread, shared_.id, columns.id, shared_.cluster, columns.cluster);
    if (task_.query_caption != nullptr) {
      near |= near_pairs<Products>(thread, shared_.caption, columns.caption, shared_.caption, columns.caption);
    }
    for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t, int row, int) {
      float& score = scores.value[i][j][c];
      score = score * shared_.factor[row] + shared_.weight[row];
    });
    if (left < kTileColumns) {
      for_each_score<Products>(thread, [&](int, int, int, uint32_t bit, int, int column) {
        if (column >= left) near |= bit;
      });
    }
    return near;
  }

  TMOR_BLOCK_CODE float of_negative(int tile, float logit, int column) const {
    const typename KeysShared::Columns& columns = shared_.columns[tile % kMostStages];
    return Block::exp2(logit - columns.number[kDenominator][column]) * columns.number[kFactor][column];
  }

  TMOR_BLOCK_CODE float of_any(int tile, float logit, int row, int column) const {
    const typename KeysShared::Columns& columns = shared_.columns[tile % kMostStages];
    const int64_t query = int64_t{tile} * kTileColumns + column;
    if (query >= task_.queries.count || shared_.id[row] == columns.id[column]) return 0.0F;
    const bool aligned = columns.cluster[column] >= 0 && shared_.cluster[row] == columns.cluster[column];
    if (aligned) {
      if (task_.has_chosen != 0 && !is_chosen(query, first_row_ + row)) return 0.0F;
      return Block::exp2(logit - columns.number[kPositive][column]) * columns.number[kShare][column] -
             columns.number[kPlain][column];
    }
    const bool described = task_.query_caption != nullptr && columns.caption[column] >= 0 &&
                           shared_.caption[row] == columns.caption[column];
    return described ? 0.0F : of_negative(tile, logit, column);
  }

  TMOR_BLOCK_CODE bool is_chosen(int64_t query, int64_t key) const {
    const int64_t* chosen = task_.chosen + query * task_.chosen_count;
    for (int64_t k = 0; k < task_.chosen_count; ++k) {
      if (chosen[k] == key) return true;
    }
    return false;
  }

  TMOR_BLOCK_CODE void write(int first_column, const PerThread<typename Products::Sums>& sums) {
    block_.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int n = 0; n < Products::kSumTiles; ++n) {
          TMOR_UNROLL
          for (int c = 0; c < 4; ++c) {
            const int64_t key = first_row_ + row_of<Products>(thread, i, c >> 1);
            const int column = first_column + n * 8 + fragment_column(thread, c);
            if (key >= task_.keys.count || column >= task_.keys.dimensions) continue;
            task_.key_gradient[key * task_.keys.dimensions + column] = sums[thread].value[i][n][c];
          }
        }
      }
    });
  }

  Block& block_;
  const KeysTask& task_;
  const Ring& ring_;
  KeysShared& shared_;
  int64_t first_row_ = 0;
};

}  // namespace tmor::cluster_infonce
