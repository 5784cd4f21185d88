#include <immintrin.h>

#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

// vpdpbusd: four products of an unsigned with a signed byte, added to a 32-bit sum, exact unless that overflows.
struct Vnni {
  using Score = int32_t;
  using Register = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 128;

  static Register load(const uint32_t* words) { return _mm512_load_si512(words); }
  static Register broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Register start(const int32_t* scores) { return _mm512_load_si512(scores); }
  // Not the intrinsic: around it GCC 12 copies every sum once per step, a quarter of the time.
  static Register multiply_add(Register a, Register b, Register sum) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static uint32_t at_least(Register sum, int32_t bound) {
    return static_cast<uint32_t>(_mm512_cmpge_epi32_mask(sum, _mm512_set1_epi32(bound)));
  }
};

}  // namespace

Tile tile_avx512_vnni() { return {run_tile<Vnni>, flip_signs}; }

}  // namespace tmor::dbscan
