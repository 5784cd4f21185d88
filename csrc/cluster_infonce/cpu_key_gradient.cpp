// The gradient of the keys: a second pass. A thread takes whole tiles of keys and adds up over the queries in their
// order, so the result does not depend on the number of threads.
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

struct Scratch {
  explicit Scratch(const Problem& problem)
      : keys(problem.tile_keys, problem.stride),
        logits(problem.tile_keys * problem.panel_width),
        gradient(problem.tile_keys * problem.stride) {}
  KeyTile keys;
  Buffer<float> logits;
  Buffer<float> gradient;  // (keys, stride)
};

class KeyGradient {
 public:
  explicit KeyGradient(const KeyGradientParams& params)
      : params_(params), problem_(params), queries_(params.batch * problem_.stride), statistics_(5 * problem_.lanes) {
    const int64_t lanes = problem_.lanes;
    for (int64_t i = 0; i < lanes; ++i) {
      const bool real = i < params.batch;
      const auto statistic = [&](int64_t k) { return real ? params.statistics[k * params.batch + i] : 0.0F; };
      const double factor = real ? static_cast<double>(params.upstream[i]) / params.temperature : 0.0;
      statistics_[i] = real ? static_cast<float>(statistic(0) * kLog2E) : INFINITY;
      statistics_[lanes + i] = static_cast<float>(factor);
      statistics_[2 * lanes + i] = real ? static_cast<float>(statistic(1) * kLog2E) : INFINITY;
      statistics_[3 * lanes + i] = static_cast<float>(factor * static_cast<double>(statistic(2)));
      statistics_[4 * lanes + i] = static_cast<float>(factor * static_cast<double>(statistic(3)));
      if (!real) continue;
      std::copy_n(params.query + i * params.dimensions, params.dimensions, queries_.data() + i * problem_.stride);
    }
  }

  void run() {
    const int64_t tiles = problem_.tiles();
    const int used = static_cast<int>(std::min<int64_t>(std::max(1, params_.threads), tiles));
    std::vector<Scratch> scratch;
    for (int i = 0; i < used; ++i) scratch.emplace_back(problem_);
    std::atomic<bool> stopped{false};
#pragma omp parallel for num_threads(used) schedule(dynamic, 1)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      if (stopped.load(std::memory_order_relaxed)) continue;
      int thread = 0;
#if defined(_OPENMP)
      thread = omp_get_thread_num();
#endif
      run_tile(tile, &scratch[static_cast<size_t>(thread)]);
      constexpr int64_t kEvery = 64;
      if (thread == 0 && tile % kEvery == 0 && params_.interrupted != nullptr && params_.interrupted()) stopped = true;
    }
    if (stopped) throw Interrupted();
  }

 private:
  void run_tile(int64_t index, Scratch* scratch) const {
    const Kernel& kernel = problem_.kernel;
    KeyTile& keys = scratch->keys;
    problem_.load(index * problem_.tile_keys, &keys);
    const int64_t* end = params_.pair_key + params_.pairs;
    const int64_t* low = std::lower_bound(params_.pair_key, end, keys.first);
    const int64_t* high = std::lower_bound(low, end, keys.first + keys.keys);
    // Whole vectors: the rows of the scratch are wide enough.
    const int64_t width = (params_.dimensions + kernel.lanes - 1) / kernel.lanes * kernel.lanes;
    for (int64_t panel = 0; panel < problem_.panels; ++panel) {
      const Tile tile = problem_.multiply(keys, panel, scratch->logits.data());
      const int64_t first = panel * problem_.panel_width;
      const float* statistics = statistics_.data() + first;
      const int64_t lanes = problem_.lanes;
      kernel.derive(tile, params_.has_chosen, statistics, statistics + lanes, statistics + 2 * lanes,
                    statistics + 3 * lanes, statistics + 4 * lanes);
      for (const int64_t* pair = low; pair < high; ++pair) {
        const int64_t query = params_.pair_query[pair - params_.pair_key] - first;
        if (query < 0 || query >= tile.width) continue;
        tile.logits[(*pair - keys.first) * tile.width + query] =
            params_.pair_value[pair - params_.pair_key] * statistics[lanes + query];
      }
      const int64_t queries = std::min<int64_t>(tile.width, params_.batch - first);
      kernel.multiply(tile.logits, tile.width, 1, queries_.data() + first * problem_.stride, problem_.stride, queries,
                      scratch->gradient.data(), problem_.stride, tile.keys, width, panel > 0);
    }
    for (int64_t row = 0; row < keys.keys; ++row) {
      std::copy_n(scratch->gradient.data() + row * problem_.stride, params_.dimensions,
                  params_.key_gradient + (keys.first + row) * params_.dimensions);
    }
  }

  const KeyGradientParams& params_;
  const Problem problem_;
  Buffer<float> queries_;     // (B, stride)
  Buffer<float> statistics_;  // (5, lanes): D, upstream / temperature, LP, and that times a and u
};

}  // namespace

void key_gradient_cpu(const KeyGradientParams& params) { KeyGradient(params).run(); }

}  // namespace tmor::cluster_infonce
