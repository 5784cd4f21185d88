// The number types of the CUDA kernels, converted alike on the device and on a host that plays it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/block_code.hpp"
#include "common/numbers.hpp"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tmor::dependency_attention {

template <typename Number>
constexpr bool kHalf = !std::is_same<Number, float>::value;  // 16 bits: the matrix units take it

#if defined(__CUDACC__)

TMOR_BLOCK_CODE float widen(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
TMOR_BLOCK_CODE float widen(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <typename Number>
TMOR_BLOCK_CODE Number narrow(float x) {
  if constexpr (std::is_same<Number, BFloat16>::value) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  } else if constexpr (std::is_same<Number, Float16>::value) {
    return {__half_as_ushort(__float2half_rn(x))};
  } else {
    return x;
  }
}

#else

inline float widen(BFloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }

inline float widen(Float16 x) {
  const int exponent = x.bits >> 10 & 31;
  const float fraction = static_cast<float>(x.bits & 1023U) / 1024.0F;
  float value = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0F + fraction, exponent - 15);
  if (exponent == 31) value = fraction == 0.0F ? HUGE_VALF : std::nanf("");
  return (x.bits & 0x8000U) != 0 ? -value : value;
}

// To nearest, ties to even.
inline uint16_t half_bits(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000U : 0U;
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7e00U;
  if (size >= 65520.0F) return sign | 0x7c00U;
  if (size < 6.103515625e-05F) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  const int exponent = std::ilogb(size);
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 .. 2048
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + mantissa));
}

inline uint16_t bfloat_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (std::isnan(x)) return 0x7fc0U;
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

template <typename Number>
Number narrow(float x) {
  if constexpr (std::is_same<Number, BFloat16>::value) {
    return {bfloat_bits(x)};
  } else if constexpr (std::is_same<Number, Float16>::value) {
    return {half_bits(x)};
  } else {
    return x;
  }
}

#endif

TMOR_BLOCK_CODE float widen(float x) { return x; }

// Two neighbours of a row; `target` is aligned to both together.
template <typename Number>
TMOR_BLOCK_CODE void store_pair(void* target, float first, float second) {
  if constexpr (kHalf<Number>) {
    const uint32_t low = narrow<Number>(first).bits;
    const uint32_t high = narrow<Number>(second).bits;
    *static_cast<uint32_t*>(target) = high << 16 | low;
  } else {
    static_cast<float*>(target)[0] = first;
    static_cast<float*>(target)[1] = second;
  }
}

}  // namespace tmor::dependency_attention
