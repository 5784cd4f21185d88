// From bfloat16 products to answers: the error bound of a tile.
//
// Points are centred and scaled by a power of two so that every length is below 1: x = (point - centre) * scale. The
// matrix units see x', the bfloat16 rounding of x. Let r be an upper bound of |x - x'|: it is summed in float64 from
// the coordinates themselves, and 2^-51 |x| on top covers the rounding of the centring. Let L be the longest |x'| of a
// panel, R its largest r, and let E = sqrt(T) be the scaled radius. For x in panel a and y in panel b:
//   1. By the triangle inequality | |x - y| - |x' - y'| | <= Ra + Rb. So |x' - y'| <= E - (Ra + Rb) proves neighbours
//      and |x' - y'| > E + (Ra + Rb) proves that they are none. (A zero vector of the cosine metric stands for a unit
//      vector at right angles to all others: x' = x, and the inequality holds in the larger space.)
//   2. |x' - y'|^2 = |x'|^2 + |y'|^2 - 2 <x', y'>. A product of two bfloat16 numbers has 16 bits, so float32 holds it.
//      How a matrix unit adds is not documented. Measured on several generations (Fasi, Higham, Mikaitis, Pranesh
//      2021): it aligns a group of products and the running sum to the largest of them and drops what lies below its
//      last bit, then truncates the result. Each of the at most 17 addends then loses less than 2^-23 of the largest,
//      the result 2^-23 of itself and, if a carry moves it, as much again: (17 + 2) 2^-23 for 16 products, 2 (9 + 2)
//      2^-23 if they are taken eight by eight; plain additions with either rounding lose less. No addend and no partial
//      sum exceeds sum |x'_k y'_k| <= La Lb (Cauchy-Schwarz) by more than the relative error itself, so for m padded
//      coordinates the error is at most 22 (m / 16) 2^-23 La Lb (1 + 1e-4) while m <= 2^14; twice m 2^-23 La Lb is
//      taken.
//   3. The rest is float32 with u = 2^-24, S = (La + Lb)^2: storing both squared lengths, subtracting, and the row's
//      threshold: at most u (6 S + 2 (E + Ra + Rb)^2).
//   4. Underflow costs at most 2 m 2^-125, less than u S / 8 as L is never taken below 2^-40 and m <= 2^14.
//   5. The float64 distance that decides is off by (d + 3) 2^-53 of itself: below 2^-36 S.
// So B = 4 m 2^-23 La Lb + u (8 S + 4 (E + Ra + Rb)^2) covers 2 to 5 in |x' - y'|^2, and
//   inside = (E - Ra - Rb)^2 - B (nothing if E <= Ra + Rb), outside = (E + Ra + Rb)^2 + B.
// Where no such proof exists (more dimensions, or lengths that overflow) every pair is decided in float64.
#pragma once

#include <cmath>
#include <cstdint>

#include "dbscan/cuda_field.hpp"

namespace tmor::dbscan {

constexpr int64_t kMaxBoundedDimensions = int64_t{1} << 14;

// `longest` is the largest squared length of a centred point, infinite if it overflowed.
TMOR_HOST_DEVICE Frame make_cuda_frame(double longest, int64_t dimensions, double threshold, bool orthogonal) {
  Frame frame;
  const double length = orthogonal ? 1.0 : sqrt(longest);
  frame.bounded = dimensions <= kMaxBoundedDimensions && (length == 0.0 || (length > 1e-100 && length < 1e100)) ? 1 : 0;
  if (frame.bounded == 0) return frame;
  int exponent = 0;
  if (length > 0.0 && !orthogonal) frexp(length * (1.0 + 1e-9), &exponent);
  frame.scale = ldexp(1.0, -exponent);
  // Scaled squared distances are at most 4, so a larger threshold than 16 changes nothing.
  const double scaled = threshold * frame.scale * frame.scale;
  frame.threshold = scaled < 16.0 ? scaled : 16.0;
  frame.radius = sqrt(frame.threshold);
  return frame;
}

// `Panels::norm` and `Panels::residual` of one point from its sums. Orthogonal points have rows of zeros.
TMOR_HOST_DEVICE void finish_row(const RowSums& sums, bool orthogonal, float* norm, float* residual) {
  *norm = orthogonal ? 1.0F : static_cast<float>(sums.squared);
  const double bound = sqrt(sums.residual) * (1.0 + 1e-9) + sqrt(sums.length) * 4.44089209850062616e-16;  // 2^-51
  // 2^-22 covers the rounding to float32.
  *residual = orthogonal ? 0.0F : static_cast<float>(bound * (1.0 + 2.4e-7));
}

// `Panels::length` of one row, from its norm; rounded up.
TMOR_HOST_DEVICE float row_length(float norm) { return sqrtf(norm) * 1.000001F; }

// Squared distances of bfloat16 rows up to `inside` are of neighbours, above `outside` of none.
struct Band {
  float inside = 0.0F;
  float outside = 0.0F;
};

// `length` and `slack` are the larger ones of a row's panel and a column's.
TMOR_HOST_DEVICE Band make_band(const Frame& frame, int64_t padded, float length_a, float length_b, float slack_a,
                                float slack_b) {
  Band band;
  if (frame.bounded == 0) {
    band.inside = -HUGE_VALF;
    band.outside = HUGE_VALF;
    return band;
  }
  constexpr double kUnit = 1.0 / 16777216.0;        // 2^-24
  constexpr double kLeast = 1.0 / 1099511627776.0;  // 2^-40
  const double a = length_a > kLeast ? static_cast<double>(length_a) : kLeast;
  const double b = length_b > kLeast ? static_cast<double>(length_b) : kLeast;
  const double residual = static_cast<double>(slack_a) + static_cast<double>(slack_b);
  const double near = frame.radius - residual;
  const double far = frame.radius + residual;
  const double bound =
      kUnit * (8.0 * static_cast<double>(padded) * a * b + 8.0 * (a + b) * (a + b) + 4.0 * far * far) * (1.0 + 1e-4);
  const double inside = near > 0.0 ? near * near - bound : -1.0;
  const double outside = far * far + bound;
  // Away from each other in float32.
  band.inside = static_cast<float>(inside - fabs(inside) * 2.4e-7);
  band.outside = static_cast<float>(outside * (1.0 + 2.4e-7));
  return band;
}

// Whether no point of one panel can reach one of the other. `gap` is the squared distance of the centroids, summed in
// float32 from float32 differences in any order: off by at most (d + 3) 1.01 u of itself, as no term is negative.
// The margin of 1e-5 exceeds what the float64 decision is off by, and `radius` is rounded up.
TMOR_HOST_DEVICE bool panels_apart(const Frame& frame, int64_t dimensions, float gap, float radius_a, float radius_b) {
  const double least = static_cast<double>(gap) * (1.0 - static_cast<double>(dimensions + 8) * 1.2e-7);
  const double reach = (frame.radius + static_cast<double>(radius_a) + static_cast<double>(radius_b)) * (1.0 + 1e-5);
  // The floor keeps terms that underflowed in `gap` from counting.
  return frame.bounded != 0 && least > reach * reach + 1e-30;
}

// What `Panels::radius` adds to the float32 distance of a bfloat16 row from the centroid; `orthogonal` rows have one
// coordinate more, in which they are 1 away.
TMOR_HOST_DEVICE float reach_from_centroid(float squared, bool orthogonal, float residual, int64_t dimensions) {
  const double most =
      (static_cast<double>(squared) * (1.0 + static_cast<double>(dimensions + 8) * 1.2e-7) + (orthogonal ? 1.0 : 0.0)) +
      1e-30;
  return static_cast<float>((sqrt(most) + static_cast<double>(residual)) * (1.0 + 1e-6));
}

}  // namespace tmor::dbscan
