// DBSCAN on CPUs in three sweeps over tiles of the distance matrix, none of which stores a neighbour:
//   1. count neighbours up to min_samples over the upper triangle; tiles whose points are all decided are skipped;
//   2. unite the core points over the upper triangle of the core points; tiles inside one component are skipped;
//   3. look for each other point's smallest cluster among the core points in the order of clusters; the first hit ends
//   it.
// A tile's answer is "neighbours", "not neighbours" or "perhaps" (packed.hpp has the proof); perhaps is decided in
// float64.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "common/distance.hpp"
#include "dbscan/packed.hpp"
#include "dbscan/params.hpp"
#include "dbscan/union_find.hpp"

namespace tmor::dbscan {
namespace {

Tile select_tile(Isa isa) {
  switch (isa) {
#if defined(TMOR_HAVE_AVX512)
    case Isa::avx512:
      return tile_avx512();
#endif
#if defined(TMOR_HAVE_AVX2)
    case Isa::avx2:
      return tile_avx2();
#endif
    default:
      return tile_portable();
  }
}

// Takes the lowest set bit out of `mask` and returns its position.
inline int next_bit(uint64_t* mask) {
  const int bit = __builtin_ctzll(*mask);
  *mask &= *mask - 1;
  return bit;
}

inline uint64_t bits_above(int bit) { return bit >= 63 ? 0 : ~uint64_t{0} << (bit + 1); }

// Decides pairs in float64.
class Recheck {
 public:
  explicit Recheck(const Params& params) : params_(params) {}

  // The bits j of `candidates` for which point `row` and point order[j] are neighbours.
  uint64_t operator()(uint32_t row, const uint32_t* order, uint64_t candidates) const {
    if (candidates == 0) return 0;
    return params_.dtype == DType::float32 ? run<float>(row, order, candidates) : run<double>(row, order, candidates);
  }

 private:
  template <typename Scalar>
  uint64_t run(uint32_t row, const uint32_t* order, uint64_t candidates) const {
    const Scalar* points = static_cast<const Scalar*>(params_.points);
    const int64_t dimensions = params_.dimensions;
    const Scalar* x = points + row * dimensions;
    uint64_t confirmed = 0;
    while (candidates != 0) {
      // Four sums at once hide the latency of the additions; each keeps the order of squared_distance.
      int bit[4];
      const Scalar* y[4];
      double total[4] = {0.0, 0.0, 0.0, 0.0};
      int group = 0;
      for (; group < 4 && candidates != 0; ++group) bit[group] = next_bit(&candidates);
      for (int g = 0; g < 4; ++g) y[g] = points + order[bit[g < group ? g : 0]] * dimensions;
      for (int64_t k = 0; k < dimensions; ++k) {
        const double value = static_cast<double>(x[k]);
        for (int g = 0; g < 4; ++g) total[g] = add_square(total[g], value - static_cast<double>(y[g][k]));
      }
      for (int g = 0; g < group; ++g) {
        const uint32_t other = order[bit[g]];
        const bool right_angle =
            params_.orthogonal != nullptr && row != other && (params_.orthogonal[row] | params_.orthogonal[other]) != 0;
        const double squared = right_angle ? 2.0 : total[g];
        if (squared <= params_.threshold) confirmed |= uint64_t{1} << bit[g];
      }
    }
    return confirmed;
  }

  const Params& params_;
};

// Asks the caller now and then, from the calling thread alone, whether to give up.
class Stop {
 public:
  explicit Stop(bool (*interrupted)()) : interrupted_(interrupted), last_(Clock::now()) {}

  bool requested() {
    if (stopped_.load(std::memory_order_relaxed)) return true;
    if (interrupted_ == nullptr || !on_calling_thread()) return false;
    const Clock::time_point now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return false;
    last_ = now;
    if (!interrupted_()) return false;
    stopped_.store(true, std::memory_order_relaxed);
    return true;
  }

  void raise_if_requested() const {
    if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
  }

 private:
  using Clock = std::chrono::steady_clock;

  static bool on_calling_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num() == 0;
#else
    return true;
#endif
  }

  bool (*interrupted_)();
  Clock::time_point last_;  // only the calling thread touches it
  std::atomic<bool> stopped_{false};
};

struct Job {
  const Params& params;
  const Tile tile;
  const Frame frame;
  const Recheck recheck;
  Stop stop;

  explicit Job(const Params& p)
      : params(p), tile(select_tile(p.isa)), frame(make_frame(p)), recheck(p), stop(p.interrupted) {}

  Packed packed(std::vector<uint32_t> order) const { return pack(params, frame, tile.width, std::move(order)); }

  // Panels of a block: about a quarter of a megabyte, but enough blocks for every thread.
  int64_t block(const Packed& rows) const {
    const int64_t bytes = rows.width * rows.dimensions * static_cast<int64_t>(sizeof(float));
    const int64_t fits = std::clamp<int64_t>((int64_t{1} << 18) / bytes, 1, 16);
    return std::clamp<int64_t>(rows.panels / (8 * int64_t{params.threads}), 1, fits);
  }
};

// Calls visit(a, b) for every pair of panels a <= b, blocks of rows in parallel.
template <typename Visit>
void upper_triangle(Job* job, const Packed& points, const Visit& visit) {
  const int64_t block = job->block(points);
  const int64_t blocks = (points.panels + block - 1) / block;
#pragma omp parallel for num_threads(job->params.threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t j = i; j < blocks && !job->stop.requested(); ++j) {
      const int64_t last_b = std::min(points.panels, (j + 1) * block);
      for (int64_t b = j * block; b < last_b; ++b) {
        const int64_t last_a = std::min(b + 1, (i + 1) * block);
        for (int64_t a = i * block; a < last_a; ++a) visit(a, b);
      }
    }
  }
  job->stop.raise_if_requested();
}

// Sweep 1 without weights.
class Counter {
 public:
  Counter(Job* job, const Packed& points)
      : job_(job),
        points_(points),
        count_(static_cast<size_t>(points.panels * points.width)),
        done_(static_cast<size_t>(points.panels)) {
    for (auto& count : count_) count.store(1, std::memory_order_relaxed);  // a point is its own neighbour
    const bool all = job->params.min_samples <= 1;
    for (auto& done : done_) done.store(all ? ~uint64_t{0} : 0, std::memory_order_relaxed);
  }

  void run(uint8_t* core) {
    upper_triangle(job_, points_, [this](int64_t a, int64_t b) { visit(a, b); });
    for (int64_t position = 0; position < points_.count; ++position) {
      const uint64_t done = load(position / points_.width);
      core[points_.order[static_cast<size_t>(position)]] = static_cast<uint8_t>(done >> (position % points_.width) & 1);
    }
  }

 private:
  uint64_t load(int64_t panel) const { return done_[static_cast<size_t>(panel)].load(std::memory_order_relaxed); }

  void visit(int64_t a, int64_t b) {
    const uint64_t lanes_a = points_.lanes(a);
    if ((load(a) & lanes_a) == lanes_a && (load(b) & points_.lanes(b)) == points_.lanes(b)) return;
    Pairs pairs;
    compare_panels(job_->tile, points_, a, points_, b, &pairs);
    for (int row = 0; row < points_.width; ++row) {
      uint64_t wanted = pairs.sure[row] | pairs.maybe[row];
      if (a == b) wanted &= bits_above(row);
      if (wanted == 0) continue;
      const bool row_done = (load(a) >> row & 1) != 0;
      if (row_done) wanted &= ~load(b);
      const uint32_t point = points_.order[static_cast<size_t>(a * points_.width + row)];
      uint64_t found = pairs.sure[row] & wanted;
      found |= job_->recheck(point, points_.order.data() + b * points_.width, pairs.maybe[row] & wanted);
      if (found == 0) continue;
      if (!row_done) add(a, row, __builtin_popcountll(found));
      found &= ~load(b);
      while (found != 0) add(b, next_bit(&found), 1);
    }
  }

  void add(int64_t panel, int lane, int neighbours) {
    auto& count = count_[static_cast<size_t>(panel * points_.width + lane)];
    const int64_t now =
        int64_t{count.fetch_add(static_cast<uint32_t>(neighbours), std::memory_order_relaxed)} + neighbours;
    if (now >= job_->params.min_samples) {
      done_[static_cast<size_t>(panel)].fetch_or(uint64_t{1} << lane, std::memory_order_relaxed);
    }
  }

  Job* job_;
  const Packed& points_;
  std::vector<std::atomic<uint32_t>> count_;
  std::vector<std::atomic<uint64_t>> done_;  // by panel: the lanes that are core points
};

// Sweep 1 with weights: whole rows, so that each sum runs over the points in their order whatever the threads do.
void weigh(Job* job, const Packed& points, uint8_t* core) {
  const Params& params = job->params;
#pragma omp parallel for num_threads(params.threads) schedule(dynamic, 1)
  for (int64_t a = 0; a < points.panels; ++a) {
    double weight[kMaxWidth] = {};
    Pairs pairs;
    for (int64_t b = 0; b < points.panels && !job->stop.requested(); ++b) {
      compare_panels(job->tile, points, a, points, b, &pairs);
      const uint32_t* columns = points.order.data() + b * points.width;
      for (int row = 0; row < points.width; ++row) {
        // A point is its own neighbour, also a zero vector of the cosine metric, whose tile says otherwise.
        if (a == b) {
          const uint64_t self = (uint64_t{1} << row) & points.lanes(a);
          pairs.sure[row] |= self;
          pairs.maybe[row] &= ~self;
        }
        if ((pairs.sure[row] | pairs.maybe[row]) == 0) continue;
        const uint32_t point = points.order[static_cast<size_t>(a * points.width + row)];
        uint64_t found = pairs.sure[row] | job->recheck(point, columns, pairs.maybe[row]);
        while (found != 0) weight[row] += params.weight[columns[next_bit(&found)]];
      }
    }
    for (int row = 0; row < points.width && a * points.width + row < points.count; ++row) {
      const uint32_t point = points.order[static_cast<size_t>(a * points.width + row)];
      core[point] = weight[row] >= static_cast<double>(params.min_samples) ? 1 : 0;
    }
  }
  job->stop.raise_if_requested();
}

// Sweep 2. Positions are those of `cores`, which are in the order of the points.
class Connector {
 public:
  Connector(Job* job, const Packed& cores)
      : job_(job), cores_(cores), sets_(cores.count), uniform_(static_cast<size_t>(cores.panels)) {
    for (auto& flag : uniform_) flag.store(0, std::memory_order_relaxed);
  }

  // The cluster of every core point, and how many there are.
  std::vector<int64_t> run(int64_t* clusters) {
    upper_triangle(job_, cores_, [this](int64_t a, int64_t b) { visit(a, b); });
    std::vector<int64_t> label(static_cast<size_t>(cores_.count));
    *clusters = 0;
    for (uint32_t position = 0; position < cores_.count; ++position) {
      const uint32_t root = sets_.find(position);
      label[position] = root == position ? (*clusters)++ : label[root];
    }
    return label;
  }

 private:
  // Components only grow together, so a panel once inside one component stays so.
  bool uniform(int64_t panel) {
    auto& flag = uniform_[static_cast<size_t>(panel)];
    if (flag.load(std::memory_order_relaxed) != 0) return true;
    const uint32_t first = static_cast<uint32_t>(panel * cores_.width);
    const uint32_t last = static_cast<uint32_t>(std::min(cores_.count, (panel + 1) * cores_.width));
    const uint32_t root = sets_.find(first);
    for (uint32_t position = first + 1; position < last; ++position) {
      if (sets_.find(position) != root) return false;
    }
    flag.store(1, std::memory_order_relaxed);
    return true;
  }

  void visit(int64_t a, int64_t b) {
    const uint32_t first_a = static_cast<uint32_t>(a * cores_.width);
    const uint32_t first_b = static_cast<uint32_t>(b * cores_.width);
    if (uniform(a) && uniform(b) && sets_.find(first_a) == sets_.find(first_b)) return;
    Pairs pairs;
    compare_panels(job_->tile, cores_, a, cores_, b, &pairs);
    for (int row = 0; row < cores_.width; ++row) {
      uint64_t sure = pairs.sure[row];
      uint64_t maybe = pairs.maybe[row];
      if (a == b) {
        sure &= bits_above(row);
        maybe &= bits_above(row);
      }
      if ((sure | maybe) == 0) continue;
      const uint32_t left = first_a + static_cast<uint32_t>(row);
      while (sure != 0) join(left, first_b + static_cast<uint32_t>(next_bit(&sure)));
      uint64_t open = 0;
      while (maybe != 0) {
        const int bit = next_bit(&maybe);
        if (sets_.find(left) != sets_.find(first_b + static_cast<uint32_t>(bit))) open |= uint64_t{1} << bit;
      }
      uint64_t found = job_->recheck(cores_.order[left], cores_.order.data() + first_b, open);
      while (found != 0) join(left, first_b + static_cast<uint32_t>(next_bit(&found)));
    }
  }

  void join(uint32_t a, uint32_t b) {
    if (sets_.parent(a) != sets_.parent(b)) sets_.unite(a, b);
  }

  Job* job_;
  const Packed& cores_;
  UnionFind sets_;
  std::vector<std::atomic<uint8_t>> uniform_;
};

// Sweep 3. `cores` are in the order of their clusters, `label` says which.
void reach_borders(Job* job, const Packed& rows, const Packed& cores, const std::vector<int64_t>& label,
                   int64_t* labels) {
  const int64_t block = job->block(rows);
  const int64_t blocks = (rows.panels + block - 1) / block;
#pragma omp parallel for num_threads(job->params.threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t first = i * block;
    const int64_t last = std::min(rows.panels, first + block);
    uint64_t open[16];  // block() is at most 16
    for (int64_t a = first; a < last; ++a) open[a - first] = rows.lanes(a);
    Pairs pairs;
    for (int64_t b = 0; b < cores.panels && !job->stop.requested(); ++b) {
      const uint32_t* columns = cores.order.data() + b * cores.width;
      for (int64_t a = first; a < last; ++a) {
        if (open[a - first] == 0) continue;
        compare_panels(job->tile, rows, a, cores, b, &pairs);
        uint64_t pending = open[a - first];
        while (pending != 0) {
          const int row = next_bit(&pending);
          const uint64_t sure = pairs.sure[row];
          // Behind a sure neighbour no other can have a smaller cluster.
          const uint64_t before = sure == 0 ? ~uint64_t{0} : (sure & (~sure + 1)) - 1;
          const uint32_t point = rows.order[static_cast<size_t>(a * rows.width + row)];
          const uint64_t found = sure | job->recheck(point, columns, pairs.maybe[row] & before);
          if (found == 0) continue;
          labels[point] = label[static_cast<size_t>(b * cores.width + __builtin_ctzll(found))];
          open[a - first] &= ~(uint64_t{1} << row);
        }
      }
    }
  }
  job->stop.raise_if_requested();
}

std::vector<uint32_t> points_where(const Params& params, bool core) {
  std::vector<uint32_t> result;
  for (int64_t i = 0; i < params.n; ++i) {
    if ((params.core[i] != 0) == core) result.push_back(static_cast<uint32_t>(i));
  }
  return result;
}

void find_core(Job* job) {
  std::vector<uint32_t> all(static_cast<size_t>(job->params.n));
  std::iota(all.begin(), all.end(), uint32_t{0});
  const Packed points = job->packed(std::move(all));
  if (job->params.weight != nullptr) {
    weigh(job, points, job->params.core);
  } else {
    Counter(job, points).run(job->params.core);
  }
}

}  // namespace

void run_cpu(const Params& params) {
  if (params.n < 1 || params.n > std::numeric_limits<int32_t>::max() || params.dimensions < 1 || params.threads < 1) {
    throw std::invalid_argument("dbscan: sizes out of range");
  }
  Job job(params);
  find_core(&job);
  std::fill(params.labels, params.labels + params.n, int64_t{-1});
  std::vector<uint32_t> core_points = points_where(params, true);
  if (core_points.empty()) return;

  int64_t clusters = 0;
  std::vector<int64_t> label;
  {
    const Packed cores = job.packed(core_points);
    label = Connector(&job, cores).run(&clusters);
  }
  for (size_t i = 0; i < core_points.size(); ++i) params.labels[core_points[i]] = label[i];
  std::vector<uint32_t> others = points_where(params, false);
  if (others.empty()) return;
  const auto earlier = [&](uint32_t x, uint32_t y) { return params.labels[x] < params.labels[y]; };
  std::stable_sort(core_points.begin(), core_points.end(), earlier);
  for (size_t i = 0; i < core_points.size(); ++i) label[i] = params.labels[core_points[i]];
  const Packed cores = job.packed(std::move(core_points));
  const Packed rows = job.packed(std::move(others));
  reach_borders(&job, rows, cores, label, params.labels);
}

}  // namespace tmor::dbscan
