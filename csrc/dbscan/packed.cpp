#include "dbscan/packed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tmor::dbscan {
namespace {

constexpr double kUnit = 1.0 / 16777216.0;  // 2^-24
constexpr int64_t kMaxDimensions = int64_t{1} << 20;
constexpr double kMinRadius = 1.0 / 1099511627776.0;  // 2^-40
constexpr double kSlack = 1.0 + 1e-9;                 // covers the float64 rounding of a length

// Any centre is correct; a mean of evenly spaced points is a good one.
template <typename Scalar>
std::vector<double> mean_point(const Scalar* points, int64_t n, int64_t dimensions) {
  constexpr int64_t kSample = 4096;
  const int64_t step = std::max<int64_t>(1, n / kSample);
  const int64_t used = (n + step - 1) / step;
  std::vector<double> mean(static_cast<size_t>(dimensions), 0.0);
  for (int64_t i = 0; i < n; i += step) {
    const Scalar* point = points + i * dimensions;
    for (int64_t k = 0; k < dimensions; ++k) {
      mean[static_cast<size_t>(k)] += static_cast<double>(point[k]) / static_cast<double>(used);
    }
  }
  return mean;
}

template <typename Scalar>
double longest(const Params& params, const double* centre) {
  const Scalar* points = static_cast<const Scalar*>(params.points);
  const int64_t dimensions = params.dimensions;
  double result = 0.0;
#pragma omp parallel for num_threads(params.threads) schedule(static) reduction(max : result)
  for (int64_t i = 0; i < params.n; ++i) {
    const Scalar* point = points + i * dimensions;
    double total = 0.0;
    for (int64_t k = 0; k < dimensions; ++k) {
      const double value = static_cast<double>(point[k]) - centre[k];
      total += value * value;
    }
    // Written so that an overflow to NaN counts as infinite.
    if (!(total <= result)) result = total < std::numeric_limits<double>::infinity() ? total : HUGE_VAL;
  }
  return std::sqrt(result);
}

template <typename Scalar>
void pack_panel(const Params& params, Packed* packed, int64_t index) {
  const Frame& frame = *packed->frame;
  const Scalar* points = static_cast<const Scalar*>(params.points);
  const int64_t width = packed->width;
  const int64_t dimensions = packed->dimensions;
  float* target = packed->values.get() + index * dimensions * width;
  double longest_here = kMinRadius;
  for (int64_t lane = 0; lane < width; ++lane) {
    const int64_t position = index * width + lane;
    const size_t slot = static_cast<size_t>(position);
    if (position >= packed->count || !frame.bounded) {
      for (int64_t k = 0; k < dimensions; ++k) target[k * width + lane] = 0.0F;
      const bool real = position < packed->count;
      packed->half_norm[slot] = real ? 0.0F : std::numeric_limits<float>::infinity();
      packed->base[slot] = real ? 0.0F : -std::numeric_limits<float>::infinity();
      continue;
    }
    const int64_t row = packed->order[slot];
    const Scalar* point = points + row * dimensions;
    double squared = 0.0;
    double squared_rounded = 0.0;
    for (int64_t k = 0; k < dimensions; ++k) {
      const double value = (static_cast<double>(point[k]) - frame.centre[static_cast<size_t>(k)]) * frame.scale;
      const float rounded = static_cast<float>(value);
      target[k * width + lane] = rounded;
      squared += value * value;
      squared_rounded += static_cast<double>(rounded) * static_cast<double>(rounded);
    }
    // A zero vector of the cosine metric stands for a unit vector at right angles to all others.
    if (params.orthogonal != nullptr && params.orthogonal[row] != 0) squared = squared_rounded = 1.0;
    packed->half_norm[slot] = static_cast<float>(squared_rounded / 2.0);
    packed->base[slot] = static_cast<float>((frame.threshold - squared_rounded) / 2.0);
    longest_here = std::max(longest_here, std::sqrt(squared) * kSlack);
  }
  packed->radius[static_cast<size_t>(index)] = longest_here;
}

}  // namespace

Frame make_frame(const Params& params) {
  Frame frame;
  const bool single = params.dtype == DType::float32;
  if (params.orthogonal != nullptr) {
    frame.centre.assign(static_cast<size_t>(params.dimensions), 0.0);
  } else if (single) {
    frame.centre = mean_point(static_cast<const float*>(params.points), params.n, params.dimensions);
  } else {
    frame.centre = mean_point(static_cast<const double*>(params.points), params.n, params.dimensions);
  }
  double radius = 1.0;
  if (params.orthogonal == nullptr) {
    radius = single ? longest<float>(params, frame.centre.data()) : longest<double>(params, frame.centre.data());
  }
  frame.bounded = params.dimensions <= kMaxDimensions && (radius == 0.0 || (radius > 1e-100 && radius < 1e100));
  if (!frame.bounded) return frame;
  int exponent = 0;
  if (radius > 0.0 && params.orthogonal == nullptr) std::frexp(radius * kSlack, &exponent);
  frame.scale = std::ldexp(1.0, -exponent);
  // Scaled squared distances are at most 4, so a larger threshold than 16 changes nothing.
  frame.threshold = std::min(16.0, params.threshold * frame.scale * frame.scale);
  return frame;
}

Packed pack(const Params& params, const Frame& frame, int width, std::vector<uint32_t> order) {
  Packed packed;
  packed.width = width;
  packed.dimensions = params.dimensions;
  packed.count = static_cast<int64_t>(order.size());
  packed.panels = (packed.count + width - 1) / width;
  packed.frame = &frame;
  packed.order = std::move(order);
  const size_t slots = static_cast<size_t>(packed.panels) * static_cast<size_t>(width);
  const size_t bytes = slots * static_cast<size_t>(params.dimensions) * sizeof(float);
  packed.values.reset(static_cast<float*>(::operator new[](bytes, std::align_val_t{64})));
  packed.half_norm.resize(slots);
  packed.base.resize(slots);
  packed.radius.resize(static_cast<size_t>(packed.panels));
#pragma omp parallel for num_threads(params.threads) schedule(static)
  for (int64_t index = 0; index < packed.panels; ++index) {
    if (params.dtype == DType::float32) {
      pack_panel<float>(params, &packed, index);
    } else {
      pack_panel<double>(params, &packed, index);
    }
  }
  return packed;
}

void compare_panels(const Tile& tile, const Packed& rows, int64_t a, const Packed& columns, int64_t b, Pairs* pairs) {
  const Frame& frame = *rows.frame;
  float bound = std::numeric_limits<float>::infinity();
  if (frame.bounded) {
    const double reach = rows.radius[static_cast<size_t>(a)] + columns.radius[static_cast<size_t>(b)];
    const double squared = reach * reach;
    const double dimensions = static_cast<double>(rows.dimensions);
    bound =
        static_cast<float>(kUnit * (0.27 * dimensions * squared + 4.0 * squared + 2.0 * frame.threshold) * 1.000001);
  }
  float low[kMaxWidth];
  float high[kMaxWidth];
  const float* base = rows.base.data() + a * rows.width;
  for (int i = 0; i < rows.width; ++i) {
    low[i] = base[i] - bound;
    high[i] = base[i] + bound;
  }
  tile.run(rows.panel(a), columns.panel(b), rows.dimensions, columns.half_norm.data() + b * columns.width, low, high,
           pairs->sure, pairs->maybe);
  const uint64_t lanes = columns.lanes(b);
  for (int i = 0; i < rows.width; ++i) {
    pairs->sure[i] &= lanes;
    pairs->maybe[i] &= lanes;
  }
}

}  // namespace tmor::dbscan
