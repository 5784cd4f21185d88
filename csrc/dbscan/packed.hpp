// Points as the tile kernel reads them, and the error bound that makes its answers proofs.
//
// The tile works in float32 on xc = fl32((x - centre) * scale), scale a power of two that brings every length R
// below 1. With u = 2^-24, S = (Rx + Ry)^2 and T the scaled threshold, for dimensions d <= 2^20:
//   1. H = |yc|^2/2 - <xc, yc> gives |xc - yc|^2 <= T exactly if H <= (T - |xc|^2)/2.
//   2. A float32 dot product of any order, fused or not, is off by at most g |xc||yc|, g = ud/(1 - ud) <= 1.07 ud, and
//      |xc||yc| <= S/4 (arithmetic and geometric mean): 0.2675 u d S.
//   3. Storing |yc|^2/2 and subtracting the dot product rounds by at most 1.01 u (Ry^2 + 1.1 Rx Ry).
//   4. Storing (T - |xc|^2)/2 and moving it by the bound B rounds by at most 1.01 u (T + Rx^2 + B).
//      3 and 4 together: at most 1.01 u (1.28 S + T + B), since Rx^2 + Ry^2 <= S and Rx Ry <= S/4.
//   5. Rounding to float32 moves each point by at most 1.0001 u R, hence |x - y|^2 by at most 2.01 u S: 1.01 u S in H.
//   6. The float64 distance that decides is off by at most (d + 3) 2^-53 S: below 0.01 u S.
//   7. Underflow, even with denormals flushed, costs at most 4 d 2^-126; R is never taken below 2^-40, so S >= 2^-78
//   and
//      that is below 2^-20 u S.
// So B = u (0.27 d S + 4 S + 2 T) covers the sum of 2 to 7: h <= base - B proves a neighbour, h > base + B proves none.
// Where no such proof exists (more dimensions, or lengths that overflow) B is infinite and every pair is rechecked.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "dbscan/params.hpp"
#include "dbscan/tile.hpp"

namespace tmor::dbscan {

struct Frame {
  std::vector<double> centre;
  double scale = 1.0;
  double threshold = 0.0;  // of scaled points
  bool bounded = true;     // false: B is infinite
};

Frame make_frame(const Params& params);

struct AlignedDelete {
  void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

struct Packed {
  int width = 0;
  int64_t dimensions = 0;
  int64_t count = 0;
  int64_t panels = 0;
  const Frame* frame = nullptr;
  std::vector<uint32_t> order;                     // position -> point
  std::unique_ptr<float[], AlignedDelete> values;  // (panels, dimensions, width)
  std::vector<float> half_norm;                    // (panels * width,), infinite behind the last point
  std::vector<float> base;                         // (panels * width,), minus infinity behind the last point
  std::vector<double> radius;                      // (panels,), the longest R

  const float* panel(int64_t index) const { return values.get() + index * dimensions * width; }
  uint64_t lanes(int64_t index) const {  // the bits of real points
    const int64_t here = count - index * width;
    return here >= 64 || width == 64 ? ~uint64_t{0} >> (64 - width)
                                     : (uint64_t{1} << (here < width ? here : width)) - 1;
  }
};

// Packs the points that `order` names, in that order.
Packed pack(const Params& params, const Frame& frame, int width, std::vector<uint32_t> order);

// The pairs of one panel of `rows` and one of `columns`: bit j of sure[i], maybe[i].
struct Pairs {
  uint64_t sure[kMaxWidth];
  uint64_t maybe[kMaxWidth];
};
void compare_panels(const Tile& tile, const Packed& rows, int64_t a, const Packed& columns, int64_t b, Pairs* pairs);

}  // namespace tmor::dbscan
