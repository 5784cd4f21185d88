// DBSCAN on CPUs: the steps of a run. What they do is in
//   points.hpp                    the caller's numbers, and the frame in which they are looked at
//   order.hpp                     near points into the same panels, where that pays
//   packed.hpp                    low-precision copies and the proof of their bounds
//   tile.hpp, tile_kernel.hpp     compare panels of them
//   walk.hpp                      half of the matrix, without what balls around panels rule out
//   one_pass.hpp, components.hpp  neighbour lists, components, labels
//   counting.hpp                  the further sweeps for weights and for many samples
#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "dbscan/components.hpp"
#include "dbscan/counting.hpp"
#include "dbscan/job.hpp"
#include "dbscan/order.hpp"
#include "dbscan/walk.hpp"

namespace tmor::dbscan {
namespace {

// The share of pairs of a sample that this arithmetic leaves to float64.
double share_to_recheck(Job* job, Arithmetic arithmetic) {
  constexpr int64_t kPanels = 16;
  const int64_t n = job->params.n;
  const int64_t panels = std::min<int64_t>(kPanels, (n + kWidth - 1) / kWidth);
  std::vector<uint32_t> order(static_cast<size_t>(panels * kWidth), kNobody);
  const int64_t used = std::min(n, panels * kWidth);
  for (int64_t i = 0; i < used; ++i) order[static_cast<size_t>(i)] = static_cast<uint32_t>(i * n / used);
  const Packed packed = pack_points(job->frame, arithmetic, order);
  job->forget_prepared();
  Worker* worker = job->worker();
  int64_t maybe = 0;
  for (int64_t a = 0; a < panels; ++a) {
    for (int64_t b = a; b < panels; ++b) {
      for (uint64_t any = job->compare(worker, packed, a, packed, b, ~uint64_t{0}); any != 0;) {
        const int row = next_bit(&any);
        maybe += __builtin_popcountll(worker->pairs.maybe[row] & (a == b ? bits_above(row) : ~uint64_t{0}));
      }
    }
  }
  job->forget_prepared();
  return 2.0 * static_cast<double>(maybe) / static_cast<double>(used * used);
}

// The arithmetic of which a pair costs least: products in a tile, and its share of rechecks.
Arithmetic choose_arithmetic(Job* job) {
  const Params& params = job->params;
  const double dimensions = static_cast<double>(params.dimensions);
  const bool small = params.dimensions <= kMaxInt8Dimensions;
  if (params.arithmetic != Arithmetic::automatic) {
    return params.arithmetic == Arithmetic::int8 && !small ? Arithmetic::float32 : params.arithmetic;
  }
  Arithmetic best = Arithmetic::float32;
  double least = std::numeric_limits<double>::infinity();
  for (const Arithmetic each : {Arithmetic::int8, Arithmetic::bfloat16, Arithmetic::float32}) {
    if (each == Arithmetic::int8 && (params.isa < Isa::avx512_vnni || !small)) continue;
    if (each == Arithmetic::bfloat16 && params.isa < Isa::avx512_bf16) continue;
    // In cycles per pair, 32 words at a time and a little for the comparison; a recheck waits for memory.
    const double product = (dimensions / elements_per_word(each) + 4.0) / 32.0;
    if (product >= least) continue;
    const double cost = product + share_to_recheck(job, each) * (150.0 + dimensions);
    if (cost >= least) continue;
    least = cost;
    best = each;
  }
  return best;
}

void write_stats(const Job& job, const Order& order, int sweeps) {
  if (job.params.stats == nullptr) return;
  Stats stats;
  stats.pairs = job.params.n * (job.params.n - 1) / 2 * sweeps;
  stats.arithmetic = job.arithmetic;
  stats.reordered = order.sorted;
  stats.order = order.checksum;
  for (const Worker& worker : job.workers) {
    stats.compared += worker.stats.compared;
    stats.inside += worker.stats.inside;
    stats.rechecked += worker.stats.rechecked;
  }
  *job.params.stats = stats;
}

// Who is core first, then components, then borders.
void run_counted(Job* job, const Field& field) {
  const std::vector<uint64_t> core =
      job->params.weight != nullptr ? weigh_core(job, field, 0.02, 0.5) : count_core(job, field, 0.02, 0.5);
  Components components(job, field, &core);
  walk(job, field, &components, 0.5, 0.8);
  components.finish();
  reach_borders(job, field, core, components, 0.8, 1.0);
}

}  // namespace

void run_cpu(const Params& params) {
  if (params.n < 1 || params.n > std::numeric_limits<int32_t>::max() || params.dimensions < 1 || params.threads < 1) {
    throw std::invalid_argument("dbscan: sizes out of range");
  }
  const bool counted = params.weight != nullptr || params.min_samples > kMaxListSamples;
  const bool share = params.lists != nullptr || params.parents != nullptr || params.shares != 1 || params.share != 0;
  if (share && (counted || params.lists == nullptr || params.parents == nullptr || params.share < 0 ||
                params.share >= params.shares)) {
    throw std::invalid_argument("dbscan: a share of a run needs lists, parents, no weights and at most 64 samples");
  }
  Job job(params);
  job.arithmetic = choose_arithmetic(&job);
  Order order = choose_order(&job, job.arithmetic);
  order.checksum = 14695981039346656037U;
  for (const uint32_t place : order.places) order.checksum = (order.checksum ^ place) * 1099511628211U;
  Field field = make_field(&job, std::move(order.places), order.sorted);
  if (field.balls && share_left(&job, field) > 0.7) field.balls.reset();
  job.forget_prepared();
  if (counted) {
    run_counted(&job, field);
  } else {
    Components components(&job, field, nullptr);
    walk(&job, field, &components, 0.02, 1.0);
    if (params.lists != nullptr) {
      components.export_share();
    } else {
      components.finish();
    }
  }
  write_stats(job, order, counted ? 3 : 1);
}

}  // namespace tmor::dbscan
