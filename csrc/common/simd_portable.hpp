// Vectors of the compiler (SSE2 on x86-64, NEON on ARM); simd.hpp says what the members do.
#pragma once

#include <cstdint>

#include "common/half.hpp"

namespace tmor {
namespace {

struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kVectors = 2;
  static constexpr int kSums = 10;
  static constexpr int kDots = 3;
  typedef float Register __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int32_t UnalignedMask __attribute__((vector_size(16), aligned(4), may_alias));

  static Register load(const float* source) { return *reinterpret_cast<const Unaligned*>(source); }
  static void store(float* target, Register value) { *reinterpret_cast<Unaligned*>(target) = value; }
  static Register broadcast(float value) { return Register{value, value, value, value}; }
  static Register add(Register a, Register b) { return a + b; }
  static Register subtract(Register a, Register b) { return a - b; }
  static Register multiply(Register a, Register b) { return a * b; }
  static Register multiply_add(Register a, Register b, Register c) { return a * b + c; }
  static Register maximum(Register a, Register b) { return a > b ? a : b; }
  static Mask equal(const int32_t* codes, int32_t code) {
    const Mask loaded = *reinterpret_cast<const UnalignedMask*>(codes);
    return loaded == Mask{code, code, code, code};
  }
  static Mask both(Mask a, Mask b) { return a & b; }
  static Mask either(Mask a, Mask b) { return a | b; }
  static Mask without(Mask a, Mask b) { return a & ~b; }
  static Register select(Mask mask, Register a, Register b) { return mask ? a : b; }
  static uint64_t bits(Mask mask) {
    uint64_t result = 0;
    for (int lane = 0; lane < kLanes; ++lane) result |= static_cast<uint64_t>(mask[lane] != 0) << lane;
    return result;
  }
  static Mask at_least(Register x, float bound) { return ~(x < broadcast(bound)); }
  static Register nearest(Register x) {
    // Adding 1.5 * 2^23 rounds to an integer in the current, nearest mode; numbers of 2^22 or more are never asked for
    // (their exponential is 0 or infinite).
    const Register large = broadcast(12582912.0F);
    return (x + large) - large;
  }
  static Register scale(Register x, Register n) {
    // Numbers out of range are clamped: what they scale is replaced by 0.
    const Register bound = broadcast(-126.0F);
    const Mask exponent = __builtin_convertvector(n > bound ? n : bound, Mask) + 127;
    return x * reinterpret_cast<Register>(exponent << 23);
  }
  static float sum(Register x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static void from_half(const uint16_t* from, float* to, int64_t n) { from_half_plain(from, to, n); }
  static void to_half(const float* from, uint16_t* to, int64_t n) { to_half_plain(from, to, n); }
};

}  // namespace
}  // namespace tmor
