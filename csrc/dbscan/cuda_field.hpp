// What the kernels of one CUDA run share: sizes, number types, the points as given and as the matrix units read them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/block_code.hpp"
#include "common/distance.hpp"
#include "common/dtype.hpp"
#include "common/host_device.hpp"
#include "common/numbers.hpp"
#include "dbscan/one_pass.hpp"

namespace tmor::dbscan {

constexpr int kPanel = 128;         // points of a panel; a tile is 128 x 128 pairs
constexpr int kTileThreads = 128;   // threads of a block: four warps, 64 x 64 pairs each
constexpr int kSlice = 64;          // coordinates that one stage of the ring holds
constexpr int kStrip = 64;          // panels that a block tests at once, at most
constexpr float kHoleNorm = 1e30F;  // squared length of a position without a point: apart from everything

// The points as the caller gave them.
struct Input {
  const void* points = nullptr;
  DType dtype = DType::float32;
  int64_t n = 0;
  int64_t dimensions = 0;
  double threshold = 0.0;
  const double* weight = nullptr;
  const double* largest = nullptr;  // (n,) or null: row x then stands for (x / largest) / length, in float64
  const double* length = nullptr;   // (n,), with `largest`
  const uint8_t* orthogonal = nullptr;
};

// A scaled row. It is scaled wherever it is read, as a copy in float64 would be larger than all else together.
template <typename Scalar>
struct Row {
  const Scalar* values;
  double largest;
  double length;
  TMOR_HOST_DEVICE double operator[](int64_t k) const { return static_cast<double>(values[k]) / largest / length; }
};

template <typename Scalar>
TMOR_HOST_DEVICE Row<Scalar> row_of(const Input& input, const Scalar* points, int64_t row) {
  return {points + row * input.dimensions, input.largest[row], input.length[row]};
}

// Calls use(points) with the points' type.
template <typename Use>
TMOR_BLOCK_CODE auto with_points(const Input& input, const Use& use) {
  switch (input.dtype) {
    case DType::float64:
      return use(static_cast<const double*>(input.points));
    case DType::float16:
      return use(static_cast<const Float16*>(input.points));
    case DType::bfloat16:
      return use(static_cast<const BFloat16*>(input.points));
    default:
      return use(static_cast<const float*>(input.points));
  }
}

struct SquaredDistance {
  const Input& input;
  int64_t a;
  int64_t b;
  template <typename Scalar>
  TMOR_HOST_DEVICE double operator()(const Scalar* points) const {
    const int64_t dimensions = input.dimensions;
    if (input.largest == nullptr) {
      return squared_distance(points + a * dimensions, points + b * dimensions, dimensions);
    }
    const Row<Scalar> x = row_of(input, points, a);
    const Row<Scalar> y = row_of(input, points, b);
    double total = 0.0;
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
    for (int64_t k = 0; k < dimensions; ++k) total = add_square(total, x[k] - y[k]);
    return total;
  }
};

// The decision that counts: float64, from the points as given.
TMOR_BLOCK_CODE bool are_neighbours(const Input& input, uint32_t a, uint32_t b) {
  if (input.orthogonal != nullptr && a != b && (input.orthogonal[a] | input.orthogonal[b]) != 0) {
    return 2.0 <= input.threshold;
  }
  return with_points(input, SquaredDistance{input, a, b}) <= input.threshold;
}

// How points are centred and scaled for the matrix units; cuda_band.hpp says why.
struct Frame {
  double scale = 1.0;      // a power of two
  double threshold = 0.0;  // of scaled points, at most 16
  double radius = 0.0;     // square root of `threshold`
  int32_t bounded = 1;     // 0: no bound exists, every pair is decided in float64
  int32_t valid = 1;       // 0: some point is not finite; nothing is computed
};

// Points in panels, as the matrix units read them.
struct Panels {
  uint32_t* order = nullptr;   // (panels * 128,) position -> point, kNobody for a hole; a panel's first is a point
  uint16_t* values = nullptr;  // (panels * 128, padded) bfloat16
  float* norm = nullptr;       // (panels * 128,) squared length of the bfloat16 row, kHoleNorm for a hole
  float* residual = nullptr;   // (panels * 128,) how far the point is from its bfloat16 row, at most
  float* length = nullptr;     // (panels,) longest bfloat16 row
  float* slack = nullptr;      // (panels,) largest residual
  float* radius = nullptr;     // (panels,) largest distance of a point from the centroid
  float* centroid = nullptr;   // (panels, dimensions)
  int64_t padded = 0;          // coordinates of a row, a multiple of 64, zeros behind the last one
};

// One point's part of `Panels` but for the writing of norm and residual: coordinates lane, lane + lanes, ...
struct RowSums {
  double squared = 0.0;   // of the bfloat16 row
  double residual = 0.0;  // squared distance of the point from it
  double length = 0.0;    // of the point, squared
};

// `point[k]` is a number as given, or scaled (Row).
template <typename Point>
TMOR_HOST_DEVICE RowSums pack_row(const Point& point, const double* centre, const Frame& frame, int64_t dimensions,
                                  int64_t padded, int lane, int lanes, uint16_t* row) {
  RowSums sums;
#if defined(__CUDA_ARCH__)
  constexpr int kUnroll = std::is_pointer<Point>::value ? 4 : 1;  // divisions leave no registers for more
#pragma unroll kUnroll
#endif
  for (int64_t k = lane; k < padded; k += lanes) {
    uint16_t bits = 0;
    if (k < dimensions && frame.bounded != 0) {
      const double value = (static_cast<double>(point[k]) - centre[k]) * frame.scale;
      bits = round_to_bfloat16(static_cast<float>(value));
      const double rounded = static_cast<double>(BFloat16::widen(bits));
      sums.squared += rounded * rounded;
      sums.residual += (value - rounded) * (value - rounded);
      sums.length += value * value;
    }
    row[k] = bits;
  }
  return sums;
}

}  // namespace tmor::dbscan
