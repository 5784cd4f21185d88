// What the forward pass of a block is given and leaves, and its part of A, the other rows of the queries' clusters.
//
// A is a few pairs a tile more often than not. Its weighted keys are added to memory that one warp alone touches: up to
// kListed pairs of a warp one after another, more of them by the matrix units.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cluster_infonce/cuda_stream.hpp"
#include "cluster_infonce/finish.hpp"

namespace tmor::cluster_infonce {

constexpr int kListed = 32;

// A cluster or caption that nothing has, for rows without one: negative, and its lower half is seldom anybody's, which
// that of -1 would be in every tile with noise.
constexpr int64_t kNobody = -(int64_t{1} << 62) + 0x5bd1e995;
TMOR_BLOCK_CODE int64_t or_nobody(int64_t number) { return number < 0 ? kNobody : number; }
TMOR_BLOCK_CODE uint32_t lower(int64_t number) { return static_cast<uint32_t>(number & 0xffffffff); }
constexpr int kMostWeightWords = 16;  // that a thread packs

// Sums of each split and query; those over A only where A counts, vectors only for a gradient. Logits are in base 2.
struct Partials {
  float* maximum = nullptr;           // (splits, B): what the sums are relative to, kNone if there is no logit
  double* total = nullptr;            // (splits, B)
  float* weighted = nullptr;          // (splits, B, d)
  float* aligned_maximum = nullptr;   // (splits, B)
  double* aligned_total = nullptr;    // (splits, B); of plain sums the logits themselves
  uint32_t* aligned_count = nullptr;  // (splits, B)
  float* aligned_weighted = nullptr;  // (splits, B, d)
};

struct ForwardTask {
  RowSource queries;
  Stream keys;
  const int64_t* query_id = nullptr;
  const int64_t* key_id = nullptr;
  const int64_t* query_cluster = nullptr;
  const int64_t* key_cluster = nullptr;
  const int64_t* query_caption = nullptr;  // or null
  const int64_t* key_caption = nullptr;
  const float* key_log_weight = nullptr;  // or null
  const float* temperature = nullptr;     // one number
  int32_t wants_aligned = 0;              // A counts
  int32_t plain = 0;                      // A's sums are plain ones, with weights of 1
  int32_t whole = 0;                      // A is among the negatives too
  int32_t gradient = 0;
  int64_t splits = 1;
  Partials partials;
  Ring ring;
};

struct ListedPair {
  int32_t row;
  int32_t column;
  float logit;
  float weight;
  float decay;    // of what the row has so far, before this pair
  float maximum;  // of the row after the tile
  int32_t first;  // of its row in the list
};

// A sum of float32, exact to the last bit or two of `total` however many terms there are.
struct RunningSum {
  float total;
  float carry;

  TMOR_BLOCK_CODE void add(float decay, float term) {
    const float before = total * decay;
    const float sum = before + term;
    const float part = sum - before;
    carry = carry * decay + ((before - (sum - part)) + (term - part));
    total = sum;
  }
};

struct ForwardShared {
  struct Columns {
    int64_t id[kTileColumns];
    int64_t cluster[kTileColumns];
    int64_t caption[kTileColumns];
    float weight[kTileColumns];
  };
  Columns columns[kMostStages];
  RunningSum sums[kMaxThreads][4];  // of a thread's rows, over its columns
  double aligned_total[kMaxThreads];
  int64_t id[kMaxThreads];
  int64_t cluster[kMaxThreads];
  int64_t caption[kMaxThreads];
  float factor[kMaxThreads];   // makes logits of the products
  float maximum[kMaxThreads];  // of the row's logits so far
  float aligned_maximum[kMaxThreads];
  float aligned_decay[kMaxThreads];  // of the sums that Aligned::add adds to
  uint32_t aligned_count[kMaxThreads];
  ListedPair pairs[kMaxWarps][kListed];
  uint32_t weights[kMostWeightWords][kMaxThreads];
};

// A block's place: its rows, its split of the bank, its columns of the gradient.
struct Place {
  int64_t first_row;
  int64_t split;
  int first_column;
  int last_column;

  // `group` of rows, `part` of the columns.
  TMOR_BLOCK_CODE static Place of(const ForwardTask& task, const Ring& ring, int64_t group, int64_t split, int part) {
    const int end = (part + 1) * ring.width;
    return {group * ring.rows, split, part * ring.width, end < task.queries.dimensions ? end : task.queries.dimensions};
  }
};

template <typename Products>
TMOR_BLOCK_CODE int row_of(int thread, int i, int half) {
  return ((thread >> 5) * Products::kRowTiles + i) * 16 + fragment_row(thread, 2 * half);
}

// use(i, j, c, bit of the element, row, column) for every score of a thread in row tile i.
template <typename Products, typename Use>
TMOR_BLOCK_CODE void for_each_score_of(int thread, int i, const Use& use) {
  TMOR_UNROLL
  for (int j = 0; j < kColumnTiles; ++j) {
    TMOR_UNROLL
    for (int c = 0; c < 4; ++c) {
      use(i, j, c, 1U << (i * 16 + j * 4 + c), row_of<Products>(thread, i, c >> 1), j * 8 + fragment_column(thread, c));
    }
  }
}

// The same for all row tiles.
template <typename Products, typename Use>
TMOR_BLOCK_CODE void for_each_score(int thread, const Use& use) {
  TMOR_UNROLL
  for (int i = 0; i < Products::kRowTiles; ++i) for_each_score_of<Products>(thread, i, use);
}

// join(own, other's) over the four threads that share a row.
template <typename Products, typename Block, typename Join>
TMOR_BLOCK_CODE void join_rows(Block& block, typename Block::template PerThread<typename Products::Rows>& values,
                               const Join& join) {
  TMOR_UNROLL
  for (int distance = 1; distance < 4; distance *= 2) {
    TMOR_UNROLL
    for (int i = 0; i < Products::kRowTiles; ++i) {
      TMOR_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename Block::template PerThread<float> own;
        typename Block::template PerThread<float> other;
        block.each([&](int thread) { own[thread] = values[thread].value[i][half]; });
        block.exchange(own, other, distance);
        block.each([&](int thread) { values[thread].value[i][half] = join(own[thread], other[thread]); });
      }
    }
  }
}

// Of a thread's rows, the lower halves of their numbers.
template <typename Products>
struct LowerHalves {
  uint32_t value[Products::kRowTiles][2];

  TMOR_BLOCK_CODE LowerHalves(int thread, const int64_t* of_rows) {
    TMOR_UNROLL
    for (int i = 0; i < Products::kRowTiles; ++i) {
      value[i][0] = lower(of_rows[row_of<Products>(thread, i, 0)]);
      value[i][1] = lower(of_rows[row_of<Products>(thread, i, 1)]);
    }
  }
};

// Bits of a thread's scores whose row and column have equal lower halves of either number. What is asked of every pair
// is asked of registers: a column's numbers are read once for all rows.
template <typename Products>
TMOR_BLOCK_CODE uint32_t near_pairs(int thread, const int64_t* first_rows, const int64_t* first_columns,
                                    const int64_t* second_rows, const int64_t* second_columns) {
  const LowerHalves<Products> first(thread, first_rows);
  const LowerHalves<Products> second(thread, second_rows);
  uint32_t near = 0;
  TMOR_UNROLL
  for (int j = 0; j < kColumnTiles; ++j) {
    TMOR_UNROLL
    for (int b = 0; b < 2; ++b) {
      const int column = j * 8 + fragment_column(thread, b);
      const uint32_t one = lower(first_columns[column]);
      const uint32_t other = lower(second_columns[column]);
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int half = 0; half < 2; ++half) {
          const bool equal = (first.value[i][half] == one) | (second.value[i][half] == other);
          if (equal) near |= 1U << (i * 16 + j * 4 + half * 2 + b);
        }
      }
    }
  }
  return near;
}

struct Larger {
  TMOR_BLOCK_CODE float operator()(float a, float b) const { return b > a ? b : a; }
};

struct Plus {
  TMOR_BLOCK_CODE float operator()(float a, float b) const { return a + b; }
};

template <typename Block, typename Products>
class Aligned {
 public:
  template <typename T>
  using PerThread = typename Block::template PerThread<T>;
  using Scores = typename Products::Scores;
  using Rows = typename Products::Rows;

  static constexpr int kWeightWords = sizeof(typename Products::Weights) / 4;
  static_assert(kWeightWords <= kMostWeightWords, "room for the weights");

  TMOR_BLOCK_CODE Aligned(Block& block, const ForwardTask& task, const Ring& ring, const Place& place,
                          ForwardShared& shared)
      : block_(block), task_(task), ring_(ring), place_(place), shared_(shared) {}

  TMOR_BLOCK_CODE void clear() {
    block_.each([&](int thread) {
      for (int row = thread; row < ring_.rows; row += 32 * ring_.warps) {
        shared_.aligned_maximum[row] = kNone;
        shared_.aligned_total[row] = 0.0;
        shared_.aligned_count[row] = 0;
      }
      if (task_.wants_aligned == 0 || task_.gradient == 0) return;
      const int warp = thread >> 5;
      for (int row = warp; row < ring_.rows && place_.first_row + row < task_.queries.count; row += ring_.warps) {
        for (int k = place_.first_column + (thread & 31); k < place_.last_column; k += 32) aligned_row(row)[k] = 0.0F;
      }
    });
  }

  // A's part of the tile, for the warps that have any.
  TMOR_BLOCK_CODE void take(int tile, const PerThread<uint32_t>& aligned, PerThread<Scores>& scores,
                            PerThread<uint32_t>& wanted) {
    PerThread<uint32_t> count;
    PerThread<uint32_t> before;
    PerThread<uint32_t> total;
    PerThread<uint32_t> few;
    block_.each([&](int thread) { count[thread] = static_cast<uint32_t>(Block::bit_count(aligned[thread])); });
    block_.offsets(count, before, total);
    block_.each([&](int thread) {
      few[thread] = total[thread] <= kListed ? 1U : 0U;
      wanted[thread] = 1U - few[thread];
    });
    block_.where(few, [&]() {
      list_pairs(aligned, before, scores);
      weigh_pairs(total);
      if (task_.gradient != 0) add_pairs(tile, total);
    });
    block_.where(wanted, [&]() { weigh_many(aligned, scores); });
    if (task_.whole != 0) return;
    block_.each([&](int thread) {
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int, int) {
        if ((aligned[thread] & bit) != 0) scores[thread].value[i][j][c] = -INFINITY;
      });
    });
  }

  // What weigh_many left. In shared memory, for there is no room in registers.
  TMOR_BLOCK_CODE typename Products::Weights weights(int thread) const {
    uint32_t words[kWeightWords];
    TMOR_UNROLL
    for (int k = 0; k < kWeightWords; ++k) words[k] = shared_.weights[k][thread];
    typename Products::Weights packed;
    memcpy(&packed, words, sizeof(words));
    return packed;
  }

  // Products of weigh_many's weights, to memory. The threads of a quad share a row, not its columns.
  TMOR_BLOCK_CODE void add(int thread, int n, int i, const Quad& quad) {
    TMOR_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int row = row_of<Products>(thread, i, c >> 1);
      const int column = place_.first_column + n * 8 + fragment_column(thread, c);
      if (place_.first_row + row >= task_.queries.count || column >= place_.last_column) continue;
      float& sum = aligned_row(row)[column];
      sum = sum * shared_.aligned_decay[row] + quad.value[c] * aligned_unit();
    }
  }

 private:
  TMOR_BLOCK_CODE float* aligned_row(int row) const {
    return task_.partials.aligned_weighted +
           (place_.split * task_.queries.count + place_.first_row + row) * int64_t{task_.queries.dimensions};
  }

  TMOR_BLOCK_CODE void list_pairs(const PerThread<uint32_t>& aligned, const PerThread<uint32_t>& before,
                                  const PerThread<Scores>& scores) {
    block_.each([&](int thread) {
      if (aligned[thread] == 0) return;
      ListedPair* to = shared_.pairs[thread >> 5] + before[thread];
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int row, int column) {
        if ((aligned[thread] & bit) == 0) return;
        to->row = row;
        to->column = column;
        to->logit = scores[thread].value[i][j][c];
        ++to;
      });
    });
    block_.warp_barrier();
  }

  // A thread a pair: its weight, and what its row had must be multiplied with; then the first of each row adds up.
  TMOR_BLOCK_CODE void weigh_pairs(const PerThread<uint32_t>& total) {
    block_.each([&](int thread) {
      ListedPair* pairs = shared_.pairs[thread >> 5];
      const int count = static_cast<int>(total[thread]);
      const int own = thread & 31;
      if (own >= count) return;
      ListedPair& pair = pairs[own];
      const float old = shared_.aligned_maximum[pair.row];
      float high = old;
      int first = count;
      for (int p = 0; p < count; ++p) {
        if (pairs[p].row != pair.row) continue;
        first = p < first ? p : first;
        high = pairs[p].logit > high ? pairs[p].logit : high;
      }
      const bool plain = task_.plain != 0;
      pair.first = first == own ? 1 : 0;
      pair.maximum = plain ? 0.0F : high;
      pair.weight = plain ? 1.0F : Block::exp2(pair.logit - high);
      pair.decay = plain || first != own ? 1.0F : Block::exp2(old - high);
    });
    block_.warp_barrier();
    block_.each([&](int thread) {
      const ListedPair* pairs = shared_.pairs[thread >> 5];
      const int count = static_cast<int>(total[thread]);
      const int own = thread & 31;
      if (own >= count || pairs[own].first == 0) return;
      const int row = pairs[own].row;
      double sum = shared_.aligned_total[row] * static_cast<double>(pairs[own].decay);
      for (int p = own; p < count; ++p) {
        if (pairs[p].row != row) continue;
        sum += static_cast<double>(task_.plain != 0 ? pairs[p].logit : pairs[p].weight);
        ++shared_.aligned_count[row];
      }
      shared_.aligned_total[row] = sum;
      shared_.aligned_maximum[row] = pairs[own].maximum;
    });
  }

  // Adds the keys of single pairs, a column a thread.
  TMOR_BLOCK_CODE void add_pairs(int tile, const PerThread<uint32_t>& total) {
    block_.each([&](int thread) {
      const ListedPair* pairs = shared_.pairs[thread >> 5];
      for (int p = 0; p < static_cast<int>(total[thread]); ++p) {
        float* sums = aligned_row(pairs[p].row);
        const unsigned char* key =
            task_.keys.values + (int64_t{tile} * kTileColumns + pairs[p].column) * task_.keys.stride;
        for (int k = place_.first_column + (thread & 31); k < place_.last_column; k += 32) {
          const float value = number_at<typename Products::Number>(key, k);
          sums[k] = sums[k] * pairs[p].decay + pairs[p].weight * value;
        }
      }
    });
  }

  template <typename Number>
  TMOR_BLOCK_CODE static float number_at(const unsigned char* values, int k) {
    if constexpr (Products::kBytes == 4) {
      return reinterpret_cast<const float*>(values)[k];
    } else {
      return Number::widen(reinterpret_cast<const uint16_t*>(values)[k]);
    }
  }

  // Many pairs of A in a warp: weights for the matrix units.
  TMOR_BLOCK_CODE void weigh_many(const PerThread<uint32_t>& aligned, const PerThread<Scores>& scores) {
    const bool plain = task_.plain != 0;
    PerThread<Rows> high;
    block_.each([&](int thread) {
      high[thread] = Rows{};
      if (plain) return;
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) high[thread].value[i][0] = high[thread].value[i][1] = kNone;
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int, int) {
        float& most = high[thread].value[i][c >> 1];
        const float logit = scores[thread].value[i][j][c];
        if ((aligned[thread] & bit) != 0 && logit > most) most = logit;
      });
    });
    if (!plain) join_rows<Products>(block_, high, Larger());
    block_.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int row = row_of<Products>(thread, i, half);
          const float old = shared_.aligned_maximum[row];
          float& most = high[thread].value[i][half];
          if (!plain && old > most) most = old;
          if ((thread & 3) == 0) shared_.aligned_decay[row] = plain ? 1.0F : Block::exp2(old - most);
        }
      }
    });
    block_.warp_barrier();  // all have read what was the maximum
    PerThread<Rows> sum;
    PerThread<Rows> count;
    block_.each([&](int thread) {
      sum[thread] = count[thread] = Rows{};
      Scores weights{};
      for_each_score<Products>(thread, [&](int i, int j, int c, uint32_t bit, int, int) {
        if ((aligned[thread] & bit) == 0) return;
        const float logit = scores[thread].value[i][j][c];
        const float weight = plain ? 1.0F : Block::exp2(logit - high[thread].value[i][c >> 1] + Products::kHeadroom);
        weights.value[i][j][c] = weight;
        sum[thread].value[i][c >> 1] += plain ? logit : weight;
        count[thread].value[i][c >> 1] += 1.0F;
      });
      typename Products::Weights packed;
      Products::template pack<Block>(weights, &packed);
      uint32_t words[kWeightWords];
      memcpy(words, &packed, sizeof(words));
      TMOR_UNROLL
      for (int k = 0; k < kWeightWords; ++k) shared_.weights[k][thread] = words[k];
    });
    join_rows<Products>(block_, sum, Plus());
    join_rows<Products>(block_, count, Plus());
    block_.each([&](int thread) {
      if ((thread & 3) != 0) return;
      TMOR_UNROLL
      for (int i = 0; i < Products::kRowTiles; ++i) {
        TMOR_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int row = row_of<Products>(thread, i, half);
          shared_.aligned_total[row] = shared_.aligned_total[row] * static_cast<double>(shared_.aligned_decay[row]) +
                                       static_cast<double>(sum[thread].value[i][half] * aligned_unit());
          shared_.aligned_count[row] += static_cast<uint32_t>(count[thread].value[i][half]);
          if (!plain) shared_.aligned_maximum[row] = high[thread].value[i][half];
        }
      }
    });
  }

  // What weigh_many's weights are multiples of.
  TMOR_BLOCK_CODE float aligned_unit() const {
    return task_.plain != 0 || Products::kHeadroom == 0.0F ? 1.0F : 1.0F / 32768.0F;
  }

  Block& block_;
  const ForwardTask& task_;
  const Ring& ring_;
  const Place& place_;
  ForwardShared& shared_;
};

}  // namespace tmor::cluster_infonce
