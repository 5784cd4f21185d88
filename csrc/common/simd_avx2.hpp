// Vectors of AVX2 with FMA; simd.hpp says what the members do.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/half.hpp"

namespace tmor {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;
  static constexpr int kSums = 12;
  static constexpr int kDots = 3;
  using Register = __m256;
  using Mask = __m256;

  static Register load(const float* source) { return _mm256_loadu_ps(source); }
  static void store(float* target, Register value) { _mm256_storeu_ps(target, value); }
  static Register broadcast(float value) { return _mm256_set1_ps(value); }
  static Register add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static Register subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static Register multiply(Register a, Register b) { return _mm256_mul_ps(a, b); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register maximum(Register a, Register b) { return _mm256_max_ps(a, b); }
  static Mask equal(const int32_t* codes, int32_t code) {
    const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(loaded, _mm256_set1_epi32(code)));
  }
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Mask without(Mask a, Mask b) { return _mm256_andnot_ps(b, a); }
  static Register select(Mask mask, Register a, Register b) { return _mm256_blendv_ps(b, a, mask); }
  static uint64_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
  static Mask at_least(Register x, float bound) { return _mm256_cmp_ps(x, broadcast(bound), _CMP_NLT_UQ); }
  static Register nearest(Register x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Register scale(Register x, Register n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static float sum(Register x) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
  }
  static void from_half(const uint16_t* from, float* to, int64_t n) { from_half_plain(from, to, n); }
  static void to_half(const float* from, uint16_t* to, int64_t n) { to_half_plain(from, to, n); }
};

}  // namespace
}  // namespace tmor
