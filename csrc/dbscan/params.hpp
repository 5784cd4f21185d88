// What a dbscan backend is given and what it must fill in.
//
// Two points are neighbours if their squared_distance (common/distance.hpp) is at most `threshold`; a point is its own
// neighbour. Core points have at least `min_samples` neighbours (or that much weight). Clusters are the connected
// components of the core points, numbered by their first core point; a border point takes the smallest cluster that
// reaches it; all others are noise, -1. A backend must give exactly this for any number of threads.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "common/dtype.hpp"
#include "common/isa.hpp"

namespace tmor::dbscan {

struct Params {
  const void* points = nullptr;         // (n, dimensions) row-major, finite
  DType dtype = DType::float32;         // float32 or float64
  int64_t n = 0;                        // 1 .. 2^31 - 1
  int64_t dimensions = 0;               // >= 1
  double threshold = 0.0;               // largest squared distance of a neighbour
  int64_t min_samples = 1;              // >= 1
  const double* weight = nullptr;       // (n,) or null for 1 each; may be negative
  const uint8_t* orthogonal = nullptr;  // (n,) or null; rows (of zeros) at squared distance 2 from every other point,
                                        // all other rows then have length 1: the zero vectors of the cosine metric
  int64_t* labels = nullptr;            // out, (n,)
  uint8_t* core = nullptr;              // out, (n,), 0 or 1
  int threads = 1;                      // CPU backend
  Isa isa = Isa::portable;              // CPU backend
  bool (*interrupted)() = nullptr;      // CPU backend: polled by the calling thread; true ends the call
};

// The caller's `interrupted` said so; the outputs are undefined.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

// Exact. Neighbours are never stored: O(n * dimensions) memory for a packed float32 copy of the points, O(n) beyond it.
void run_cpu(const Params& params);

}  // namespace tmor::dbscan
