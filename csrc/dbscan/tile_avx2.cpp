#include <immintrin.h>

#include "dbscan/row_kernel.hpp"
#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

struct Avx2 {
  using Score = float;
  using Register = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 0;

  static Register load(const uint32_t* words) { return _mm256_loadu_ps(reinterpret_cast<const float*>(words)); }
  static Register broadcast(uint32_t word) { return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(word))); }
  static Register start(const float* scores) { return _mm256_load_ps(scores); }
  static Register multiply_add(Register a, Register b, Register sum) { return _mm256_fmadd_ps(a, b, sum); }
  static uint32_t at_least(Register sum, float bound) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(sum, _mm256_set1_ps(bound), _CMP_GE_OQ)));
  }
};

}  // namespace

Rows rows_avx2() { return all_rows(); }

Tile tile_avx2() { return {run_tile<Avx2>, nullptr}; }

}  // namespace tmor::dbscan
