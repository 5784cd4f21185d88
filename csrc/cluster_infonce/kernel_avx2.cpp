#include <immintrin.h>

#include "cluster_infonce/kernel_body.hpp"

namespace tmor::cluster_infonce {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kVectors = 2;
  static constexpr int kSums = 12;
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
};

}  // namespace

Kernel kernel_avx2() { return kernel_of<Avx2>(); }

}  // namespace tmor::cluster_infonce
