#include <immintrin.h>

#include "dbscan/row_kernel.hpp"
#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

struct Avx512 {
  using Score = float;
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 0;

  static Register load(const uint32_t* words) { return _mm512_load_ps(words); }
  static Register broadcast(uint32_t word) { return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(word))); }
  static Register start(const float* scores) { return _mm512_load_ps(scores); }
  static Register multiply_add(Register a, Register b, Register sum) { return _mm512_fmadd_ps(a, b, sum); }
  static uint32_t at_least(Register sum, float bound) {
    return static_cast<uint32_t>(_mm512_cmp_ps_mask(sum, _mm512_set1_ps(bound), _CMP_GE_OQ));
  }
};

}  // namespace

Rows rows_avx512() { return all_rows(); }

Tile tile_avx512() { return {run_tile<Avx512>, nullptr}; }

}  // namespace tmor::dbscan
