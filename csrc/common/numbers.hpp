// Numbers of 16 bits, converted by bits alone so that host and device agree.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/block_code.hpp"
#include "common/host_device.hpp"

namespace tmor {

// Both conversions to wider types are exact.
struct BFloat16 {
  uint16_t bits;
  TMOR_HOST_DEVICE static float widen(uint16_t bits);
  TMOR_BLOCK_CODE explicit operator double() const { return static_cast<double>(widen(bits)); }
};

struct Float16 {
  uint16_t bits;
  TMOR_HOST_DEVICE static float widen(uint16_t bits);
  TMOR_BLOCK_CODE explicit operator double() const { return static_cast<double>(widen(bits)); }
};

TMOR_HOST_DEVICE float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

TMOR_HOST_DEVICE uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

TMOR_HOST_DEVICE float BFloat16::widen(uint16_t bits) { return float_of_bits(static_cast<uint32_t>(bits) << 16); }

TMOR_HOST_DEVICE float Float16::widen(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fU;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000U | fraction << 13);
  if (exponent != 0) return float_of_bits(sign | (exponent + 112U) << 23 | fraction << 13);
  // A subnormal is fraction * 2^-24; the product is exact.
  const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8F;
  return float_of_bits(sign | bits_of_float(magnitude));
}

// To the nearest bfloat16, ties to even; `value` is finite. What becomes subnormal becomes zero, as some devices do.
TMOR_HOST_DEVICE uint16_t round_to_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = bits + 0x7fffU + (bits >> 16 & 1U);
  if ((rounded & 0x7f800000U) == 0) return 0;
  return static_cast<uint16_t>(rounded >> 16);
}

}  // namespace tmor
