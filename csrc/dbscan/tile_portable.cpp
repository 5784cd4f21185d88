#include "dbscan/row_kernel.hpp"
#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

// Vectors of the compiler: SSE2 on x86-64, NEON on ARM.
struct Portable {
  using Score = float;
  typedef float Register __attribute__((vector_size(16)));
  typedef float Words __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int kLanes = 4;
  static constexpr int kVectors = 2;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 0;

  static Register load(const uint32_t* words) { return *reinterpret_cast<const Words*>(words); }
  static Register broadcast(uint32_t word) {
    float value;
    __builtin_memcpy(&value, &word, sizeof(value));
    return Register{value, value, value, value};
  }
  static Register start(const float* scores) { return *reinterpret_cast<const Words*>(scores); }
  static Register multiply_add(Register a, Register b, Register sum) { return a * b + sum; }
  static uint32_t at_least(Register sum, float bound) {
    uint32_t mask = 0;
    for (int lane = 0; lane < kLanes; ++lane) mask |= static_cast<uint32_t>(sum[lane] >= bound) << lane;
    return mask;
  }
};

}  // namespace

Rows rows_portable() { return all_rows(); }

Tile tile_portable() { return {run_tile<Portable>, nullptr}; }

}  // namespace tmor::dbscan
