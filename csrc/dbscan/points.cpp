#include "dbscan/points.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tmor::dbscan {
namespace {

constexpr int64_t kMaxDimensions = int64_t{1} << 20;

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline double widen(float value) { return static_cast<double>(value); }
inline double widen(double value) { return value; }

inline double widen(BFloat value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return static_cast<double>(result);
}

inline double widen(Half value) {
  const uint64_t exponent = value.bits >> 10 & 31;
  const uint64_t fraction = value.bits & 1023;
  double magnitude = static_cast<double>(fraction) / 16777216.0;
  if (exponent != 0) {
    const uint64_t bits = (exponent + 1008) << 52 | fraction << 42;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
  }
  return (value.bits & 0x8000U) != 0 ? -magnitude : magnitude;
}

template <typename Scalar, bool kScaled>
void load_row(const Params& params, int64_t row, double* coordinates) {
  const Scalar* point = static_cast<const Scalar*>(params.points) + row * params.dimensions;
  if constexpr (kScaled) {
    const double largest = params.largest[row];
    const double length = params.length[row];
    for (int64_t k = 0; k < params.dimensions; ++k) coordinates[k] = widen(point[k]) / largest / length;
  } else {
    for (int64_t k = 0; k < params.dimensions; ++k) coordinates[k] = widen(point[k]);
  }
}

template <typename Scalar>
LoadRow loader(bool scaled) {
  return scaled ? load_row<Scalar, true> : load_row<Scalar, false>;
}

// Any centre is correct; a mean of evenly spaced points is a good one.
std::vector<double> mean_point(const Params& params, LoadRow load) {
  constexpr int64_t kSample = 4096;
  const int64_t step = std::max<int64_t>(1, params.n / kSample);
  const int64_t used = (params.n + step - 1) / step;
  std::vector<double> mean(static_cast<size_t>(params.dimensions), 0.0);
  std::vector<double> point(mean.size());
  for (int64_t i = 0; i < params.n; i += step) {
    load(params, i, point.data());
    for (size_t k = 0; k < mean.size(); ++k) mean[k] += point[k] / static_cast<double>(used);
  }
  return mean;
}

// The longest distance from the centre, with the scale still 1; infinite where a square overflows.
double longest(const Frame& frame) {
  const Params& params = *frame.params;
  const int64_t padded = padded_row(params.dimensions);
  double result = 0.0;
#pragma omp parallel num_threads(params.threads)
  {
    std::vector<double> point(static_cast<size_t>(padded));
#pragma omp for schedule(static) reduction(max : result)
    for (int64_t i = 0; i < params.n; ++i) {
      const double extra = frame.place(i, point.data());
      const double total = frame.rows.square(point.data(), padded) + extra;
      // Written so that an overflow to NaN counts as infinite.
      if (!(total <= result)) result = total < std::numeric_limits<double>::infinity() ? total : HUGE_VAL;
    }
  }
  return std::sqrt(result);
}

}  // namespace

LoadRow row_loader(const Params& params) {
  const bool scaled = params.largest != nullptr;
  switch (params.dtype) {
    case DType::float64:
      return loader<double>(scaled);
    case DType::float16:
      return loader<Half>(scaled);
    case DType::bfloat16:
      return loader<BFloat>(scaled);
    default:
      return loader<float>(scaled);
  }
}

double Frame::place(int64_t row, double* coordinates) const {
  const int64_t dimensions = params->dimensions;
  if (params->largest == nullptr && params->dtype == DType::float32) {
    rows.place32(static_cast<const float*>(params->points) + row * dimensions, centre.data(), scale, dimensions,
                 coordinates);
  } else {
    load(*params, row, coordinates);
    rows.place64(coordinates, centre.data(), scale, dimensions, coordinates);
  }
  return params->orthogonal != nullptr && params->orthogonal[row] != 0 ? extra_square : 0.0;
}

Frame make_frame(const Params& params, const Rows& rows) {
  Frame frame;
  frame.params = &params;
  frame.load = row_loader(params);
  frame.rows = rows;
  frame.centre = mean_point(params, frame.load);
  frame.extra_square = 1.0;
  const double radius = longest(frame);
  frame.bounded = params.dimensions <= kMaxDimensions && (radius == 0.0 || (radius > 1e-100 && radius < 1e100));
  if (!frame.bounded) return frame;
  int exponent = 0;
  if (radius > 0.0) std::frexp(radius * (1.0 + 1e-9), &exponent);
  frame.scale = std::ldexp(1.0, -exponent);
  frame.extra_square = frame.scale * frame.scale;
  // Squared distances in the frame are at most 4, so a larger threshold than 16 changes nothing.
  frame.threshold = std::min(16.0, params.threshold * frame.scale * frame.scale);
  return frame;
}

}  // namespace tmor::dbscan
