#include "dbscan/components.hpp"

#include <algorithm>
#include <numeric>

namespace tmor::dbscan {
namespace {

uint64_t shared_or(uint64_t* word, uint64_t bits) { return __atomic_fetch_or(word, bits, __ATOMIC_RELAXED); }

}  // namespace

Components::Components(Job* job, const Field& field, const std::vector<uint64_t>* core_only)
    : job_(job), field_(field), core_only_(core_only), states_(static_cast<size_t>(field.panels())) {
  const size_t vertices = field.order.size();
  lists_.capacity = core_only != nullptr ? 0 : static_cast<uint32_t>(job->params.min_samples - 1);
  count_.assign(vertices, 0);
  slots_.assign(vertices * lists_.capacity, kNobody);
  parent_.resize(vertices);
  std::iota(parent_.begin(), parent_.end(), uint32_t{0});
  lists_.count = count_.data();
  lists_.slots = slots_.data();
  sets_.parent = parent_.data();
  if (lists_.capacity != 0) return;
  for (int64_t panel = 0; panel < field.panels(); ++panel) {
    for (uint64_t left = lanes(panel); left != 0;) became_core(static_cast<uint32_t>(panel * kWidth + next_bit(&left)));
  }
}

void Components::became_core(uint32_t vertex) {
  State& panel = state(vertex / kWidth);
  const uint64_t bit = one_bit(vertex % kWidth);
  if (shared_load(&panel.anchor) == kNobody) shared_swap(&panel.anchor, kNobody, vertex);
  shared_or(&panel.core, bit);
  if (shared_load(&panel.anchor) == vertex) shared_or(&panel.joined, bit);
}

// Looks at the core points that are not known to be joined with the anchor.
void Components::refresh(int64_t panel) {
  State& s = state(panel);
  const uint32_t anchor = shared_load(&s.anchor);
  if (anchor == kNobody) return;
  uint64_t open = shared_load(&s.core) & ~shared_load(&s.joined);
  if (open == 0) return;
  const uint32_t root = sets_.find(anchor);
  uint64_t joined = 0;
  while (open != 0) {
    const int lane = next_bit(&open);
    if (sets_.find(static_cast<uint32_t>(panel * kWidth + lane)) == root) joined |= one_bit(lane);
  }
  if (joined != 0) shared_or(&s.joined, joined);
}

// Components only grow together, so a panel once inside one component stays so.
bool Components::one_component(int64_t panel) {
  const uint64_t all = lanes(panel);
  return shared_load(&state(panel).joined) == all && all != 0;
}

// The core lanes of `panel` that are in the component of the anchor of `other`; 0 unless that is their anchor's too.
uint64_t Components::settled(int64_t panel, int64_t other) {
  const uint32_t anchor = shared_load(&state(panel).anchor);
  const uint32_t other_anchor = shared_load(&state(other).anchor);
  if (anchor == kNobody || other_anchor == kNobody || sets_.find(anchor) != sets_.find(other_anchor)) return 0;
  return shared_load(&state(panel).joined);
}

uint64_t Components::wanted(int64_t a, int64_t first_b, uint64_t columns) {
  if (lanes(a) == 0) return 0;
  const bool one_a = one_component(a);
  if (!one_a && core_only_ == nullptr) return columns;
  const uint32_t root = one_a ? sets_.find(shared_load(&state(a).anchor)) : kNobody;
  uint64_t result = columns;
  for (uint64_t left = columns; left != 0;) {
    const int j = next_bit(&left);
    const int64_t b = first_b + j;
    const bool nothing = lanes(b) == 0;
    if (nothing || (one_a && one_component(b) && sets_.find(shared_load(&state(b).anchor)) == root)) {
      result &= ~one_bit(j);
    }
  }
  return result;
}

void Components::visit(Worker* worker, int64_t a, int64_t b, uint64_t rows, bool inside) {
  rows &= lanes(a);
  if (((a ^ b) & 7) == 0 || shared_load(&state(a).core) == lanes(a)) refresh(a);
  if (((a ^ b) & 7) == 0 || shared_load(&state(b).core) == lanes(b)) refresh(b);
  // Pairs within one component have nothing to say.
  if (one_component(b)) rows &= ~settled(a, b);
  if (rows == 0) return;
  if (a != b && one_component(a)) {
    // Fewer rows if the panels change places.
    const uint64_t columns = lanes(b) & ~settled(b, a);
    if (__builtin_popcountll(columns) < __builtin_popcountll(rows)) {
      std::swap(a, b);
      rows = columns;
    }
  }
  if (rows == 0) return;
  const uint64_t all = lanes(b);
  const int64_t pairs = count_pairs(rows, all, a == b);
  uint64_t any = rows;
  if (inside) {
    worker->stats.inside += pairs;
  } else {
    worker->stats.compared += pairs;
    any = job_->compare(worker, field_.packed, a, field_.packed, b, rows);
  }
  while (any != 0) {
    const int row = next_bit(&any);
    const uint64_t mask = a == b ? all & bits_above(row) : all;
    const uint64_t sure = inside ? mask : worker->pairs.sure[row] & mask;
    const uint64_t maybe = inside ? 0 : worker->pairs.maybe[row] & mask;
    if ((sure | maybe) != 0) handle_row(worker, static_cast<uint32_t>(a * kWidth + row), b, sure, maybe);
  }
}

void Components::handle_row(Worker* worker, uint32_t vertex, int64_t b, uint64_t sure, uint64_t maybe) {
  add_edges(vertex, b, sure);
  maybe = open_pairs(vertex, b, maybe);
  if (maybe == 0) return;
  add_edges(vertex, b, job_->recheck(worker, field_.order[vertex], field_.panel_order(b), maybe));
}

// Of the pairs to recheck, those that could still change something.
uint64_t Components::open_pairs(uint32_t vertex, int64_t b, uint64_t maybe) {
  if (maybe == 0 || !lists_.core(vertex)) return maybe;
  const uint32_t root = sets_.find(vertex);
  const uint32_t anchor = shared_load(&state(b).anchor);
  if (anchor != kNobody && sets_.find(anchor) == root) maybe &= ~shared_load(&state(b).joined);
  for (uint64_t core = maybe & shared_load(&state(b).core); core != 0;) {
    const int lane = next_bit(&core);
    if (sets_.find(static_cast<uint32_t>(b * kWidth + lane)) == root) maybe &= ~one_bit(lane);
  }
  return maybe;
}

void Components::add_edges(uint32_t vertex, int64_t b, uint64_t found) {
  if (found == 0) return;
  State& columns = state(b);
  const uint32_t first = static_cast<uint32_t>(b * kWidth);
  // While the row's list has room, and to columns whose list may have.
  while (found != 0) {
    const bool row_core = lists_.core(vertex);
    uint64_t open = row_core ? found & ~shared_load(&columns.core) : found;
    if (open == 0) break;
    const int lane = next_bit(&open);
    found &= ~one_bit(lane);
    const uint32_t other = first + static_cast<uint32_t>(lane);
    const int grown = add_edge(lists_, sets_, vertex, other, true);
    if ((grown & 1) != 0) became_core(vertex);
    if ((grown & 2) != 0) became_core(other);
  }
  if (found == 0) return;
  // What is left joins two core points each.
  const uint32_t anchor = shared_load(&columns.anchor);
  uint32_t root = sets_.find(vertex);
  if (anchor != kNobody && sets_.find(anchor) == root) found &= ~shared_load(&columns.joined);
  uint64_t joined = found;
  while (found != 0) {
    const uint32_t other = first + static_cast<uint32_t>(next_bit(&found));
    if (!sets_.same_parent(vertex, other)) sets_.unite(vertex, other);
  }
  root = sets_.find(vertex);
  if (joined != 0 && anchor != kNobody && sets_.find(anchor) == root) shared_or(&columns.joined, joined);
  State& row = state(vertex / kWidth);
  const uint64_t bit = one_bit(vertex % kWidth);
  const uint32_t row_anchor = shared_load(&row.anchor);
  if ((shared_load(&row.joined) & bit) == 0 && row_anchor != kNobody && sets_.find(row_anchor) == root) {
    shared_or(&row.joined, bit);
  }
}

void Components::finish() {
  const Params& params = job_->params;
  const int64_t vertices = static_cast<int64_t>(field_.order.size());
  const auto present = [this](int64_t v) { return (lanes(v / kWidth) >> (v % kWidth) & 1) != 0; };
  std::vector<uint32_t> place(static_cast<size_t>(params.n), kNobody);
#pragma omp parallel for num_threads(params.threads) schedule(static)
  for (int64_t v = 0; v < vertices; ++v) {
    if (!present(v)) continue;
    if (lists_.capacity != 0) unite_list(lists_, sets_, static_cast<uint32_t>(v));
    place[field_.order[static_cast<size_t>(v)]] = static_cast<uint32_t>(v);
  }
  // Clusters are numbered by their first core point in the caller's order.
  number_.assign(static_cast<size_t>(vertices), -1);
  int32_t clusters = 0;
  for (int64_t i = 0; i < params.n; ++i) {
    const uint32_t v = place[static_cast<size_t>(i)];
    const bool core = v != kNobody && lists_.core(v);
    params.core[i] = core ? 1 : 0;
    if (!core) continue;
    int32_t& number = number_[sets_.find(v)];
    if (number < 0) number = clusters++;
  }
#pragma omp parallel for num_threads(params.threads) schedule(static)
  for (int64_t i = 0; i < params.n; ++i) {
    const uint32_t v = place[static_cast<size_t>(i)];
    params.labels[i] = v == kNobody ? -1 : finish_label(lists_, sets_, number_.data(), v);
  }
}

void Components::export_share() {
  const Params& params = job_->params;
  const int64_t vertices = static_cast<int64_t>(field_.order.size());
  const int64_t capacity = lists_.capacity;
  const auto point = [this](uint32_t vertex) { return static_cast<int32_t>(field_.order[vertex]); };
#pragma omp parallel for num_threads(params.threads) schedule(static)
  for (int64_t i = 0; i < vertices; ++i) {
    const auto v = static_cast<uint32_t>(i);
    if (field_.order[v] == kNobody) continue;
    params.parents[point(v)] = point(sets_.find(v));
    int32_t* list = params.lists + int64_t{point(v)} * capacity;
    for (int64_t place = 0; place < capacity; ++place) {
      const uint32_t other = lists_.at(v, static_cast<uint32_t>(place));
      list[place] = other == kNobody ? -1 : point(other);
    }
  }
}

}  // namespace tmor::dbscan
