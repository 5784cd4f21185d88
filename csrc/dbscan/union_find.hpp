// Connected components that many threads build at once without locks.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace tmor::dbscan {

// A root is the smallest member of its set, so the result does not depend on the order of the unions.
class UnionFind {
 public:
  explicit UnionFind(int64_t size) : parent_(static_cast<size_t>(size)) {
    for (size_t i = 0; i < parent_.size(); ++i) parent_[i].store(static_cast<uint32_t>(i), std::memory_order_relaxed);
  }

  // Equal parents prove one set; different ones prove nothing.
  uint32_t parent(uint32_t x) const { return parent_[x].load(std::memory_order_relaxed); }

  uint32_t find(uint32_t x) {
    for (;;) {
      uint32_t up = parent(x);
      if (up == x) return x;
      const uint32_t above = parent(up);
      // Halve the path; if another thread was faster, its value serves as well.
      if (above != up) parent_[x].compare_exchange_weak(up, above, std::memory_order_relaxed);
      x = above;
    }
  }

  void unite(uint32_t a, uint32_t b) {
    for (;;) {
      a = find(a);
      b = find(b);
      if (a == b) return;
      if (a < b) std::swap(a, b);
      uint32_t expected = a;
      if (parent_[a].compare_exchange_strong(expected, b, std::memory_order_relaxed)) return;
    }
  }

 private:
  std::vector<std::atomic<uint32_t>> parent_;
};

}  // namespace tmor::dbscan
