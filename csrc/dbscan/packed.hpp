// Points as the tiles read them, and the bounds that make a tile's answers proofs.
//
// A point x of the frame (points.hpp; |x| < 1) is stored as x', in float32, bfloat16 or as an integer vector times a
// scale, one scale to a panel. Let r be an upper bound of |x - x'|, summed in float64 from the coordinates themselves,
// so saturation, flushed denormals and heavy tails are all in it. Let E = sqrt(T) be eps in the frame.
//
//   1. | |x - y| - |x' - y'| | <= rx + ry: the triangle inequality. Hence |x - y| <= E only if
//      |x' - y'| <= E + rx + ry, and |x' - y'| <= E - rx - ry proves |x - y| <= E.
//   2. So that a bound is the sum of one number for each point: for any a > 0, 2 rx ry <= a rx^2 + ry^2 / a, so with
//      a = 1
//        (E + rx + ry)^2 <= T + 2 e(x) + 2 e(y),  e(x) = E rx + rx^2,
//      and (E - rx - ry)^2 >= T - 2 E rx - 2 E ry where E >= rx + ry. Where it is not, T - 2 E (rx + ry) is below 0 and
//      no squared distance is, so the rule in 4 proves nothing.
//   3. |x' - y'|^2 = |x'|^2 + |y'|^2 - 2 <x', y'>. With h = |x'|^2 / 2 (x' is known, so h is) this turns into
//        perhaps:   <x', y'> >= hx + hy - T/2 - e(x) - e(y),
//        for sure:  <x', y'> >= hx + hy - T/2 + E rx + E ry.
//      The tile begins its sums with e(y) - hy and compares them with
//        row_low = hx - T/2 - e(x)   and   row_high = hx - T/2 + E rx plus the panel's largest e(y) + E ry.
//   4. What is computed differs from that by the `slack`, which lowers the one bound and raises the other:
//      - float sums: m additions of exact or rounded products to a partial sum that is at most M + Lx Ly in magnitude
//        (M the largest of the numbers above, L the largest |x'|) err by at most 1.07 (m + 2) u (M + Lx Ly), u = 2^-24,
//        in any order, fused or not (Higham 2002, section 3.1); integer sums are exact.
//      - storing, adding, scaling and comparing the numbers above in float32: below 16 u (Mx + My).
//      - the float64 distance that decides is off by (d + 3) 2^-53 of itself, which matters only near T:
//        (d + 8) 2^-52 T.
//      - underflow, flushed or not: all is above 2^-60 or zero, so below d 2^-120.
//   5. A ball of radius q around c is a point whose r is grown by q: whatever lies in it is within r + q of c'. So
//   tiles
//      also tell which points, or balls, may have neighbours in a ball (step 2 with another a for points and balls).
// Where no such proof exists (lengths that overflow, more than 2^20 dimensions, integers that overflow) every pair is
// rechecked.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "dbscan/points.hpp"
#include "dbscan/tile.hpp"

namespace tmor::dbscan {

struct AlignedDelete {
  void operator()(uint32_t* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};
using Words = std::unique_ptr<uint32_t[], AlignedDelete>;
Words allocate_words(int64_t count);

// Dimensions from which 32-bit sums of bytes could overflow.
constexpr int64_t kMaxInt8Dimensions = 4096;

struct Panel {
  uint64_t lanes = 0;      // the bits of real points
  float length = 0.0F;     // largest |x'|
  float magnitude = 0.0F;  // largest of its numbers in row_low, row_high, start and worst
  float worst = 0.0F;      // largest e(y) + E ry
  float residual = 0.0F;   // largest r
  double unit = 1.0;       // scale of its integers, 1 for floats
};

struct Packed {
  Arithmetic arithmetic = Arithmetic::float32;
  const Frame* frame = nullptr;
  int64_t dimensions = 0;
  int64_t steps = 0;           // words per point
  Words words;                 // (panels, steps, kWidth)
  std::vector<float> row_low;  // (panels * kWidth,) these three, as above
  std::vector<float> row_high;
  std::vector<float> start;
  std::vector<float> ball_start;  // of balls: `start` with a = 16 for the point and 1 / 16 for the ball; else empty
  std::vector<int32_t> sum;       // (panels * kWidth,) sums of the integers, empty for floats
  std::vector<Panel> panels;

  const uint32_t* panel(int64_t index) const { return words.get() + index * steps * kWidth; }
  int64_t count() const { return static_cast<int64_t>(panels.size()); }
};

Packed make_packed(const Frame& frame, Arithmetic arithmetic, int64_t panels, bool balls);

// Writes one panel from float64 rows in the frame.
struct PanelSource {
  const double* rows = nullptr;    // (kWidth, padded_row(dimensions)); rows without a lane are not read
  const double* extra = nullptr;   // (kWidth,) squares outside of the dimensions
  const double* radius = nullptr;  // (kWidth,) of balls, or null
  uint64_t lanes = 0;
};
void write_panel(const PanelSource& source, Packed* packed, int64_t index);

// Packs the points order[0 .. ), kNobody for a lane that stays empty; a multiple of kWidth.
Packed pack_points(const Frame& frame, Arithmetic arithmetic, const std::vector<uint32_t>& order);

// The slack of a tile, infinite where every pair must be rechecked.
double tile_slack(const Packed& rows, const Panel& a, const Panel& b);

}  // namespace tmor::dbscan
