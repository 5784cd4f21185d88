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
#include "dbscan/tile.hpp"

namespace tmor::dbscan {

// What a run did; the pairs are those {a, b} with a != b.
struct Stats {
  int64_t pairs = 0;      // all there are, once per sweep (one sweep, or up to three with weights or many samples)
  int64_t compared = 0;   // in tiles that were multiplied, and not in rows of them that could be left out
  int64_t inside = 0;     // in tiles that bounds placed wholly within eps
  int64_t rechecked = 0;  // inside the band of a low-precision answer, decided in float64
  Arithmetic arithmetic = Arithmetic::automatic;
  bool reordered = false;  // points were sorted by place
  uint64_t order = 0;      // a checksum of that order: shares of one run must have the same
};

struct Params {
  const void* points = nullptr;    // (n, dimensions) row-major, finite
  DType dtype = DType::float32;    // float32, float64, float16 or bfloat16
  int64_t n = 0;                   // 1 .. 2^31 - 1
  int64_t dimensions = 0;          // >= 1
  double threshold = 0.0;          // largest squared distance of a neighbour
  int64_t min_samples = 1;         // >= 1
  const double* weight = nullptr;  // (n,) or null for 1 each; finite, may be negative
  // (n,) both, or null: row x then stands for (x / largest) / length, in float64.
  const double* largest = nullptr;
  const double* length = nullptr;
  // (n,) or null; rows (of zeros) at squared distance 2 from every other point, all other rows then have length 1: the
  // zero vectors of the cosine metric.
  const uint8_t* orthogonal = nullptr;
  int64_t* labels = nullptr;  // out, (n,)
  uint8_t* core = nullptr;    // out, (n,), 0 or 1
  Stats* stats = nullptr;     // out, or null
  // One process of several: it looks at its share of the pairs alone, without weights and for at most 64 samples, and
  // fills these instead of labels and core. What all shares found together are lists and sets of one pass.
  int64_t share = 0;
  int64_t shares = 1;
  int32_t* lists = nullptr;    // out, (n, min_samples - 1): neighbours, -1 for none, or null for a whole run
  int32_t* parents = nullptr;  // out, (n,): a point of the same component
  int threads = 1;
  Isa isa = Isa::portable;
  Arithmetic arithmetic = Arithmetic::automatic;  // another one is taken even where it is slow: for tests
  int reorder = -1;                               // 1 or 0: whether points are sorted by place first; -1: what pays
  // Polled by the calling thread some ten times a second with the share of the work that is done; true ends the call.
  bool (*poll)(void* context, double done) = nullptr;
  void* context = nullptr;
};

// `poll` said so; the outputs are undefined.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

// Exact. One pass over half of the matrix (one_pass.hpp) where min_samples <= 64 and there are no weights. Memory
// beyond the points: a packed copy of them of 1 (int8), 2 or 4 (float32) bytes per coordinate, and O(n *
// min(min_samples, 64)) words.
void run_cpu(const Params& params);

}  // namespace tmor::dbscan
