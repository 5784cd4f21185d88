#include <immintrin.h>

#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kRows = 4;
  using Register = __m256;

  static Register load(const float* source) { return _mm256_loadu_ps(source); }
  static Register broadcast(float value) { return _mm256_set1_ps(value); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static uint32_t at_most(Register a, float bound) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_set1_ps(bound), _CMP_LE_OQ)));
  }
};

}  // namespace

Tile tile_avx2() { return {3 * Avx2::kLanes, run_tile<Avx2>}; }

}  // namespace tmor::dbscan
