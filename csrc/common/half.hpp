// float16 and bfloat16 from and to float32, for the kernels that are compiled once per instruction set: no function
// here is shared between translation units.
#pragma once

#include <cstdint>

namespace tmor {
namespace {

inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Written without a branch, so that the compiler makes vectors of it.
inline void from_half_plain(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t half = from[i];
    const uint32_t magnitude = half & 0x7fffU;
    // The exponent's bias grows by 112; multiplying also makes normal numbers of denormal ones.
    const float finite = float_of(magnitude << 13) * 0x1p112F;
    uint32_t bits;
    __builtin_memcpy(&bits, &finite, sizeof bits);
    bits |= magnitude >= 0x7c00U ? 0x7f800000U : 0U;
    to[i] = float_of(bits | (half & 0x8000U) << 16);
  }
}

inline void from_bfloat_plain(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = float_of(static_cast<uint32_t>(from[i]) << 16);
}

// To nearest, ties to even, as torch does; too large becomes infinite, NaN stays NaN.
inline void to_half_plain(const float* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    const uint32_t magnitude = bits & 0x7fffffffU;
    // The addition carries into the exponent where it must, up to infinity.
    const uint32_t normal = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
    // Beside 1/2, the last bit of a float is that of a denormal half: the sum rounds as it should.
    const float shifted = float_of(magnitude < 0x38800000U ? magnitude : 0U) + 0.5F;
    uint32_t denormal;
    __builtin_memcpy(&denormal, &shifted, sizeof denormal);
    uint32_t half = magnitude < 0x38800000U ? denormal - 0x3f000000U : normal;
    half = magnitude >= 0x47800000U ? 0x7c00U : half;
    half = magnitude > 0x7f800000U ? 0x7e00U : half;
    to[i] = static_cast<uint16_t>(half | (bits & 0x80000000U) >> 16);
  }
}

inline void to_bfloat_plain(const float* from, uint16_t* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? 0x7fc0U | (bits >> 16 & 0x8000U) : rounded);
  }
}

}  // namespace
}  // namespace tmor
