#include "dbscan/counting.hpp"

#include <algorithm>
#include <limits>

#include "dbscan/exact_sum.hpp"

namespace tmor::dbscan {
namespace {

uint64_t load(const std::vector<uint64_t>& masks, int64_t panel) {
  return shared_load(masks.data() + static_cast<size_t>(panel));
}

// The neighbours of these rows of panel a in panel b: found[i] for rows in the result, all of them zeroed before. Pairs
// of a panel with itself come once, in the row of the earlier point. `maybe_wanted(row)`: the columns worth a recheck.
template <typename Wanted>
uint64_t find_pairs(Job* job, Worker* worker, const Field& field, int64_t a, int64_t b, uint64_t rows, bool inside,
                    uint64_t found[kWidth], const Wanted& wanted) {
  const uint64_t all = field.lanes(b);
  rows &= field.lanes(a);
  const int64_t pairs = count_pairs(rows, all, a == b);
  uint64_t any = rows;
  if (inside) {
    worker->stats.inside += pairs;
  } else {
    worker->stats.compared += pairs;
    any = job->compare(worker, field.packed, a, field.packed, b, rows);
  }
  std::fill(found, found + kWidth, uint64_t{0});
  uint64_t result = 0;
  while (any != 0) {
    const int row = next_bit(&any);
    uint64_t mask = all & wanted(row);
    if (a == b) mask &= bits_above(row);
    if (inside) {
      found[row] = mask;
    } else {
      const uint32_t point = field.order[static_cast<size_t>(a * kWidth + row)];
      found[row] = worker->pairs.sure[row] & mask;
      found[row] |= job->recheck(worker, point, field.panel_order(b), worker->pairs.maybe[row] & mask);
    }
    if (found[row] != 0) result |= one_bit(row);
  }
  return result;
}

// Counts neighbours up to min_samples.
class Counter {
 public:
  Counter(Job* job, const Field& field)
      : job_(job), field_(field), count_(field.order.size(), 1), done_(static_cast<size_t>(field.panels()), 0) {}

  uint64_t wanted(int64_t a, int64_t first_b, uint64_t columns) {
    if (load(done_, a) != field_.lanes(a)) return columns;
    uint64_t result = 0;
    while (columns != 0) {
      const int j = next_bit(&columns);
      if (load(done_, first_b + j) != field_.lanes(first_b + j)) result |= one_bit(j);
    }
    return result;
  }

  void visit(Worker* worker, int64_t a, int64_t b, uint64_t rows, bool inside) {
    const uint64_t done_a = load(done_, a);
    const uint64_t done_b = load(done_, b);
    if (done_b == field_.lanes(b)) rows &= ~done_a;
    if (rows == 0) return;
    uint64_t found[kWidth];
    const auto needed = [&](int row) { return (done_a >> row & 1) != 0 ? ~done_b : ~uint64_t{0}; };
    if (find_pairs(job_, worker, field_, a, b, rows, inside, found, needed) == 0) return;
    uint64_t by_column[kWidth];
    transpose(found, by_column);
    for (int i = 0; i < kWidth; ++i) {
      add(a, i, found[i]);
      add(b, i, by_column[i]);
    }
  }

  std::vector<uint64_t> core() { return std::move(done_); }

 private:
  void add(int64_t panel, int lane, uint64_t neighbours) {
    uint64_t* done = &done_[static_cast<size_t>(panel)];
    if (neighbours == 0 || (shared_load(done) >> lane & 1) != 0) return;
    const uint32_t more = static_cast<uint32_t>(__builtin_popcountll(neighbours));
    const int64_t now = int64_t{shared_add(&count_[static_cast<size_t>(panel * kWidth + lane)], more)} + more;
    if (now >= job_->params.min_samples) __atomic_fetch_or(done, one_bit(lane), __ATOMIC_RELAXED);
  }

  Job* job_;
  const Field& field_;
  std::vector<uint32_t> count_;  // a point is its own neighbour
  std::vector<uint64_t> done_;
};

// Adds up the weights of neighbours, exactly.
class Weigher {
 public:
  Weigher(Job* job, const Field& field)
      : job_(job),
        field_(field),
        sums_(job->params.weight, job->params.n),
        weight_(field.order.size()),
        total_(field.order.size() * static_cast<size_t>(sums_.limbs()), 0),
        panel_(static_cast<size_t>(field.panels() * sums_.limbs()), 0) {
    for (size_t v = 0; v < weight_.size(); ++v) {
      if (field.order[v] == kNobody) continue;
      weight_[v] = sums_.pieces(job->params.weight[field.order[v]]);
      ExactSums::add(weight_[v], total(static_cast<int64_t>(v)));  // a point is its own neighbour
      ExactSums::add(weight_[v], panel_.data() + static_cast<int64_t>(v) / kWidth * sums_.limbs());
      sums_.add_integer(job->params.min_samples, -1, total(static_cast<int64_t>(v)));
    }
  }

  uint64_t wanted(int64_t, int64_t, uint64_t columns) const { return columns; }

  void visit(Worker* worker, int64_t a, int64_t b, uint64_t rows, bool inside) {
    uint64_t found[kWidth];
    const auto needed = [](int) { return ~uint64_t{0}; };
    if (find_pairs(job_, worker, field_, a, b, rows, inside, found, needed) == 0) return;
    uint64_t by_column[kWidth];
    transpose(found, by_column);
    std::vector<int64_t> sum(static_cast<size_t>(sums_.limbs()));
    for (int i = 0; i < kWidth; ++i) {
      add(a * kWidth + i, b, found[i], &sum);
      add(b * kWidth + i, a, by_column[i], &sum);
    }
  }

  std::vector<uint64_t> core() {
    std::vector<uint64_t> result(static_cast<size_t>(field_.panels()), 0);
    for (int64_t v = 0; v < static_cast<int64_t>(weight_.size()); ++v) {
      const bool heavy = field_.order[static_cast<size_t>(v)] != kNobody && sums_.not_negative(total(v));
      if (heavy) result[static_cast<size_t>(v / kWidth)] |= one_bit(static_cast<int>(v % kWidth));
    }
    return result;
  }

 private:
  int64_t* total(int64_t vertex) { return total_.data() + vertex * sums_.limbs(); }

  void add(int64_t vertex, int64_t panel, uint64_t neighbours, std::vector<int64_t>* sum) {
    if (neighbours == 0) return;
    const int64_t* addend = panel_.data() + panel * sums_.limbs();
    if (neighbours != field_.lanes(panel)) {
      std::fill(sum->begin(), sum->end(), 0);
      while (neighbours != 0) {
        ExactSums::add(weight_[static_cast<size_t>(panel * kWidth + next_bit(&neighbours))], sum->data());
      }
      addend = sum->data();
    }
    int64_t* target = total(vertex);
    for (int i = 0; i < sums_.limbs(); ++i) {
      if (addend[i] != 0) __atomic_fetch_add(target + i, addend[i], __ATOMIC_RELAXED);
    }
  }

  Job* job_;
  const Field& field_;
  const ExactSums sums_;
  std::vector<ExactSums::Pieces> weight_;
  std::vector<int64_t> total_;  // (vertices, limbs) minus min_samples
  std::vector<int64_t> panel_;  // (panels, limbs) weight of a whole panel
};

// The smallest cluster that reaches each point that is not core.
class Borders {
 public:
  Borders(Job* job, const Field& field, const std::vector<uint64_t>& core, const Components& components)
      : job_(job), field_(field), core_(core), cluster_(field.order.size(), kNone) {
    for (size_t v = 0; v < cluster_.size(); ++v) {
      if ((core[v / kWidth] >> (v % kWidth) & 1) != 0) cluster_[v] = components.cluster(static_cast<uint32_t>(v));
    }
  }

  uint64_t wanted(int64_t a, int64_t first_b, uint64_t columns) {
    uint64_t result = 0;
    while (columns != 0) {
      const int j = next_bit(&columns);
      const int64_t b = first_b + j;
      if ((others(a) != 0 && core(b) != 0) || (core(a) != 0 && others(b) != 0)) result |= one_bit(j);
    }
    return result;
  }

  void visit(Worker* worker, int64_t a, int64_t b, uint64_t rows, bool inside) {
    if (a == b || others(b) == 0) rows &= others(a);
    if (core(b) == 0) rows &= core(a);
    if (rows == 0) return;
    const int64_t pairs = count_pairs(rows, field_.lanes(b), a == b);
    (inside ? worker->stats.inside : worker->stats.compared) += pairs;
    uint64_t any = inside ? rows : job_->compare(worker, field_.packed, a, field_.packed, b, rows);
    while (any != 0) {
      const int row = next_bit(&any);
      const bool row_core = (core(a) >> row & 1) != 0;
      const uint64_t mask = row_core ? others(b) : core(b);
      reach(worker, a * kWidth + row, b, row_core, (inside ? ~uint64_t{0} : worker->pairs.sure[row]) & mask, false);
      if (!inside) reach(worker, a * kWidth + row, b, row_core, worker->pairs.maybe[row] & mask, true);
    }
  }

  void write() const {
    for (size_t v = 0; v < cluster_.size(); ++v) {
      const uint32_t point = field_.order[v];
      if (point != kNobody && cluster_[v] != kNone) job_->params.labels[point] = cluster_[v];
    }
  }

 private:
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

  uint64_t core(int64_t panel) const { return core_[static_cast<size_t>(panel)]; }
  uint64_t others(int64_t panel) const { return field_.lanes(panel) & ~core(panel); }

  void reach(Worker* worker, int64_t vertex, int64_t b, bool row_core, uint64_t columns, bool unsure) {
    while (columns != 0) {
      const int lane = next_bit(&columns);
      const int64_t other = b * kWidth + lane;
      uint32_t* border = &cluster_[static_cast<size_t>(row_core ? other : vertex)];
      const uint32_t cluster = cluster_[static_cast<size_t>(row_core ? vertex : other)];
      uint32_t now = shared_load(border);
      if (cluster >= now) continue;
      const uint32_t point = field_.order[static_cast<size_t>(vertex)];
      if (unsure && job_->recheck(worker, point, field_.panel_order(b), one_bit(lane)) == 0) continue;
      while (cluster < now) {
        const uint32_t before = shared_swap(border, now, cluster);
        if (before == now) break;
        now = before;
      }
    }
  }

  Job* job_;
  const Field& field_;
  const std::vector<uint64_t>& core_;
  std::vector<uint32_t> cluster_;  // of core points, and the smallest so far of others
};

}  // namespace

std::vector<uint64_t> count_core(Job* job, const Field& field, double first, double last) {
  Counter counter(job, field);
  walk(job, field, &counter, first, last);
  return counter.core();
}

std::vector<uint64_t> weigh_core(Job* job, const Field& field, double first, double last) {
  Weigher weigher(job, field);
  walk(job, field, &weigher, first, last);
  return weigher.core();
}

void reach_borders(Job* job, const Field& field, const std::vector<uint64_t>& core, const Components& components,
                   double first, double last) {
  Borders borders(job, field, core, components);
  walk(job, field, &borders, first, last);
  borders.write();
}

}  // namespace tmor::dbscan
