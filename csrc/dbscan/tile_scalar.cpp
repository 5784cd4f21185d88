// The tile with one number at a time, rounding as the matrix instructions do: it runs everywhere, so tests prove the
// loop, the packing and the bounds of bfloat16 and int8 on machines without such instructions. Never chosen by itself.
// Compiled without contraction: vdpbf16ps rounds after each product, but the product itself is exact.
#include "dbscan/tile_kernel.hpp"

namespace tmor::dbscan {
namespace {

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// vdpbf16ps reads and writes denormals as zeros of the same sign.
inline float flush(float value) {
  return __builtin_fabsf(value) < 1.17549435e-38F ? __builtin_copysignf(0.0F, value) : value;
}

struct ScalarBf16 {
  using Score = float;
  struct Register {
    union {
      float sum;
      uint32_t word;
    };
  };
  static constexpr int kLanes = 1;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 0;

  static Register load(const uint32_t* words) { return broadcast(*words); }
  static Register broadcast(uint32_t word) {
    Register result;
    result.word = word;
    return result;
  }
  static Register start(const float* scores) {
    Register result;
    result.sum = *scores;
    return result;
  }
  // The odd elements first, as the instruction's description has it. A product of two 8-bit significands is exact.
  static Register multiply_add(Register a, Register b, Register sum) {
    sum.sum = flush(flush(sum.sum) + flush(from_bits(a.word & 0xffff0000U)) * flush(from_bits(b.word & 0xffff0000U)));
    sum.sum = flush(sum.sum + flush(from_bits(a.word << 16)) * flush(from_bits(b.word << 16)));
    return sum;
  }
  static uint32_t at_least(Register sum, float bound) { return sum.sum >= bound ? 1U : 0U; }
};

struct ScalarInt8 {
  using Score = int32_t;
  struct Register {
    uint32_t word;
  };
  static constexpr int kLanes = 1;
  static constexpr int kVectors = 4;
  static constexpr int kRows = 4;
  static constexpr int kFlip = 128;

  static Register load(const uint32_t* words) { return {*words}; }
  static Register broadcast(uint32_t word) { return {word}; }
  static Register start(const int32_t* scores) { return {static_cast<uint32_t>(*scores)}; }
  static Register multiply_add(Register a, Register b, Register sum) {
    int32_t total = static_cast<int32_t>(sum.word);
    for (int shift = 0; shift < 32; shift += 8) {
      total += static_cast<int32_t>(static_cast<uint8_t>(a.word >> shift)) *
               static_cast<int32_t>(static_cast<int8_t>(b.word >> shift));
    }
    return {static_cast<uint32_t>(total)};
  }
  static uint32_t at_least(Register sum, int32_t bound) { return static_cast<int32_t>(sum.word) >= bound ? 1U : 0U; }
};

}  // namespace

Tile tile_scalar_bf16() { return {run_tile<ScalarBf16>, nullptr}; }
Tile tile_scalar_int8() { return {run_tile<ScalarInt8>, flip_signs}; }

}  // namespace tmor::dbscan
