// The forward pass of one block: some queries against one split of the bank, 32 keys a tile. Row, cluster and caption
// ids are compared in registers; what leaves the block are, for each query, a log-sum-exp over the negatives and one
// over A, and the keys weighted by both. The weighted keys of the negatives stay in registers until then.
#pragma once

#include <cmath>
#include <cstdint>

#include "cluster_infonce/cuda_aligned.hpp"

namespace tmor::cluster_infonce {

template <typename Block, typename Products>
class Forward {
 public:
  template <typename T>
  using PerThread = typename Block::template PerThread<T>;
  using Scores = typename Products::Scores;
  using Rows = typename Products::Rows;

  TMOR_BLOCK_CODE Forward(Block& block, const ForwardTask& task, const Ring& ring, const Place& place,
                          ForwardShared& shared)
      : block_(block), task_(task), ring_(ring), place_(place), shared_(shared) {}

  TMOR_BLOCK_CODE void run() {
    PerThread<typename Products::Sums> sums;
    Aligned<Block, Products> aligned(block_, task_, ring_, place_, shared_);
    const int64_t tiles = (task_.keys.count + kTileColumns - 1) / kTileColumns;
    const int first_slice = place_.first_column * Products::kBytes / kRowBytes;
    stream_tiles<Products, true>(
        block_, ring_, task_.keys, static_cast<int>(place_.split * tiles / task_.splits),
        static_cast<int>((place_.split + 1) * tiles / task_.splits), first_slice, task_.gradient != 0, sums,
        [&]() {
          prepare(sums);
          aligned.clear();
        },
        [&](int tile) { describe(tile); },
        [&](int tile, PerThread<Scores>& scores, PerThread<Rows>& decay, PerThread<uint32_t>& wanted) {
          weigh(tile, aligned, scores, decay, wanted);
        },
        aligned);
    write(sums);
  }

 private:
  TMOR_BLOCK_CODE void prepare(PerThread<typename Products::Sums>& sums) {
    load_rows<Products>(block_, ring_, task_.queries, place_.first_row, shared_.factor);
    block_.barrier();
    const float scale = static_cast<float>(kLog2E / static_cast<double>(*task_.temperature));
    block_.each([&](int thread) {
      sums[thread] = typename Products::Sums{};
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        shared_.sums[thread][2 * i] = shared_.sums[thread][2 * i + 1] = RunningSum{0.0F, 0.0F};
      }
      for (int row = thread; row < ring_.rows; row += 32 * ring_.warps) {
        const int64_t query = place_.first_row + row;
        const bool real = query < task_.queries.count;
        shared_.id[row] = real ? task_.query_id[query] : 0;
        shared_.cluster[row] = or_nobody(real ? task_.query_cluster[query] : -1);
        shared_.caption[row] = or_nobody(real && task_.query_caption != nullptr ? task_.query_caption[query] : -1);
        shared_.factor[row] *= scale;
        shared_.maximum[row] = kNone;
      }
    });
  }

  TMOR_BLOCK_CODE void describe(int tile) {
    typename ForwardShared::Columns& columns = shared_.columns[tile % kMostStages];
    block_.each([&](int thread) {
      for (int column = thread; column < kTileColumns; column += 32 * ring_.warps) {
        const int64_t key = int64_t{tile} * kTileColumns + column;
        const bool real = key < task_.keys.count;
        const int64_t at = real ? key : 0;
        const int valid = real ? 8 : 0;
        block_.template copy_word<8>(&columns.id[column], task_.key_id + at, valid);
        block_.template copy_word<8>(&columns.cluster[column], task_.key_cluster + at, valid);
        if (task_.key_caption != nullptr) {
          block_.template copy_word<8>(&columns.caption[column], task_.key_caption + at, valid);
        }
        if (task_.key_log_weight != nullptr) {
          block_.template copy_word<4>(&columns.weight[column], task_.key_log_weight + at, valid / 2);
        }
      }
    });
  }

  TMOR_BLOCK_CODE void weigh(int tile, Aligned<Block, Products>& aligned, PerThread<Scores>& scores,
                             PerThread<Rows>& decay, PerThread<uint32_t>& wanted) {
    PerThread<uint32_t> near;
    PerThread<uint32_t> some;
    block_.each([&](int thread) {
      wanted[thread] = 0;
      near[thread] = scale(thread, tile, scores[thread]);
    });
    block_.any(near, some);
    block_.where(some, [&]() {
      PerThread<uint32_t> pairs;
      block_.each([&](int thread) { pairs[thread] = exclude(thread, tile, near[thread], scores[thread]); });
      if (task_.wants_aligned == 0) return;
      block_.any(pairs, some);
      block_.where(some, [&]() { aligned.take(tile, pairs, scores, wanted); });
    });
    soften(scores, decay);
  }

  // Products become logits. Bits of the pairs that may share an id: the lower halves are equal, which is little to ask
  // of every pair and true of few; and of those behind the last key.
  TMOR_BLOCK_CODE uint32_t scale(int thread, int tile, Scores& scores) const {
    const typename ForwardShared::Columns& columns = shared_.columns[tile % kMostStages];
    uint32_t near = near_pairs<Products>(thread, shared_.id, columns.id, shared_.cluster, columns.cluster);
    if (task_.key_caption != nullptr) {
      near |= near_pairs<Products>(thread, shared_.caption, columns.caption, shared_.caption, columns.caption);
    }
    if (task_.key_log_weight != nullptr) {
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t, int row, int column) {
        float& score = scores.value[i][j][c];
        score = score * shared_.factor[row] + columns.weight[column] * static_cast<float>(kLog2E);
      });
    } else {
      for_each_score<Products>(
          thread, [&](int i, int j, int c, uint32_t, int row, int) { scores.value[i][j][c] *= shared_.factor[row]; });
    }
    const int64_t left = task_.keys.count - int64_t{tile} * kTileColumns;
    if (left < kTileColumns) {
      for_each_score<Products>(thread, [&](int, int, int, uint32_t bit, int, int column) {
        if (column >= left) near |= bit;
      });
    }
    return near;
  }

  // Of the pairs in `near`, those that do not count become -inf. Bits of the pairs of A, which do not unless A counts.
  TMOR_BLOCK_CODE uint32_t exclude(int thread, int tile, uint32_t near, Scores& scores) const {
    const typename ForwardShared::Columns& columns = shared_.columns[tile % kMostStages];
    const int64_t left = task_.keys.count - int64_t{tile} * kTileColumns;
    uint32_t aligned = 0;
    for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int row, int column) {
      if ((near & bit) == 0) return;
      const bool never = column >= left || shared_.id[row] == columns.id[column];
      const bool same_cluster = shared_.cluster[row] >= 0 && shared_.cluster[row] == columns.cluster[column];
      const bool described =
          task_.key_caption != nullptr && shared_.caption[row] >= 0 && shared_.caption[row] == columns.caption[column];
      if (same_cluster && !never) aligned |= bit;
      if (never || (same_cluster ? task_.wants_aligned == 0 : described)) scores.value[i][j][c] = -INFINITY;
    });
    return aligned;
  }

  // Weights of the logits relative to the largest so far, and the sum of them.
  TMOR_BLOCK_CODE void soften(PerThread<Scores>& scores, PerThread<Rows>& decay) {
    PerThread<Rows> high;
    block_.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        high[thread].value[i][0] = shared_.maximum[row_of<Products>(thread, i, 0)];
        high[thread].value[i][1] = shared_.maximum[row_of<Products>(thread, i, 1)];
      }
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t, int, int) {
        float& most = high[thread].value[i][c >> 1];
        most = fmaxf(most, scores[thread].value[i][j][c] - Products::kHeadroom);  // which passes over NaN
      });
    });
    join_rows<Products>(block_, high, Larger());
    block_.each([&](int thread) {
      Rows sum{};
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t, int, int) {
        float& score = scores[thread].value[i][j][c];
        score = Block::exp2(score - high[thread].value[i][c >> 1]);
        sum.value[i][c >> 1] += score;
      });
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float old = shared_.maximum[row_of<Products>(thread, i, half)];
          const float factor = Block::exp2(old - high[thread].value[i][half]);
          decay[thread].value[i][half] = factor;
          shared_.sums[thread][2 * i + half].add(factor, sum.value[i][half]);
        }
      }
    });
    block_.warp_barrier();  // all have read what was the maximum
    block_.each([&](int thread) {
      if ((thread & 3) != 0) return;
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        shared_.maximum[row_of<Products>(thread, i, 0)] = high[thread].value[i][0];
        shared_.maximum[row_of<Products>(thread, i, 1)] = high[thread].value[i][1];
      }
    });
  }

  // The sum over the four threads that share a row, in their order.
  TMOR_BLOCK_CODE double total_of(int row) const {
    const int tile = row / 16;
    const int thread = tile / Products::kRowTiles * 32 + row % 8 * 4;
    double total = 0.0;
    for (int i = 0; i < 4; ++i) {
      const RunningSum& sum = shared_.sums[thread + i][2 * (tile % Products::kRowTiles) + row / 8 % 2];
      total += static_cast<double>(sum.total) + static_cast<double>(sum.carry);
    }
    return total;
  }

  TMOR_BLOCK_CODE void write(const PerThread<typename Products::Sums>& sums) {
    const int64_t place = place_.split * task_.queries.count + place_.first_row;
    block_.each([&](int thread) {
      if (task_.gradient == 0) return;
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int n = 0; n < Products::kSumTiles; ++n) {
          TMOR_UNROLL
          for (int c = 0; c < 4; ++c) {
            const int row = row_of<Products>(thread, i, c >> 1);
            const int column = place_.first_column + n * 8 + fragment_column(thread, c);
            if (place_.first_row + row >= task_.queries.count || column >= place_.last_column) continue;
            task_.partials.weighted[(place + row) * task_.queries.dimensions + column] = sums[thread].value[i][n][c];
          }
        }
      }
    });
    block_.barrier();
    if (place_.first_column != 0) return;
    block_.each([&](int thread) {
      for (int row = thread; row < ring_.rows && place_.first_row + row < task_.queries.count;
           row += 32 * ring_.warps) {
        task_.partials.maximum[place + row] = shared_.maximum[row];
        task_.partials.total[place + row] = total_of(row);
        if (task_.wants_aligned == 0) continue;
        task_.partials.aligned_maximum[place + row] = shared_.aligned_maximum[row];
        task_.partials.aligned_total[place + row] = shared_.aligned_total[row];
        task_.partials.aligned_count[place + row] = shared_.aligned_count[row];
      }
    });
  }

  Block& block_;
  const ForwardTask& task_;
  const Ring& ring_;
  const Place& place_;
  ForwardShared& shared_;
};

}  // namespace tmor::cluster_infonce
