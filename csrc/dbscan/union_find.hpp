// Connected components that many threads build at once without locks, on CPUs and CUDA devices.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace tmor::dbscan {

// The few operations on words shared by threads, all relaxed: every algorithm here is correct for any order in which
// other threads' writes become visible before the kernel or parallel region ends.
template <typename Word>
TMOR_HOST_DEVICE Word shared_load(const Word* word) {
#if defined(__CUDA_ARCH__)
  return *static_cast<const volatile Word*>(word);
#else
  return __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
}

template <typename Word>
TMOR_HOST_DEVICE void shared_store(Word* word, Word value) {
#if defined(__CUDA_ARCH__)
  *static_cast<volatile Word*>(word) = value;
#else
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
#endif
}

// Returns the value before.
TMOR_HOST_DEVICE uint32_t shared_add(uint32_t* word, uint32_t amount) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(word, amount);
#else
  return __atomic_fetch_add(word, amount, __ATOMIC_RELAXED);
#endif
}

// Writes `desired` if the word holds `expected`; returns the value before.
TMOR_HOST_DEVICE uint32_t shared_swap(uint32_t* word, uint32_t expected, uint32_t desired) {
#if defined(__CUDA_ARCH__)
  return atomicCAS(word, expected, desired);
#else
  __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
#endif
}

// A view of parent[v], v < size, which the caller owns and fills with parent[v] = v. A parent is never larger than its
// child and a root is the smallest member of its set, so sets do not depend on the order of the unions.
struct UnionFind {
  uint32_t* parent = nullptr;

  TMOR_HOST_DEVICE uint32_t find(uint32_t x) const {
    for (;;) {
      const uint32_t up = shared_load(parent + x);
      if (up == x) return x;
      const uint32_t above = shared_load(parent + up);
      // Halve the path. Parents only ever fall towards their root, so a lost race leaves a value that serves as well.
      if (above != up) shared_swap(parent + x, up, above);
      x = above;
    }
  }

  // Equal parents prove one set at a glance; different ones prove nothing.
  TMOR_HOST_DEVICE bool same_parent(uint32_t a, uint32_t b) const {
    return shared_load(parent + a) == shared_load(parent + b);
  }

  TMOR_HOST_DEVICE void unite(uint32_t a, uint32_t b) const {
    for (;;) {
      a = find(a);
      b = find(b);
      if (a == b) return;
      if (a < b) {
        const uint32_t other = a;
        a = b;
        b = other;
      }
      if (shared_swap(parent + a, a, b) == a) return;
    }
  }
};

}  // namespace tmor::dbscan
