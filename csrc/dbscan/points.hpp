// The caller's points as float64 rows, and the frame in which low-precision numbers describe them best.
#pragma once

#include <cstdint>
#include <vector>

#include "dbscan/params.hpp"
#include "dbscan/rows.hpp"

namespace tmor::dbscan {

// Writes the coordinates of a point as the definition of the distance has them: exact float64 values of the caller's
// numbers, or (x / largest) / length where rows are scaled. Throws nothing.
using LoadRow = void (*)(const Params& params, int64_t row, double* coordinates);
LoadRow row_loader(const Params& params);

// y = (x - centre) * scale with scale a power of two, so that every |y| is below 1.
struct Frame {
  std::vector<double> centre;
  double scale = 1.0;
  double threshold = 0.0;     // of squared distances in the frame, at most 16
  double extra_square = 0.0;  // of a zero vector of the cosine metric: its square in a dimension of its own
  bool bounded = true;        // false: lengths overflow or there are too many dimensions for the proofs
  const Params* params = nullptr;
  LoadRow load = nullptr;
  Rows rows = {};

  // The point in the frame, each coordinate right to 2^-52 of itself, padded_row of them, zeros behind the last.
  // Returns the square of its part outside of the given dimensions, 0 but for zero vectors.
  double place(int64_t row, double* coordinates) const;
};

Frame make_frame(const Params& params, const Rows& rows);

}  // namespace tmor::dbscan
