// The loops of the CPU kernels that are compiled once per instruction set. They use nothing from the standard library:
// an inline function compiled here for AVX-512 could be the copy that the linker keeps for everyone.
//
// Queries are worked on in panels of up to `vectors * lanes`, one query a lane: in a panel, "row" means a key or a
// coordinate, and consecutive numbers belong to consecutive queries. So a maximum or a sum over keys never crosses
// lanes, and keys are read as they lie in memory, one number broadcast to all queries.
#pragma once

#include <cstdint>

namespace tmor::cluster_infonce {

constexpr int kMaxWidth = 64;  // queries in a panel, so that a 64-bit word holds a bit for each

// One tile of keys against one panel of queries.
struct Tile {
  int64_t keys = 0;
  int width = 0;  // of the panel, a whole number of vectors

  const int32_t* query_id = nullptr;       // (width,) codes, see codes.hpp
  const int32_t* query_cluster = nullptr;  // (width,)
  const int32_t* query_caption = nullptr;  // (width,) or null
  const int32_t* key_id = nullptr;         // (keys,)
  const int32_t* key_cluster = nullptr;    // (keys,)
  const int32_t* key_caption = nullptr;    // (keys,)
  const float* key_weight = nullptr;       // (keys,) log weights in base 2, or null

  float* logits = nullptr;  // (keys, width), base 2
  // The pairs of A, only where the caller wants them (else null). A bit of `aligned_lanes` for each pair; rows of
  // `aligned` are written where there is one.
  uint64_t* aligned_lanes = nullptr;  // (keys,)
  float* aligned = nullptr;           // (keys, width)
};

struct Kernel {
  // One for each instruction set; common/kernel_for.hpp takes the best.
  static Kernel portable();
  static Kernel avx2();
  static Kernel avx512();

  int lanes;    // numbers in a vector
  int vectors;  // most vectors in a panel
  int rows;     // of a whole panel that `multiply` works on at once: best a divisor of what it is given

  // c(r, v) = [c(r, v) if add] + sum over t < steps of a[r * a_row + t * a_step] * b[t * b_step + v], with r < rows and
  // v < width.
  void (*multiply)(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                   float* c, int64_t c_row, int64_t rows, int64_t width, bool add);

  // Adds the log weights, writes -inf over the logits that do not count as negatives (with `whole`, pairs of A count
  // too), copies those of A, and raises the running maxima (width,) of both. Returns whether the tile has a pair of A.
  bool (*mask)(const Tile& tile, bool whole, float* maximum, float* aligned_maximum);

  // Logits to weights 2^(logit - maximum), and their sums a lane (width,).
  void (*weigh)(const Tile& tile, const float* maximum, float* total);

  // The same for the pairs of A: weights (1 if `plain`; 0 where there is no pair) and their sums, and with `plain` the
  // sums of the logits instead.
  void (*weigh_aligned)(const Tile& tile, const float* maximum, bool plain, float* total);

  // Logits to derivatives, for the gradient of the keys: upstream 2^(s - denominator) for a negative and
  // softmax 2^(s - positive) - plain for a pair of A, unless `drop_aligned`. All but `tile` are (width,).
  void (*derive)(const Tile& tile, bool drop_aligned, const float* denominator, const float* upstream,
                 const float* positive, const float* softmax, const float* plain);

  // y += w x.
  void (*add_scaled)(float* y, const float* x, float w, int64_t n);

  // float16 or bfloat16 to float32.
  void (*from_half)(const uint16_t* from, float* to, int64_t n);
  void (*from_bfloat)(const uint16_t* from, float* to, int64_t n);

  void (*exp2)(const float* x, float* result, int64_t n);  // n a multiple of `lanes`
};

}  // namespace tmor::cluster_infonce
