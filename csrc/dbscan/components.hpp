// The one pass (one_pass.hpp) as a sweep over panels, and what it knows of panels to leave work out.
#pragma once

#include <cstdint>
#include <vector>

#include "dbscan/job.hpp"
#include "dbscan/one_pass.hpp"
#include "dbscan/walk.hpp"

namespace tmor::dbscan {

// Lists of neighbours and components over the vertices of a field. With `core_only` only those vertices take part and
// all of them are core, so lists are empty: the second sweep where counts or weights came first.
class Components {
 public:
  // `core_only`: (panels,) lanes that are core, or null.
  Components(Job* job, const Field& field, const std::vector<uint64_t>* core_only);

  uint64_t wanted(int64_t a, int64_t first_b, uint64_t columns);
  void visit(Worker* worker, int64_t a, int64_t b, uint64_t rows, bool inside);

  // After the sweep: completes the components, numbers them in the order of points, and fills `core` and, but for
  // border points if `core_only`, `labels` of the caller.
  void finish();

  // Instead of finish, where this is one share of several: fills `lists` and `parents` of the caller.
  void export_share();

  // After finish: the cluster of a vertex that is core.
  uint32_t cluster(uint32_t vertex) const { return static_cast<uint32_t>(number_[sets_.find(vertex)]); }

 private:
  struct State {
    uint64_t core = 0;          // lanes known to be core
    uint64_t joined = 0;        // of these, lanes known to be in one component with the anchor
    uint32_t anchor = kNobody;  // the first vertex of the panel that was seen to be core
  };

  uint64_t lanes(int64_t panel) const { return core_only_ != nullptr ? (*core_only_)[panel] : field_.lanes(panel); }
  State& state(int64_t panel) { return states_[static_cast<size_t>(panel)]; }
  bool one_component(int64_t panel);
  uint64_t settled(int64_t panel, int64_t other);
  void became_core(uint32_t vertex);
  void refresh(int64_t panel);
  void handle_row(Worker* worker, uint32_t vertex, int64_t b, uint64_t sure, uint64_t maybe);
  uint64_t open_pairs(uint32_t vertex, int64_t b, uint64_t maybe);
  void add_edges(uint32_t vertex, int64_t b, uint64_t found);

  Job* job_;
  const Field& field_;
  const std::vector<uint64_t>* core_only_;
  std::vector<uint32_t> count_;
  std::vector<uint32_t> slots_;
  std::vector<uint32_t> parent_;
  std::vector<int32_t> number_;
  std::vector<State> states_;
  NeighbourLists lists_;
  UnionFind sets_;
};

}  // namespace tmor::dbscan
