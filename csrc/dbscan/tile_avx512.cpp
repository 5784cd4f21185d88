#include <immintrin.h>

#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kRows = 8;
  using Register = __m512;

  static Register load(const float* source) { return _mm512_loadu_ps(source); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static uint32_t at_most(Register a, float bound) {
    return static_cast<uint32_t>(_mm512_cmp_ps_mask(a, _mm512_set1_ps(bound), _CMP_LE_OQ));
  }
};

}  // namespace

Tile tile_avx512() { return {3 * Avx512::kLanes, run_tile<Avx512>}; }

}  // namespace tmor::dbscan
