// The forward pass and, in the same pass over the keys, the gradient of the queries.
//
// The bank is cut into a number of splits that depends on the sizes alone. A thread takes one split for some of the
// panels: tile after tile, products, masks, weights relative to a running maximum, products with the keys again. The
// splits are merged in their order, so the result does not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cluster_infonce/cpu_problem.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace tmor::cluster_infonce {
namespace {

// Weights are 2^(logit - maximum); the maximum is raised only when logits exceed it by more than this, for what was
// summed before must then be scaled. 2^kSlack is far from any overflow.
constexpr float kSlack = 8.0F;
// Up to one pair of A in so many is added by itself; above, the whole tile is multiplied.
constexpr int64_t kDense = 8;

int64_t split_count(const Params& params) {
  constexpr int64_t kShortest = 2048;  // keys worth a split of their own
  constexpr int64_t kLongest = 65536;  // keys whose float32 sums may be added up one after another
  constexpr int64_t kMost = 16;
  const int64_t for_threads = std::clamp<int64_t>(16 * 256 / params.batch, 1, kMost);
  const int64_t worthwhile = (params.bank + kShortest - 1) / kShortest;
  return std::max((params.bank + kLongest - 1) / kLongest, std::min(worthwhile, for_threads));
}

// Sums of every split and query, over the negatives (with supcon's full denominator: over A too) and over A.
struct Sums {
  Sums(int64_t splits, int64_t lanes, int64_t width)
      : maximum(splits * lanes), total(splits * lanes), weighted(splits * width) {
    std::fill_n(maximum.data(), splits * lanes, kNone);
  }
  Buffer<float> maximum;   // (splits, lanes)
  Buffer<double> total;    // (splits, lanes)
  Buffer<float> weighted;  // (splits, B, d), or empty
};

// What a thread works with.
struct Scratch {
  Scratch(const Problem& problem, int64_t group, bool gradient, bool aligned)
      : keys(problem.tile_keys, problem.stride),
        logits(problem.tile_keys * problem.panel_width),
        aligned(aligned ? problem.tile_keys * problem.panel_width : 0),
        aligned_lanes(problem.tile_keys),
        weighted(gradient ? group * problem.panel_width * problem.params.dimensions : 0),
        dense(gradient && aligned ? group * problem.panel_width * problem.params.dimensions : 0),
        is_dense(group) {}
  KeyTile keys;
  Buffer<float> logits;
  Buffer<float> aligned;
  Buffer<uint64_t> aligned_lanes;
  Buffer<float> weighted;  // (group, d, width): sums of weighted keys, a query a lane
  Buffer<float> dense;     // the same for A, where whole tiles were multiplied
  Buffer<bool> is_dense;   // (group,)
};

class Forward {
 public:
  explicit Forward(const ForwardParams& params)
      : params_(params),
        problem_(params),
        splits_(split_count(params)),
        gradient_(params.gradient != nullptr),
        wants_aligned_(!params.has_chosen),
        plain_(params.form == Form::supcon),
        // The denominator of supcon takes A in as it is; its positives only count as they are.
        whole_(wants_aligned_ && plain_ && params.denominator == Denominator::all),
        row_(gradient_ ? params.batch * params.dimensions : 0),
        main_(splits_, problem_.lanes, row_),
        aligned_(wants_aligned_ ? splits_ : 0, problem_.lanes, row_),
        aligned_count_(wants_aligned_ ? splits_ * problem_.lanes : 0) {}

  void run();

 private:
  void run_item(int64_t split, int64_t first_panel, int64_t last_panel, Scratch* scratch);
  void run_panel(int64_t split, int64_t panel, int64_t place, Scratch* scratch);
  void add_aligned(int64_t split, int64_t panel, int64_t place, Tile* tile, Scratch* scratch);
  void add_pairs(const Tile& tile, const KeyTile& keys, float* rows) const;
  void write_rows(int64_t split, int64_t first_panel, int64_t last_panel, const Scratch& scratch);
  void finish_query(int64_t i, Buffer<float>* row, Buffer<double>* logits);
  double dot(const float* query, const float* vector) const;
  double merged(const Sums& sums, int64_t i) const;
  void add_merged(const Sums& sums, int64_t i, double factor, double log_of, bool plain);

  const ForwardParams& params_;
  const Problem problem_;
  const int64_t splits_;
  const bool gradient_;
  const bool wants_aligned_;
  const bool plain_;
  const bool whole_;
  const int64_t row_;  // numbers in a split's gradient
  Sums main_;
  Sums aligned_;
  Buffer<int64_t> aligned_count_;  // (splits, lanes)
};

// Raises `maximum` (width,) to `high` where that is due and writes what older sums must be multiplied with.
bool raise(const float* high, float* maximum, int64_t width, float* decay) {
  bool due = false;
  for (int64_t lane = 0; lane < width; ++lane) due = due || high[lane] > maximum[lane] + kSlack;
  if (!due) return false;
  for (int64_t lane = 0; lane < width; ++lane) {
    const float raised = std::max(maximum[lane], high[lane]);
    decay[lane] = std::exp2(maximum[lane] - raised);
    maximum[lane] = raised;
  }
  return true;
}

void scale_panel(float* panel, int64_t rows, int64_t width, const float* factor) {
  for (int64_t row = 0; row < rows; ++row, panel += width) {
    for (int64_t lane = 0; lane < width; ++lane) panel[lane] *= factor[lane];
  }
}

void Forward::run() {
  const int threads = std::max(1, params_.threads);
  // A thread that takes all panels reads each key once; with few splits and many threads they share.
  const int64_t groups = std::clamp<int64_t>((2 * threads + splits_ - 1) / splits_, 1, problem_.panels);
  const int64_t most = (problem_.panels + groups - 1) / groups;
  const int64_t items = splits_ * groups;
  const int used = static_cast<int>(std::min<int64_t>(threads, items));
  std::vector<Scratch> scratch;
  for (int i = 0; i < used; ++i) scratch.emplace_back(problem_, most, gradient_, wants_aligned_);
  std::atomic<bool> stopped{false};
#pragma omp parallel for num_threads(used) schedule(dynamic, 1)
  for (int64_t item = 0; item < items; ++item) {
    if (stopped.load(std::memory_order_relaxed)) continue;
    int thread = 0;
#if defined(_OPENMP)
    thread = omp_get_thread_num();
#endif
    const int64_t split = item / groups;
    const int64_t group = item % groups;
    run_item(split, group * problem_.panels / groups, (group + 1) * problem_.panels / groups,
             &scratch[static_cast<size_t>(thread)]);
    if (thread == 0 && params_.interrupted != nullptr && params_.interrupted()) stopped = true;
  }
  if (stopped) throw Interrupted();
  std::vector<Buffer<float>> rows;
  std::vector<Buffer<double>> logits;
  for (int i = 0; i < threads; ++i) {
    rows.emplace_back(problem_.stride);
    logits.emplace_back(params_.chosen_count + 1);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < params_.batch; ++i) {
    size_t thread = 0;
#if defined(_OPENMP)
    thread = static_cast<size_t>(omp_get_thread_num());
#endif
    finish_query(i, &rows[thread], &logits[thread]);
  }
}

void Forward::run_item(int64_t split, int64_t first_panel, int64_t last_panel, Scratch* scratch) {
  const int64_t panel_size = problem_.panel_width * params_.dimensions;
  if (gradient_) std::fill_n(scratch->weighted.data(), (last_panel - first_panel) * panel_size, 0.0F);
  std::fill_n(scratch->is_dense.data(), last_panel - first_panel, false);
  const int64_t last = (split + 1) * problem_.tiles() / splits_;
  for (int64_t tile = split * problem_.tiles() / splits_; tile < last; ++tile) {
    problem_.load(tile * problem_.tile_keys, &scratch->keys);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      run_panel(split, panel, panel - first_panel, scratch);
    }
  }
  if (gradient_) write_rows(split, first_panel, last_panel, *scratch);
}

void Forward::run_panel(int64_t split, int64_t panel, int64_t place, Scratch* scratch) {
  const Kernel& kernel = problem_.kernel;
  Tile tile = problem_.multiply(scratch->keys, panel, scratch->logits.data());
  if (wants_aligned_) {
    tile.aligned_lanes = scratch->aligned_lanes.data();
    tile.aligned = scratch->aligned.data();
  }
  const int64_t state = split * problem_.lanes + panel * problem_.panel_width;
  float* maximum = main_.maximum.data() + state;
  float high[kMaxWidth];
  float high_aligned[kMaxWidth];
  float decay[kMaxWidth];
  float total[kMaxWidth];
  std::copy_n(maximum, tile.width, high);
  if (wants_aligned_) std::copy_n(aligned_.maximum.data() + state, tile.width, high_aligned);
  const bool some = kernel.mask(tile, whole_, high, high_aligned);
  float* weighted = gradient_ ? scratch->weighted.data() + place * problem_.panel_width * params_.dimensions : nullptr;
  double* sum = main_.total.data() + state;
  if (raise(high, maximum, tile.width, decay)) {
    for (int lane = 0; lane < tile.width; ++lane) sum[lane] *= static_cast<double>(decay[lane]);
    if (gradient_) scale_panel(weighted, params_.dimensions, tile.width, decay);
  }
  kernel.weigh(tile, maximum, total);
  for (int lane = 0; lane < tile.width; ++lane) sum[lane] += static_cast<double>(total[lane]);
  if (gradient_) {
    kernel.multiply(scratch->keys.values.data(), 1, problem_.stride, tile.logits, tile.width, tile.keys, weighted,
                    tile.width, params_.dimensions, tile.width, true);
  }
  if (!some) return;
  float* aligned_maximum = aligned_.maximum.data() + state;
  // supcon needs the sums of A as they are, so no maximum.
  if (!plain_ && raise(high_aligned, aligned_maximum, tile.width, decay)) {
    if (gradient_ && scratch->is_dense[place]) {
      scale_panel(scratch->dense.data() + place * problem_.panel_width * params_.dimensions, params_.dimensions,
                  tile.width, decay);
    }
    for (int lane = 0; lane < tile.width; ++lane) {
      aligned_.total[state + lane] *= static_cast<double>(decay[lane]);
      const int64_t query = panel * problem_.panel_width + lane;
      if (!gradient_ || query >= params_.batch || decay[lane] == 1.0F) continue;
      float* row = aligned_.weighted.data() + split * row_ + query * params_.dimensions;
      for (int64_t k = 0; k < params_.dimensions; ++k) row[k] *= decay[lane];
    }
  }
  add_aligned(split, panel, place, &tile, scratch);
}

void Forward::add_aligned(int64_t split, int64_t panel, int64_t place, Tile* tile, Scratch* scratch) {
  const int64_t state = split * problem_.lanes + panel * problem_.panel_width;
  float total[kMaxWidth];
  problem_.kernel.weigh_aligned(*tile, aligned_.maximum.data() + state, plain_, total);
  int64_t pairs = 0;
  for (int64_t key = 0; key < tile->keys; ++key) {
    for (uint64_t left = tile->aligned_lanes[key]; left != 0; left &= left - 1) {
      ++aligned_count_[state + __builtin_ctzll(left)];
      ++pairs;
    }
  }
  for (int lane = 0; lane < tile->width; ++lane) aligned_.total[state + lane] += static_cast<double>(total[lane]);
  if (!gradient_) return;
  if (pairs * kDense <= tile->keys * tile->width) {
    add_pairs(*tile, scratch->keys,
              aligned_.weighted.data() + split * row_ + panel * problem_.panel_width * params_.dimensions);
    return;
  }
  for (int64_t key = 0; key < tile->keys; ++key) {
    if (tile->aligned_lanes[key] == 0) std::fill_n(tile->aligned + key * tile->width, tile->width, 0.0F);
  }
  float* dense = scratch->dense.data() + place * problem_.panel_width * params_.dimensions;
  problem_.kernel.multiply(scratch->keys.values.data(), 1, problem_.stride, tile->aligned, tile->width, tile->keys,
                           dense, tile->width, params_.dimensions, tile->width, scratch->is_dense[place]);
  scratch->is_dense[place] = true;
}

// Adds the keys of single pairs to `rows`, the panel's queries.
void Forward::add_pairs(const Tile& tile, const KeyTile& keys, float* rows) const {
  for (int64_t key = 0; key < tile.keys; ++key) {
    for (uint64_t left = tile.aligned_lanes[key]; left != 0; left &= left - 1) {
      const int lane = __builtin_ctzll(left);
      problem_.kernel.add_scaled(rows + lane * params_.dimensions, keys.values.data() + key * problem_.stride,
                                 tile.aligned[key * tile.width + lane], params_.dimensions);
    }
  }
}

void Forward::write_rows(int64_t split, int64_t first_panel, int64_t last_panel, const Scratch& scratch) {
  const int64_t d = params_.dimensions;
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const int64_t width = problem_.width_of(panel);
    const int64_t place = panel - first_panel;
    const float* weighted = scratch.weighted.data() + place * problem_.panel_width * d;
    const float* dense = scratch.dense.data() + place * problem_.panel_width * d;
    const int64_t first = panel * problem_.panel_width;
    for (int64_t lane = 0; lane < std::min(width, params_.batch - first); ++lane) {
      float* row = main_.weighted.data() + split * row_ + (first + lane) * d;
      for (int64_t k = 0; k < d; ++k) row[k] = weighted[k * width + lane];
      if (!scratch.is_dense[place]) continue;
      row = aligned_.weighted.data() + split * row_ + (first + lane) * d;
      for (int64_t k = 0; k < d; ++k) row[k] += dense[k * width + lane];
    }
  }
}

double Forward::dot(const float* query, const float* vector) const {
  double sum = 0.0;
  for (int64_t k = 0; k < params_.dimensions; ++k)
    sum += static_cast<double>(query[k]) * static_cast<double>(vector[k]);
  return sum / params_.temperature;
}

// The log-sum-exp of query i over all splits, in their order.
double Forward::merged(const Sums& sums, int64_t i) const {
  double maximum = static_cast<double>(kNone);
  for (int64_t s = 0; s < splits_; ++s) {
    maximum = std::max(maximum, static_cast<double>(sums.maximum[s * problem_.lanes + i]));
  }
  double total = 0.0;
  for (int64_t s = 0; s < splits_; ++s) {
    const int64_t at = s * problem_.lanes + i;
    total += sums.total[at] * std::exp2(static_cast<double>(sums.maximum[at]) - maximum);
  }
  // A NaN is not a maximum: it must not pass for an empty sum either.
  return std::isnan(total) ? total : log_sum(maximum, total);
}

// gradient_i += factor * sum over the splits of weighted keys, relative to e^log_of (as they are, if `plain`).
void Forward::add_merged(const Sums& sums, int64_t i, double factor, double log_of, bool plain) {
  if (factor == 0.0) return;
  float* gradient = params_.gradient + i * params_.dimensions;
  for (int64_t s = 0; s < splits_; ++s) {
    const double maximum = static_cast<double>(sums.maximum[s * problem_.lanes + i]);
    const double weight = factor * (plain ? 1.0 : std::exp2(maximum - log_of * kLog2E));
    if (weight == 0.0) continue;
    problem_.kernel.add_scaled(gradient, sums.weighted.data() + s * row_ + i * params_.dimensions,
                               static_cast<float>(weight), params_.dimensions);
  }
}

void Forward::finish_query(int64_t i, Buffer<float>* row, Buffer<double>* logits) {
  const float* query = params_.query + i * params_.dimensions;
  const double negative = merged(main_, i);
  double positive = -INFINITY;
  double count = 0.0;
  double logit_sum = 0.0;
  if (wants_aligned_) {
    if (!plain_) positive = merged(aligned_, i);
    for (int64_t s = 0; s < splits_; ++s) {
      const int64_t at = s * problem_.lanes + i;
      count += static_cast<double>(aligned_count_[at]);
      if (plain_) logit_sum += aligned_.total[at] * kLn2;
    }
  }
  // The positives beside the bank's clusters: the rows that were drawn, and the query's own.
  const int64_t* chosen = params_.chosen + i * params_.chosen_count;
  double own = 0.0;
  bool finite = true;
  for (int64_t c = 0; c <= params_.chosen_count; ++c) {
    const bool is_own = c == params_.chosen_count;
    if (is_own ? params_.positive == nullptr : chosen[c] < 0) continue;
    double logit = 0.0;
    if (is_own) {
      logit = own = dot(query, params_.positive + i * params_.dimensions);
    } else {
      problem_.load_row(chosen[c], row->data());
      logit = dot(query, row->data());
      if (params_.key_log_weight != nullptr) logit += static_cast<double>(params_.key_log_weight[chosen[c]]);
    }
    (*logits)[c] = logit;
    positive = log_add(positive, logit);
    logit_sum += logit;
    count += 1.0;
    finite = finite && std::isfinite(logit);
  }
  Finished done = finish(params_.form, params_.denominator, negative, positive, count, logit_sum, negative > -INFINITY);
  if (plain_ && done.plain_share > 0.0) {
    // `positive` knows nothing of A here, so the same derivatives are written without it.
    const bool all = params_.denominator == Denominator::all;
    done.positive = all ? done.denominator : INFINITY;
    done.softmax_share = all ? 1.0 : 0.0;
  }
  // An infinite logit of a positive would pass for a perfect one, with a loss of 0.
  params_.loss[i] = finite ? static_cast<float>(done.loss) : NAN;
  const double statistics[] = {done.denominator, done.positive, done.softmax_share, done.plain_share};
  for (int64_t k = 0; k < 4; ++k) params_.statistics[k * params_.batch + i] = static_cast<float>(statistics[k]);
  const auto derivative = [&done](double logit) {
    return done.softmax_share * std::exp(logit - done.positive) - done.plain_share;
  };
  params_.own_gradient[i] = static_cast<float>(derivative(own));
  if (!gradient_) return;

  float* gradient = params_.gradient + i * params_.dimensions;
  std::fill_n(gradient, params_.dimensions, 0.0F);
  const double factor = 1.0 / params_.temperature;
  add_merged(main_, i, factor, done.denominator, false);
  if (wants_aligned_) {
    add_merged(aligned_, i, factor * (plain_ ? -done.plain_share : done.softmax_share), done.positive, plain_);
  }
  for (int64_t c = 0; c <= params_.chosen_count; ++c) {
    const bool is_own = c == params_.chosen_count;
    if (is_own ? params_.positive == nullptr : chosen[c] < 0) continue;
    const float* vector = row->data();
    if (is_own) {
      vector = params_.positive + i * params_.dimensions;
    } else {
      problem_.load_row(chosen[c], row->data());
    }
    problem_.kernel.add_scaled(gradient, vector, static_cast<float>(factor * derivative((*logits)[c])),
                               params_.dimensions);
  }
}

}  // namespace

void forward_cpu(const ForwardParams& params) { Forward(params).run(); }

}  // namespace tmor::cluster_infonce
