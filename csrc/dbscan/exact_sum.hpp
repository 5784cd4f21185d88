// Sums of float64 numbers without rounding, so that they do not depend on the order in which threads add them.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace tmor::dbscan {

// Numbers m 2^e are held as integers in units of the smallest such e, in limbs of 32 bits with 31 to spare for carries:
// up to 2^31 numbers can be added limb by limb.
class ExactSums {
 public:
  // A number, and what it adds to limbs `limb`, `limb + 1` and `limb + 2`.
  struct Pieces {
    int64_t piece[3] = {0, 0, 0};
    int32_t limb = 0;
  };

  // For sums of these numbers and of integers below 2^63.
  ExactSums(const double* values, int64_t count) {
    int last = 32;
    for (int64_t i = 0; i < count; ++i) {
      int64_t mantissa;
      const int exponent = split(values[i], &mantissa);
      if (mantissa == 0) continue;
      unit_ = exponent < unit_ ? exponent : unit_;
      last = exponent > last ? exponent : last;
    }
    limbs_ = (last - unit_) / 32 + 4;
  }

  int limbs() const { return limbs_; }

  Pieces pieces(double value) const {
    Pieces result;
    int64_t mantissa;
    const int shift = split(value, &mantissa) - unit_;
    if (mantissa == 0) return result;
    result.limb = shift / 32;
    const uint64_t magnitude = static_cast<uint64_t>(mantissa < 0 ? -mantissa : mantissa);
    const int inner = shift % 32;
    const uint64_t low = magnitude << inner;
    const uint64_t high = inner == 0 ? 0 : magnitude >> (64 - inner);
    const int64_t sign = mantissa < 0 ? -1 : 1;
    result.piece[0] = sign * static_cast<int64_t>(low & 0xffffffffU);
    result.piece[1] = sign * static_cast<int64_t>(low >> 32);
    result.piece[2] = sign * static_cast<int64_t>(high);
    return result;
  }

  static void add(const Pieces& number, int64_t* sum) {
    for (int i = 0; i < 3; ++i) sum[number.limb + i] += number.piece[i];
  }

  // Adds `value`, 0 .. 2^63 - 1, with this sign.
  void add_integer(int64_t value, int sign, int64_t* sum) const {
    add(pieces(sign * static_cast<double>(value & 0xffffffff)), sum);
    add(pieces(sign * static_cast<double>(value >> 32) * 4294967296.0), sum);
  }

  // Whether the sum is 0 or more. Carries are moved up on the way.
  bool not_negative(int64_t* sum) const {
    for (int i = 0; i + 1 < limbs_; ++i) {
      sum[i + 1] += sum[i] >> 32;
      sum[i] &= 0xffffffff;
    }
    return sum[limbs_ - 1] >= 0;
  }

 private:
  // value = mantissa 2^(the result), mantissa odd or 0.
  static int split(double value, int64_t* mantissa) {
    int exponent = 0;
    *mantissa = static_cast<int64_t>(std::ldexp(std::frexp(value, &exponent), 53));
    if (*mantissa == 0) return 0;
    const int zeros = __builtin_ctzll(static_cast<uint64_t>(*mantissa));
    *mantissa /= int64_t{1} << zeros;
    return exponent - 53 + zeros;
  }

  int unit_ = 0;  // exponent of the units
  int limbs_ = 0;
};

}  // namespace tmor::dbscan
