// A matrix unit as inexact as any measured one: addends are cut to the last bit of the largest, sums are cut too.
#pragma once

#include <cmath>
#include <cstdint>

namespace tmor {

// start + sum of a[k] b[k] as one instruction adds them. It is no code under test and takes most of the tests' time, so
// sanitizers leave it alone.
template <int kProducts>
__attribute__((no_sanitize("address", "undefined"))) float add_products(float start, const float* a, const float* b) {
  double terms[kProducts + 1];
  double largest = std::fabs(static_cast<double>(start));
  terms[kProducts] = static_cast<double>(start);
  for (int k = 0; k < kProducts; ++k) {
    terms[k] = static_cast<double>(a[k]) * static_cast<double>(b[k]);
    largest = std::fmax(largest, std::fabs(terms[k]));
    if (std::isnan(terms[k])) return std::nanf("");
  }
  if (largest == 0.0) return 0.0F;
  if (!(largest < HUGE_VAL)) return std::nanf("");
  // In units of the last bit all are below 2^24, which a cast to an integer cuts; powers of two round nothing.
  const int exponent = std::ilogb(largest) - 23;
  const double units = std::ldexp(1.0, -exponent);
  int64_t sum = 0;
  for (const double term : terms) sum += static_cast<int64_t>(term * units);
  if (sum == 0) return 0.0F;
  const double total = std::ldexp(static_cast<double>(sum), exponent);
  const double cut = std::ldexp(1.0, std::ilogb(total) - 23);
  return static_cast<float>(std::trunc(total / cut) * cut);
}

}  // namespace tmor
