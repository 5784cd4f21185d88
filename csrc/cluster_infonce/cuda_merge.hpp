// What becomes of the splits' sums: a block a query adds them up in their order, takes in the own positive and the
// listed rows, and writes the loss, its statistics and its gradient by the query.
#pragma once

#include <cmath>
#include <cstdint>

#include "cluster_infonce/cuda_aligned.hpp"

namespace tmor::cluster_infonce {

// Threads of a block: few queries have many splits each, to which many threads are put; of many queries a thousand
// blocks of few threads are one wave.
constexpr int kMergeThreads = 512;
constexpr int kSmallMergeThreads = 128;
constexpr int64_t kManyQueries = 512;
constexpr int kMergeColumns = 64;  // of the gradient, at once
constexpr int kMostSplits = 1024;

struct MergeTask {
  Form form = Form::sum;
  Denominator denominator = Denominator::all;
  int32_t wants_aligned = 0;
  int32_t plain = 0;
  int32_t gradient = 0;
  int64_t splits = 1;
  int64_t batch = 0;
  Partials partials;
  RowSource keys;
  const float* query = nullptr;           // (B, d)
  const float* positive = nullptr;        // (B, d) or null
  const float* key_log_weight = nullptr;  // (N,) or null
  const int64_t* chosen = nullptr;        // (B, chosen_count), -1 for none
  int64_t chosen_count = 0;
  double* listed = nullptr;  // (B, chosen_count): logits, then what the row is multiplied with
  const float* temperature = nullptr;
  float* loss_out = nullptr;
  float* gradient_out = nullptr;
  float* own_out = nullptr;
  float* statistics_out = nullptr;
};

template <int kThreads>
struct MergeShared {
  double values[3][kThreads];
  float factor[2][kMostSplits];
  float sums[kThreads / kMergeColumns][kMergeColumns];
  Finished done;
  double negative;
  double positive;
  double count;
  double logit_sum;
  double own;        // logit of the own positive
  float own_factor;  // what it is multiplied with
  int32_t finite;
};

template <typename Block, int kThreads>
class Merge {
 public:
  static constexpr int kGroups = kThreads / kMergeColumns;

  TMOR_BLOCK_CODE Merge(Block& block, const MergeTask& task, MergeShared<kThreads>& shared)
      : block_(block), task_(task), shared_(shared) {}

  TMOR_BLOCK_CODE void run(int64_t query) {
    query_ = query;
    temperature_ = static_cast<double>(*task_.temperature);
    merge_sums();
    take_positives();
    block_.each([&](int thread) {
      if (thread == 0) finish_query();
    });
    block_.barrier();
    if (task_.gradient == 0) return;
    weigh_splits();
    for (int first = 0; first < task_.keys.dimensions; first += kMergeColumns) write_columns(first);
  }

 private:
  TMOR_BLOCK_CODE int64_t at(int64_t split) const { return split * task_.batch + query_; }

  // values[0 .. arrays) joined over the threads, in a fixed order, to their first elements.
  template <typename Join>
  TMOR_BLOCK_CODE void reduce(int arrays, const Join& join) {
    block_.barrier();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      block_.each([&](int thread) {
        if (thread >= half) return;
        for (int k = 0; k < arrays; ++k) {
          double* values = shared_.values[k];
          values[thread] = join(values[thread], values[thread + half]);
        }
      });
      block_.barrier();
    }
  }

  struct LargerOf {
    TMOR_BLOCK_CODE double operator()(double a, double b) const { return b > a ? b : a; }
  };
  struct SumOf {
    TMOR_BLOCK_CODE double operator()(double a, double b) const { return a + b; }
  };

  TMOR_BLOCK_CODE void merge_sums() {
    block_.each([&](int thread) {
      double high = static_cast<double>(kNone);
      double high_aligned = high;
      for (int64_t s = thread; s < task_.splits; s += kThreads) {
        high = fmax(high, static_cast<double>(task_.partials.maximum[at(s)]));
        if (task_.wants_aligned == 0 || task_.plain != 0) continue;
        high_aligned = fmax(high_aligned, static_cast<double>(task_.partials.aligned_maximum[at(s)]));
      }
      shared_.values[0][thread] = high;
      shared_.values[1][thread] = high_aligned;
    });
    reduce(2, LargerOf());
    typename Block::template PerThread<double[2]> high;
    block_.each([&](int thread) {
      high[thread][0] = shared_.values[0][0];
      high[thread][1] = shared_.values[1][0];
    });
    block_.barrier();
    block_.each([&](int thread) {
      double total = 0.0;
      double aligned = 0.0;
      double count = 0.0;
      for (int64_t s = thread; s < task_.splits; s += kThreads) {
        total +=
            task_.partials.total[at(s)] * exp2(static_cast<double>(task_.partials.maximum[at(s)]) - high[thread][0]);
        if (task_.wants_aligned == 0) continue;
        const double maximum = static_cast<double>(task_.partials.aligned_maximum[at(s)]);
        aligned += task_.partials.aligned_total[at(s)] * (task_.plain != 0 ? 1.0 : exp2(maximum - high[thread][1]));
        count += static_cast<double>(task_.partials.aligned_count[at(s)]);
      }
      shared_.values[0][thread] = total;
      shared_.values[1][thread] = aligned;
      shared_.values[2][thread] = count;
    });
    reduce(3, SumOf());
    block_.each([&](int thread) {
      if (thread != 0) return;
      const bool plain = task_.plain != 0;
      shared_.negative = log_of(high[thread][0], shared_.values[0][0]);
      shared_.positive = plain ? -INFINITY : log_of(high[thread][1], shared_.values[1][0]);
      shared_.count = shared_.values[2][0];
      shared_.logit_sum = plain ? shared_.values[1][0] * kLn2 : 0.0;
      shared_.own = 0.0;
      shared_.finite = 1;
    });
    block_.barrier();
  }

  // A NaN is not a maximum: it must not pass for an empty sum either.
  TMOR_BLOCK_CODE static double log_of(double maximum, double total) {
    return total == total ? log_sum(maximum, total) : total;
  }

  // The own positive and the listed rows, whose logits are float64 products.
  TMOR_BLOCK_CODE void take_positives() {
    const int64_t* chosen = task_.chosen + query_ * task_.chosen_count;
    for (int64_t c = 0; c <= task_.chosen_count; ++c) {
      const bool is_own = c == task_.chosen_count;
      const int64_t key = is_own ? 0 : chosen[c];
      if (is_own ? task_.positive == nullptr : key < 0) continue;
      block_.each([&](int thread) {
        double sum = 0.0;
        for (int k = thread; k < task_.keys.dimensions; k += kThreads) {
          const float other = is_own ? task_.positive[query_ * task_.keys.dimensions + k] : task_.keys.value(key, k);
          sum += static_cast<double>(task_.query[query_ * task_.keys.dimensions + k]) * static_cast<double>(other);
        }
        shared_.values[0][thread] = sum;
      });
      reduce(1, SumOf());
      block_.each([&](int thread) {
        if (thread != 0) return;
        double logit = shared_.values[0][0] / temperature_;
        if (is_own) {
          shared_.own = logit;
        } else {
          if (task_.key_log_weight != nullptr) logit += static_cast<double>(task_.key_log_weight[key]);
          task_.listed[query_ * task_.chosen_count + c] = logit;
        }
        shared_.positive = log_add(shared_.positive, logit);
        shared_.logit_sum += logit;
        shared_.count += 1.0;
        if (!(fabs(logit) < INFINITY)) shared_.finite = 0;
      });
      block_.barrier();
    }
  }

  TMOR_BLOCK_CODE double derivative(double logit) const {
    return shared_.done.softmax_share * exp(logit - shared_.done.positive) - shared_.done.plain_share;
  }

  TMOR_BLOCK_CODE void finish_query() {
    Finished done = finish(task_.form, task_.denominator, shared_.negative, shared_.positive, shared_.count,
                           shared_.logit_sum, shared_.negative > -INFINITY);
    if (task_.plain != 0 && done.plain_share > 0.0) {
      // `positive` knows nothing of A here, so the same derivatives are written without it.
      const bool all = task_.denominator == Denominator::all;
      done.positive = all ? done.denominator : INFINITY;
      done.softmax_share = all ? 1.0 : 0.0;
    }
    shared_.done = done;
    // An infinite logit of a positive would pass for a perfect one, with a loss of 0.
    task_.loss_out[query_] = shared_.finite != 0 ? static_cast<float>(done.loss) : NAN;
    task_.statistics_out[query_] = static_cast<float>(done.denominator);
    task_.statistics_out[task_.batch + query_] = static_cast<float>(done.positive);
    task_.statistics_out[2 * task_.batch + query_] = static_cast<float>(done.softmax_share);
    task_.statistics_out[3 * task_.batch + query_] = static_cast<float>(done.plain_share);
    const double own = derivative(shared_.own);
    task_.own_out[query_] = static_cast<float>(own);
    shared_.own_factor = task_.positive == nullptr ? 0.0F : static_cast<float>(own / temperature_);
  }

  TMOR_BLOCK_CODE void weigh_splits() {
    block_.each([&](int thread) {
      const Finished& done = shared_.done;
      for (int64_t s = thread; s < task_.splits; s += kThreads) {
        const double maximum = static_cast<double>(task_.partials.maximum[at(s)]);
        shared_.factor[0][s] = static_cast<float>(exp2(maximum - done.denominator * kLog2E) / temperature_);
        shared_.factor[1][s] = 0.0F;
        if (task_.wants_aligned == 0 || task_.partials.aligned_count[at(s)] == 0) continue;
        const double aligned = static_cast<double>(task_.partials.aligned_maximum[at(s)]);
        const double share =
            task_.plain != 0 ? -done.plain_share : done.softmax_share * exp2(aligned - done.positive * kLog2E);
        shared_.factor[1][s] = static_cast<float>(share / temperature_);
      }
      for (int64_t c = thread; c < task_.chosen_count; c += kThreads) {
        if (task_.chosen[query_ * task_.chosen_count + c] < 0) continue;
        double& listed = task_.listed[query_ * task_.chosen_count + c];
        listed = derivative(listed) / temperature_;
      }
    });
    block_.barrier();
  }

  // kMergeColumns columns of the gradient: each group of threads adds up some of the splits.
  TMOR_BLOCK_CODE void write_columns(int first) {
    block_.each([&](int thread) {
      const int group = thread / kMergeColumns;
      const int column = first + thread % kMergeColumns;
      float sum = 0.0F;
      if (column < task_.keys.dimensions) {
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
        for (int64_t s = group; s < task_.splits; s += kGroups) {
          const int64_t place = at(s) * task_.keys.dimensions + column;
          const float factor = shared_.factor[0][s];
          const float aligned = shared_.factor[1][s];
          // What a factor of 0 leaves out may be anything.
          if (factor != 0.0F) sum += factor * task_.partials.weighted[place];
          if (aligned != 0.0F) sum += aligned * task_.partials.aligned_weighted[place];
        }
      }
      shared_.sums[group][thread % kMergeColumns] = sum;
    });
    block_.barrier();
    block_.each([&](int thread) {
      const int column = first + thread;
      if (thread >= kMergeColumns || column >= task_.keys.dimensions) return;
      float sum = 0.0F;
      for (int group = 0; group < kGroups; ++group) sum += shared_.sums[group][thread];
      for (int64_t c = 0; c < task_.chosen_count; ++c) {
        const int64_t key = task_.chosen[query_ * task_.chosen_count + c];
        if (key < 0) continue;
        sum += static_cast<float>(task_.listed[query_ * task_.chosen_count + c]) * task_.keys.value(key, column);
      }
      const int64_t place = query_ * task_.keys.dimensions + column;
      if (task_.positive != nullptr) sum += shared_.own_factor * task_.positive[place];
      task_.gradient_out[place] = sum;
    });
    block_.barrier();
  }

  Block& block_;
  const MergeTask& task_;
  MergeShared<kThreads>& shared_;
  int64_t query_ = 0;
  double temperature_ = 1.0;
};

}  // namespace tmor::cluster_infonce
