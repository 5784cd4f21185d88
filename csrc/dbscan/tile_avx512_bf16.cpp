// Not yet run on hardware: the loop and the packing are those that tests run with scalar numbers (tile_scalar.cpp).
#include <immintrin.h>

#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

// vdpbf16ps: two products of bfloat16 numbers, added to a float32 sum one after the other; denormals count as zero.
struct Bf16 {
  using Score = float;
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 0;

  static Register load(const uint32_t* words) { return _mm512_load_ps(words); }
  static Register broadcast(uint32_t word) { return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(word))); }
  static Register start(const float* scores) { return _mm512_load_ps(scores); }
  static Register multiply_add(Register a, Register b, Register sum) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // as in tile_avx512_vnni.cpp
    return sum;
  }
  static uint32_t at_least(Register sum, float bound) {
    return static_cast<uint32_t>(_mm512_cmp_ps_mask(sum, _mm512_set1_ps(bound), _CMP_GE_OQ));
  }
};

}  // namespace

Tile tile_avx512_bf16() { return {run_tile<Bf16>, nullptr}; }

}  // namespace tmor::dbscan
