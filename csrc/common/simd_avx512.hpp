// Vectors of AVX-512; simd.hpp says what the members do.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own "undefined" registers in the intrinsics below for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "common/half.hpp"

namespace tmor {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kVectors = 4;
  static constexpr int kSums = 24;
  static constexpr int kDots = 5;
  using Register = __m512;
  using Mask = __mmask16;

  static Register load(const float* source) { return _mm512_loadu_ps(source); }
  static void store(float* target, Register value) { _mm512_storeu_ps(target, value); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  static Register add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register maximum(Register a, Register b) { return _mm512_max_ps(a, b); }
  static Mask equal(const int32_t* codes, int32_t code) {
    return _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(codes), _mm512_set1_epi32(code));
  }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Mask without(Mask a, Mask b) { return static_cast<Mask>(a & ~b); }
  static Register select(Mask mask, Register a, Register b) { return _mm512_mask_blend_ps(mask, b, a); }
  static uint64_t bits(Mask mask) { return mask; }
  static Mask at_least(Register x, float bound) { return _mm512_cmp_ps_mask(x, broadcast(bound), _CMP_NLT_UQ); }
  static Register nearest(Register x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Register scale(Register x, Register n) { return _mm512_scalef_ps(x, n); }
  static float sum(Register x) { return _mm512_reduce_add_ps(x); }
  static void from_half(const uint16_t* from, float* to, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
    }
    from_half_plain(from + i, to + i, n - i);
  }
  static void to_half(const float* from, uint16_t* to, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      const __m256i half = _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), half);
    }
    to_half_plain(from + i, to + i, n - i);
  }
};

}  // namespace
}  // namespace tmor
