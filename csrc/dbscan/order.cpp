#include "dbscan/order.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "dbscan/one_pass.hpp"

namespace tmor::dbscan {
namespace {

constexpr int64_t kSmall = 4096;         // fewer points are not worth sorting
constexpr int64_t kTreeDimensions = 12;  // up to here a k-d tree separates better than leaders
constexpr int64_t kSample = 2048;        // points among which leaders are sought at a time
constexpr int64_t kMaxLeaders = 4096;
constexpr int64_t kOwnPanel = 16;  // fewer points do not get a panel of their own

Order callers_order(int64_t n) {
  Order order;
  order.places.assign(static_cast<size_t>((n + kWidth - 1) / kWidth * kWidth), kNobody);
  std::iota(order.places.begin(), order.places.begin() + n, uint32_t{0});
  return order;
}

// ---- Few dimensions: a k-d tree whose leaves are panels -------------------------------------------------------------

void split(const float* points, int64_t dimensions, uint32_t* first, uint32_t* last) {
  const int64_t count = last - first;
  if (count <= kWidth) return;
  int64_t widest = 0;
  float width = -1.0F;
  for (int64_t k = 0; k < dimensions; ++k) {
    float low = points[first[0] * dimensions + k];
    float high = low;
    for (const uint32_t* i = first; i < last; ++i) {
      const float value = points[*i * dimensions + k];
      low = std::min(low, value);
      high = std::max(high, value);
    }
    if (high - low > width) {
      width = high - low;
      widest = k;
    }
  }
  const int64_t half = (count / 2 + kWidth - 1) / kWidth * kWidth;
  // Ties by index, so that the order does not depend on the library.
  std::nth_element(first, first + half, last, [=](uint32_t a, uint32_t b) {
    const float x = points[a * dimensions + widest];
    const float y = points[b * dimensions + widest];
    return x < y || (x == y && a < b);
  });
#pragma omp task if (count > 16384)
  split(points, dimensions, first, first + half);
  split(points, dimensions, first + half, last);
#pragma omp taskwait
}

Order tree_order(Job* job) {
  const Params& params = job->params;
  Order order = callers_order(params.n);
  order.sorted = true;
  std::vector<float> points(static_cast<size_t>(params.n * params.dimensions));
#pragma omp parallel num_threads(params.threads)
  {
    std::vector<double> row(static_cast<size_t>(padded_row(params.dimensions)));
#pragma omp for schedule(static)
    for (int64_t i = 0; i < params.n; ++i) {
      job->frame.place(i, row.data());
      for (int64_t k = 0; k < params.dimensions; ++k) {
        points[static_cast<size_t>(i * params.dimensions + k)] = static_cast<float>(row[static_cast<size_t>(k)]);
      }
    }
#pragma omp single
    split(points.data(), params.dimensions, order.places.data(), order.places.data() + params.n);
  }
  return order;
}

// ---- Many dimensions: groups around leaders -------------------------------------------------------------------------
// A leader is a point further than `radius` from all leaders before it; every other point joins a leader within
// `radius`.

struct Leaders {
  std::vector<uint32_t> points;
  double coverage = 0.0;  // share of the last quarter of the sample that earlier leaders covered
};

// Leaders among points[0 .. ), one after the other, in float32. Gives up (no coverage) if next to nobody has
// neighbours.
Leaders find_leaders(Job* job, const Frame& frame, const std::vector<uint32_t>& sample) {
  std::vector<uint32_t> order = sample;
  order.resize((order.size() + kWidth - 1) / kWidth * kWidth, kNobody);
  const Packed packed = pack_points(frame, Arithmetic::float32, order);
  Packed found = make_packed(frame, Arithmetic::float32, packed.count(), false);
  std::memset(found.words.get(), 0, static_cast<size_t>(found.count() * found.steps * kWidth) * sizeof(uint32_t));
  job->forget_prepared();
  Worker* worker = job->worker();
  Leaders leaders;
  int64_t last_seen = 0;
  int64_t last_covered = 0;
  for (int64_t s = 0; s < packed.count(); ++s) {
    const uint64_t lanes = packed.panels[static_cast<size_t>(s)].lanes;
    uint64_t open = lanes;
    for (int64_t b = 0; b * kWidth < static_cast<int64_t>(leaders.points.size()) && open != 0; ++b) {
      open &= ~job->compare(worker, packed, s, found, b, open);
    }
    if (s >= packed.count() * 3 / 4) {
      last_seen += __builtin_popcountll(lanes);
      last_covered += __builtin_popcountll(lanes & ~open);
    }
    if (open == 0) continue;
    job->compare(worker, packed, s, packed, s, open);
    while (open != 0) {
      const int lane = next_bit(&open);
      open &= ~(worker->pairs.sure[lane] | worker->pairs.maybe[lane]);
      const size_t from = static_cast<size_t>(s * kWidth + lane);
      const size_t to = leaders.points.size();
      for (int64_t step = 0; step < found.steps; ++step) {
        found.words[(static_cast<int64_t>(to) / kWidth * found.steps + step) * kWidth +
                    static_cast<int64_t>(to) % kWidth] = packed.panel(s)[step * kWidth + lane];
      }
      found.start[to] = packed.start[from];
      Panel& panel = found.panels[to / kWidth];
      const Panel& other = packed.panels[static_cast<size_t>(s)];
      panel.lanes |= one_bit(static_cast<int>(to % kWidth));
      panel.length = std::max(panel.length, other.length);
      panel.magnitude = std::max(panel.magnitude, other.magnitude);
      panel.worst = std::max(panel.worst, other.worst);
      leaders.points.push_back(order[from]);
    }
    if (s == 7 && leaders.points.size() * 20 > 19 * 8 * kWidth) return leaders;
  }
  leaders.coverage = last_seen == 0 ? 0.0 : static_cast<double>(last_covered) / static_cast<double>(last_seen);
  return leaders;
}

std::vector<uint32_t> evenly_spaced(const std::vector<uint32_t>& points, int64_t count) {
  const int64_t n = static_cast<int64_t>(points.size());
  const int64_t used = std::min(n, count);
  std::vector<uint32_t> result(static_cast<size_t>(used));
  for (int64_t i = 0; i < used; ++i) result[static_cast<size_t>(i)] = points[static_cast<size_t>(i * n / used)];
  return result;
}

// group[point] = first + the first leader within the radius, for the points of `open` that have one.
void join_leaders(Job* job, const Frame& frame, Arithmetic arithmetic, const Leaders& leaders, uint32_t first,
                  const std::vector<uint32_t>& open, std::vector<uint32_t>* group) {
  std::vector<uint32_t> order = leaders.points;
  order.resize((order.size() + kWidth - 1) / kWidth * kWidth, kNobody);
  const Packed columns = pack_points(frame, arithmetic, order);
  const int64_t panels = (static_cast<int64_t>(open.size()) + kWidth - 1) / kWidth;
#pragma omp parallel num_threads(job->params.threads)
  {
    Worker* worker = job->worker();
    Packed rows = make_packed(frame, arithmetic, 1, false);
    const int64_t padded = padded_row(rows.dimensions);
    std::vector<double> coordinates(static_cast<size_t>(kWidth * padded));
    double extra[kWidth] = {};
#pragma omp for schedule(static)
    for (int64_t index = 0; index < panels; ++index) {
      if (job->poll.step()) continue;
      PanelSource source{coordinates.data(), extra, nullptr, 0};
      const uint32_t* points = open.data() + index * kWidth;
      for (int lane = 0; lane < kWidth && index * kWidth + lane < static_cast<int64_t>(open.size()); ++lane) {
        extra[lane] = frame.place(points[lane], coordinates.data() + lane * padded);
        source.lanes |= one_bit(lane);
      }
      write_panel(source, &rows, 0);
      worker->prepared_panel = nullptr;
      uint64_t left = source.lanes;
      for (int64_t b = 0; b < columns.count() && left != 0; ++b) {
        for (uint64_t hit = job->compare(worker, rows, 0, columns, b, left); hit != 0;) {
          const int lane = next_bit(&hit);
          const uint64_t near = worker->pairs.sure[lane] | worker->pairs.maybe[lane];
          if (near == 0) continue;
          (*group)[points[lane]] = first + static_cast<uint32_t>(b * kWidth + __builtin_ctzll(near));
          left &= ~one_bit(lane);
        }
      }
    }
    worker->prepared_panel = nullptr;
  }
  job->poll.raise_if_stopped();
}

void fill_panel(std::vector<uint32_t>* places) {
  places->resize((places->size() + kWidth - 1) / kWidth * kWidth, kNobody);
}

// Points without a leader, and those of groups too small for a panel, share panels. They come first: a sweep asks for
// each row of the earlier panel whether it is near the ball of the later one, and only balls around groups are small.
Order group_order(const std::vector<uint32_t>& group, uint32_t groups) {
  std::vector<int64_t> begin(groups + 2, 0);
  for (const uint32_t g : group) ++begin[std::min(g, groups) + 1];
  for (size_t g = 1; g < begin.size(); ++g) begin[g] += begin[g - 1];
  std::vector<uint32_t> members(group.size());
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (size_t i = 0; i < group.size(); ++i) {
    members[static_cast<size_t>(next[std::min(group[i], groups)]++)] = static_cast<uint32_t>(i);
  }
  Order order;
  order.sorted = true;
  std::vector<uint32_t> own;
  for (uint32_t g = 0; g <= groups; ++g) {
    const auto first = members.begin() + begin[g];
    const auto last = members.begin() + begin[g + 1];
    auto end = first + (g == groups ? 0 : (last - first) / kWidth * kWidth);
    if (g != groups && last - end >= kOwnPanel) end = last;
    own.insert(own.end(), first, end);
    fill_panel(&own);
    order.places.insert(order.places.end(), end, last);
  }
  fill_panel(&order.places);
  order.places.insert(order.places.end(), own.begin(), own.end());
  return order;
}

Order leader_order(Job* job, Arithmetic arithmetic) {
  const int64_t n = job->params.n;
  const double eps = std::sqrt(job->frame.threshold);
  std::vector<uint32_t> open(static_cast<size_t>(n));
  std::iota(open.begin(), open.end(), uint32_t{0});
  Frame frame = job->frame;
  Leaders leaders;
  // The smallest radius at which the next point is likely to find a leader.
  for (const double factor : {1.0, 1.5, 2.25, 3.375}) {
    frame.threshold = std::min(16.0, eps * factor * eps * factor);
    leaders = find_leaders(job, frame, evenly_spaced(open, kSample));
    if (leaders.coverage >= 0.2) break;
  }
  if (leaders.coverage < 0.2 || leaders.points.size() < 4) return callers_order(n);
  std::vector<uint32_t> group(static_cast<size_t>(n), kNobody);
  uint32_t groups = 0;
  while (leaders.coverage >= 0.2 && groups < kMaxLeaders) {
    job->poll.begin(0.0, 0.02, static_cast<int64_t>(open.size()) / kWidth);
    join_leaders(job, frame, arithmetic, leaders, groups, open, &group);
    groups += static_cast<uint32_t>(leaders.points.size());
    const auto joined = [&](uint32_t point) { return group[point] != kNobody; };
    open.erase(std::remove_if(open.begin(), open.end(), joined), open.end());
    if (static_cast<int64_t>(open.size()) < std::max(n / 20, kSmall)) break;
    leaders = find_leaders(job, frame, evenly_spaced(open, kSample));
  }
  return group_order(group, groups);
}

}  // namespace

Order choose_order(Job* job, Arithmetic arithmetic) {
  const Params& params = job->params;
  const bool wanted = params.reorder == 1 || (params.reorder != 0 && params.n >= kSmall);
  if (!wanted || !job->frame.bounded) return callers_order(params.n);
  return params.dimensions <= kTreeDimensions ? tree_order(job) : leader_order(job, arithmetic);
}

}  // namespace tmor::dbscan
