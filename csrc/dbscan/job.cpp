// Compiled without contraction: `recheck` decides in float64 exactly as common/distance.hpp is written.
#include "dbscan/job.hpp"

#include <algorithm>

#include "common/distance.hpp"
#include "common/threads.hpp"

namespace tmor::dbscan {
namespace {

Rows rows_of(Isa isa) {
  (void)isa;
#if defined(TMOR_HAVE_AVX512)
  if (isa >= Isa::avx512) return rows_avx512();
#endif
#if defined(TMOR_HAVE_AVX2)
  if (isa >= Isa::avx2) return rows_avx2();
#endif
  return rows_portable();
}

}  // namespace

void Poll::begin(double first, double last, int64_t items) {
  first_ = first;
  last_share_ = last;
  items_ = std::max<int64_t>(items, 1);
  done_.store(0, std::memory_order_relaxed);
}

bool Poll::step() {
  const int64_t done = done_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (stopped()) return true;
  if (poll_ == nullptr || this_thread() != 0) return false;
  const Clock::time_point now = Clock::now();
  if (now - last_ < std::chrono::milliseconds(100)) return false;
  last_ = now;
  const double share = static_cast<double>(done) / static_cast<double>(items_);
  if (!poll_(context_, first_ + (last_share_ - first_) * std::min(1.0, share))) return false;
  stopped_.store(true, std::memory_order_relaxed);
  return true;
}

Worker::Worker(const Params& params) {
  prepared = allocate_words(params.dimensions * kWidth);
  for (auto& coordinates : row) coordinates.resize(static_cast<size_t>(params.dimensions));
}

Job::Job(const Params& p) : params(p), frame(make_frame(p, rows_of(p.isa))), poll(p) {
  workers.reserve(static_cast<size_t>(p.threads));
  for (int i = 0; i < p.threads; ++i) workers.emplace_back(p);
}

Worker* Job::worker() { return &workers[static_cast<size_t>(this_thread())]; }

void Job::forget_prepared() {
  for (Worker& each : workers) each.prepared_panel = nullptr;
}

Tile Job::tile(Arithmetic which) const {
  const Isa isa = params.isa;
  (void)isa;
  if (which == Arithmetic::int8) {
#if defined(TMOR_HAVE_AVX512_VNNI)
    if (isa >= Isa::avx512_vnni) return tile_avx512_vnni();
#endif
    return tile_scalar_int8();
  }
  if (which == Arithmetic::bfloat16) {
#if defined(TMOR_HAVE_AVX512_BF16)
    if (isa >= Isa::avx512_bf16) return tile_avx512_bf16();
#endif
    return tile_scalar_bf16();
  }
#if defined(TMOR_HAVE_AVX512)
  if (isa >= Isa::avx512) return tile_avx512();
#endif
#if defined(TMOR_HAVE_AVX2)
  if (isa >= Isa::avx2) return tile_avx2();
#endif
  return tile_portable();
}

uint64_t Job::compare(Worker* worker, const Packed& rows, int64_t a, const Packed& columns, int64_t b, uint64_t active,
                      bool balls) const {
  const Panel& left = rows.panels[static_cast<size_t>(a)];
  const Panel& right = columns.panels[static_cast<size_t>(b)];
  Pairs& pairs = worker->pairs;
  active &= left.lanes;
  double slack = tile_slack(rows, left, right);
  if (balls) slack += 7.5 * static_cast<double>(left.residual) * static_cast<double>(left.residual);  // a = 16 for rows
  if (!(slack < 1e30)) {
    for (int i = 0; i < kWidth; ++i) {
      pairs.sure[i] = 0;
      pairs.maybe[i] = right.lanes;
    }
    return active;
  }
  const Tile run = tile(rows.arithmetic);
  TileInput input;
  input.rows = rows.panel(a);
  if (run.prepare != nullptr) {
    if (worker->prepared_panel != input.rows) {
      run.prepare(input.rows, rows.steps, worker->prepared.get());
      worker->prepared_panel = input.rows;
    }
    input.rows = worker->prepared.get();
  }
  input.columns = columns.panel(b);
  input.steps = rows.steps;
  input.active = active;
  input.row_low = rows.row_low.data() + a * kWidth;
  input.row_high = rows.row_high.data() + a * kWidth;
  input.column_start = (balls ? columns.ball_start : columns.start).data() + b * kWidth;
  input.column_sum = columns.sum.empty() ? nullptr : columns.sum.data() + b * kWidth;
  input.column_worst = right.worst;
  input.slack = static_cast<float>(slack * 1.000001);
  input.scale = static_cast<float>(1.0 / (left.unit * right.unit));
  uint64_t any = run.run(input, &pairs) & active;
  for (uint64_t found = any; found != 0;) {
    const int i = next_bit(&found);
    pairs.sure[i] &= right.lanes;
    pairs.maybe[i] &= right.lanes;
    if ((pairs.sure[i] | pairs.maybe[i]) == 0) any &= ~one_bit(i);
  }
  return any;
}

uint64_t Job::recheck(Worker* worker, uint32_t point, const uint32_t* order, uint64_t candidates) const {
  if (candidates == 0) return 0;
  worker->stats.rechecked += __builtin_popcountll(candidates);
  uint64_t found = 0;
  while (candidates != 0) {
    const int bit = next_bit(&candidates);
    if (near(worker, point, order[bit])) found |= one_bit(bit);
  }
  return found;
}

bool Job::near(Worker* worker, uint32_t point, uint32_t other) const {
  const double threshold = params.threshold;
  if (params.orthogonal != nullptr && point != other && (params.orthogonal[point] | params.orthogonal[other]) != 0) {
    return 2.0 <= threshold;
  }
  const int64_t dimensions = params.dimensions;
  const Rows& rows = frame.rows;
  double* x = worker->row[0].data();
  double* y = worker->row[1].data();
  // A sum in any order settles all pairs but those whose last digits count.
  double loose;
  const bool plain = params.largest == nullptr;
  if (plain && params.dtype == DType::float32) {
    const float* points = static_cast<const float*>(params.points);
    loose = rows.distance32(points + point * dimensions, points + other * dimensions, dimensions);
  } else if (plain && params.dtype == DType::float64) {
    const double* points = static_cast<const double*>(params.points);
    loose = rows.distance64(points + point * dimensions, points + other * dimensions, dimensions);
  } else {
    frame.load(params, point, x);
    frame.load(params, other, y);
    loose = rows.distance64(x, y, dimensions);
  }
  constexpr double kMargin = 1e-9;  // sums of up to 2^20 squares round by less
  if (frame.bounded && threshold > 1e-280) {
    if (loose < threshold * (1.0 - kMargin)) return true;
    if (loose > threshold * (1.0 + kMargin)) return false;
  }
  frame.load(params, point, x);
  frame.load(params, other, y);
  return squared_distance(x, y, dimensions) <= threshold;
}

}  // namespace tmor::dbscan
