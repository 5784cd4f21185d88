// What one pass over the pairs of points does, shared by the CPU and the CUDA backend.
//
// The pass. Let K = min_samples - 1: a point with K neighbours besides itself is core. Every unordered pair {a, b} is
// looked at once, in any order, by any thread; each neighbouring pair is handed to add_edge once.
//   - Each point keeps its first K neighbours in a list. The K-th one makes the point core.
//   - An edge that fits neither list found both lists full, so both ends are core: it unites them at once.
//   - Every other edge is in the list of at least one end.
// Hence after the pass (unite_list for every vertex, then finish_label):
//   - core is count >= K;
//   - every edge between core points is either united already or in a list of one of them: uniting each core point
//     with the core points of its list completes the components;
//   - a point that is not core has all its neighbours in its list, so the smallest cluster among the core points there
//     is the one it takes.
// Which K neighbours a list holds depends on timing; counts up to K, components and therefore labels do not.
//
// Vertices are numbered as the backend likes (it may have reordered the points). Clusters are numbered afterwards, by
// walking the points in the caller's order and giving each root that is met for the first time the next number.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "dbscan/union_find.hpp"

namespace tmor::dbscan {

constexpr uint32_t kNobody = 0xffffffffU;

// One pass is for at most this many samples, so that lists stay short; more, or weights, take a pass that counts first.
constexpr int64_t kMaxListSamples = 64;

// Views of memory that the backend owns: count (vertices,) zeros, slots (vertices, capacity) filled with kNobody.
struct NeighbourLists {
  uint32_t* count = nullptr;
  uint32_t* slots = nullptr;
  uint32_t capacity = 0;  // K = min_samples - 1, 0 .. 63

  TMOR_HOST_DEVICE bool core(uint32_t vertex) const { return shared_load(count + vertex) >= capacity; }

  // Keeps `other` if the list has room and says whether it had; *became_core if this filled it.
  // `count` may run past the capacity by the number of threads that saw room at once, no further.
  TMOR_HOST_DEVICE bool keep(uint32_t vertex, uint32_t other, bool* became_core) const {
    *became_core = false;
    if (shared_load(count + vertex) >= capacity) return false;
    const uint32_t place = shared_add(count + vertex, 1U);
    if (place >= capacity) return false;
    shared_store(slots + static_cast<int64_t>(vertex) * capacity + place, other);
    *became_core = place + 1 == capacity;
    return true;
  }

  // What the list holds at `place`, kNobody where another thread has counted but not written yet.
  TMOR_HOST_DEVICE uint32_t at(uint32_t vertex, uint32_t place) const {
    return shared_load(slots + static_cast<int64_t>(vertex) * capacity + place);
  }
};

// Unites a core point with the core points of its list. During the pass it only helps to skip work early; after it,
// called for every vertex, it is what completes the components (a call for one that is not core does nothing).
TMOR_HOST_DEVICE void unite_list(const NeighbourLists& lists, const UnionFind& sets, uint32_t vertex) {
  if (!lists.core(vertex)) return;
  for (uint32_t place = 0; place < lists.capacity; ++place) {
    const uint32_t other = lists.at(vertex, place);
    if (other != kNobody && lists.core(other) && !sets.same_parent(vertex, other)) sets.unite(vertex, other);
  }
}

// a and b, different vertices, are neighbours. To be called once for each such pair.
// `eager`: a point that becomes core is united with its core neighbours now instead of at the end.
// Returns which of the two this edge made core: 1 for a, 2 for b, their sum for both.
TMOR_HOST_DEVICE int add_edge(const NeighbourLists& lists, const UnionFind& sets, uint32_t a, uint32_t b, bool eager) {
  bool a_core = false;
  bool b_core = false;
  const bool kept_a = lists.keep(a, b, &a_core);
  const bool kept_b = lists.keep(b, a, &b_core);
  if (!kept_a && !kept_b) {
    if (!sets.same_parent(a, b)) sets.unite(a, b);
    return 0;
  }
  if (eager && a_core) unite_list(lists, sets, a);
  if (eager && b_core) unite_list(lists, sets, b);
  return (a_core ? 1 : 0) + (b_core ? 2 : 0);
}

// After the pass and after `number[root]` holds the cluster of every root: the cluster of a vertex, -1 for noise.
template <typename Number>
TMOR_HOST_DEVICE Number finish_label(const NeighbourLists& lists, const UnionFind& sets, const Number* number,
                                     uint32_t vertex) {
  if (lists.core(vertex)) return number[sets.find(vertex)];
  const uint32_t kept = shared_load(lists.count + vertex);
  Number smallest = -1;
  for (uint32_t place = 0; place < kept; ++place) {
    const uint32_t other = lists.at(vertex, place);
    if (!lists.core(other)) continue;
    const Number cluster = number[sets.find(other)];
    if (smallest < 0 || cluster < smallest) smallest = cluster;
  }
  return smallest;
}

// ---- From a low-precision product to an answer ----------------------------------------------------------------------
//
// Let x and y be two points after centring and scaling, as real numbers, and x', y' what the matrix units multiply:
// bf16 or fp16 values, or an integer vector times its scale. With |x - x'| <= rx and |y - y'| <= ry,
//   <x, y> - <x', y'> = <x - x', y> + <x', y - y'>, so it is at most rx |y| + |x'| ry in magnitude (Cauchy-Schwarz),
// and the sum that is computed in place of <x', y'> is off by at most g |x'| |y'|, where g is
//   0 for integers that do not overflow, and
//   1.07 m 2^-24 for m float32 additions of products that float32 holds exactly (bf16) or rounds (float32), in any
//   order, fused or not, m <= 2^20: the usual bound of a sum, Higham 2002, section 3.1; round-toward-zero matrix units
//   count twice.
// x and y are neighbours exactly if <x, y> >= (|x|^2 + |y|^2 - T) / 2.

// Upper bounds for one point, or for all points of a panel or tile.
struct Reach {
  double length = 0.0;    // |x|
  double residual = 0.0;  // |x - x'|
};

// How far the computed product of one point of `a` with one of `b` is from <x, y> at most; `g` as above. The factor
// covers the rounding of this function and of the lengths it is given (each relative 1e-9 at most).
TMOR_HOST_DEVICE double product_bound(const Reach& a, const Reach& b, double g) {
  const double low_a = a.length + a.residual;
  const double low_b = b.length + b.residual;
  return (a.residual * b.length + low_a * b.residual + g * low_a * low_b) * (1.0 + 1e-8);
}

enum class Verdict : int { apart = 0, neighbours = 1, recheck = 2 };

// `low` and `high` lie at least the bound below and above (|x|^2 + |y|^2 - T) / 2, rounded away from it.
// A NaN score is for the recheck.
template <typename Score>
TMOR_HOST_DEVICE Verdict classify(Score score, Score low, Score high) {
  if (score >= high) return Verdict::neighbours;
  if (score < low) return Verdict::apart;
  return Verdict::recheck;
}

}  // namespace tmor::dbscan
