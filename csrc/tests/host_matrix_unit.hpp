// A matrix unit as inexact as any measured one: addends are cut to the last bit of the largest, sums are cut too.
#pragma once

#include <cmath>

namespace tmor {

// start + sum of a[k] b[k] as one instruction adds them.
template <int kProducts>
float add_products(float start, const float* a, const float* b) {
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
  const double last_bit = std::ldexp(1.0, std::ilogb(largest) - 23);
  double total = 0.0;
  for (const double term : terms) total += std::trunc(term / last_bit) * last_bit;
  if (total == 0.0) return 0.0F;
  const double cut = std::ldexp(1.0, std::ilogb(total) - 23);
  return static_cast<float>(std::trunc(total / cut) * cut);
}

}  // namespace tmor
