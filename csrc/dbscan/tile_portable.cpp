#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

// Vectors of the compiler: SSE2 on x86-64, NEON on ARM.
struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kRows = 3;  // without fused operations the product takes a register too
  typedef float Register __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));

  static Register load(const float* source) { return *reinterpret_cast<const Unaligned*>(source); }
  static Register broadcast(float value) { return Register{value, value, value, value}; }
  static Register multiply_add(Register a, Register b, Register c) { return a * b + c; }
  static Register subtract(Register a, Register b) { return a - b; }
  static uint32_t at_most(Register a, float bound) {
    uint32_t mask = 0;
    for (int lane = 0; lane < kLanes; ++lane) mask |= static_cast<uint32_t>(a[lane] <= bound) << lane;
    return mask;
  }
};

}  // namespace

Tile tile_portable() { return {3 * Portable::kLanes, run_tile<Portable>}; }

}  // namespace tmor::dbscan
