// Cases of dbscan and their answers by brute force; for test_cuda_tile_loop.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "dbscan/cuda_field.hpp"

namespace tmor::dbscan {

// All coordinates are float32 numbers unless a test changes them.
struct Case {
  int64_t n = 0;
  int64_t dimensions = 0;
  std::vector<double> points;
  double threshold = 0.0;
  int64_t min_samples = 4;
  std::vector<double> weight;
  std::vector<double> largest;  // with `length`: rows are scaled to (x / largest) / length
  std::vector<double> length;
  std::vector<uint8_t> orthogonal;
};

struct Result {
  std::vector<int64_t> labels;
  std::vector<uint8_t> core;
  bool operator==(const Result& other) const { return labels == other.labels && core == other.core; }
};

inline Case mixture(int64_t n, int64_t dimensions, unsigned seed, int clusters = 4) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> centre(static_cast<size_t>(clusters));
  for (auto& one : centre) {
    for (int64_t k = 0; k < dimensions; ++k) one.push_back(normal(random));
  }
  Case c;
  c.n = n;
  c.dimensions = dimensions;
  const float spread = 0.5F / std::sqrt(static_cast<float>(dimensions));
  for (int64_t i = 0; i < n; ++i) {
    const auto& from = centre[static_cast<size_t>(random() % static_cast<unsigned>(clusters))];
    const bool noise = i % 8 == 5;
    for (int64_t k = 0; k < dimensions; ++k) {
      c.points.push_back(
          static_cast<double>(noise ? 2.0F * normal(random) : from[static_cast<size_t>(k)] + spread * normal(random)));
    }
  }
  c.threshold = 0.36;
  return c;
}

inline Case lattice(int64_t n) {
  Case c;
  c.n = n;
  c.dimensions = 2;
  for (int64_t i = 0; i < n; ++i) {
    c.points.push_back(0.1F * static_cast<float>(i % 17));
    c.points.push_back(0.1F * static_cast<float>((i * 7) % 23));
  }
  const double step = static_cast<double>(0.1F);
  c.threshold = step * step;
  return c;
}

inline Case duplicates(int64_t n) {
  Case c = mixture(n, 6, 13);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = i % 10 == 0 ? 0 : i - i % 3;
    std::copy_n(c.points.begin() + from * 6, 6, c.points.begin() + i * 6);
  }
  return c;
}

// Points on a line in scattered order, each within reach of the next alone; one gap.
inline Case bridge(int64_t n) {
  Case c;
  c.n = n;
  c.dimensions = 1;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = i * 101 % n;
    c.points.push_back(static_cast<double>(place + (place > n / 2 ? 1 : 0)));
  }
  c.threshold = 1.0;
  c.min_samples = 3;
  return c;
}

// Unit rows in float32 and rows of zeros.
inline Case right_angles(int64_t n) {
  Case c = mixture(n, 4, 17);
  for (int64_t i = 0; i < n; ++i) {
    double squared = 0.0;
    for (int64_t k = 0; k < 4; ++k) squared += std::pow(c.points[static_cast<size_t>(4 * i + k)], 2);
    const bool zero = i % 50 == 7;
    for (int64_t k = 0; k < 4; ++k) {
      double& value = c.points[static_cast<size_t>(4 * i + k)];
      value = zero ? 0.0 : static_cast<double>(static_cast<float>(value / std::sqrt(squared)));
    }
    c.orthogonal.push_back(zero ? 1 : 0);
  }
  c.threshold = 0.02;
  return c;
}

// Rows of lengths from 2^-40 to 2^39 that are compared by direction, and rows of zeros.
inline Case directions(int64_t n, int64_t dimensions) {
  Case c = mixture(n, dimensions, 19);
  for (int64_t i = 0; i < n; ++i) {
    double* row = &c.points[static_cast<size_t>(i * dimensions)];
    const bool zero = i % 40 == 11;
    for (int64_t k = 0; k < dimensions; ++k)
      row[k] = zero ? 0.0 : std::ldexp(row[k], static_cast<int>(i * 7 % 80) - 40);
    double largest = 0.0;
    for (int64_t k = 0; k < dimensions; ++k) largest = std::max(largest, std::fabs(row[k]));
    if (zero) largest = 1.0;
    double squared = 0.0;
    for (int64_t k = 0; k < dimensions; ++k) squared += (row[k] / largest) * (row[k] / largest);
    c.largest.push_back(largest);
    c.length.push_back(zero ? 1.0 : std::sqrt(squared));
    c.orthogonal.push_back(zero ? 1 : 0);
  }
  c.threshold = 0.02;
  return c;
}

inline uint16_t to_half(DType dtype, double value) {
  if (dtype == DType::bfloat16) return round_to_bfloat16(static_cast<float>(value));
  // The nearest float16 by search among the positive ones, which are in order.
  uint16_t low = 0;
  uint16_t high = 0x7bff;
  while (low < high) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    if (static_cast<double>(Float16{middle}) < std::fabs(value)) {
      low = static_cast<uint16_t>(middle + 1);
    } else {
      high = middle;
    }
  }
  return static_cast<uint16_t>(low | (value < 0.0 ? 0x8000U : 0U));
}

inline Case rounded(Case c, DType dtype) {
  if (dtype == DType::float64) return c;
  for (double& value : c.points) {
    const uint16_t bits = to_half(dtype, value);
    value = dtype == DType::bfloat16 ? static_cast<double>(BFloat16{bits}) : static_cast<double>(Float16{bits});
  }
  return c;
}

inline Result brute_force(Case c) {
  for (size_t k = 0; k < c.points.size() && !c.largest.empty(); ++k) {
    const size_t row = k / static_cast<size_t>(c.dimensions);
    c.points[k] = c.points[k] / c.largest[row] / c.length[row];
  }
  std::vector<std::vector<int64_t>> near(static_cast<size_t>(c.n));
  Result result{std::vector<int64_t>(near.size(), -1), std::vector<uint8_t>(near.size(), 0)};
  for (int64_t i = 0; i < c.n; ++i) {
    double amount = 0.0;
    for (int64_t j = 0; j < c.n; ++j) {
      double squared = squared_distance(&c.points[static_cast<size_t>(i * c.dimensions)],
                                        &c.points[static_cast<size_t>(j * c.dimensions)], c.dimensions);
      if (!c.orthogonal.empty() && i != j &&
          (c.orthogonal[static_cast<size_t>(i)] | c.orthogonal[static_cast<size_t>(j)]) != 0) {
        squared = 2.0;
      }
      if (squared > c.threshold) continue;
      near[static_cast<size_t>(i)].push_back(j);
      amount += c.weight.empty() ? 1.0 : c.weight[static_cast<size_t>(j)];
    }
    result.core[static_cast<size_t>(i)] = amount >= static_cast<double>(c.min_samples) ? 1 : 0;
  }
  int64_t cluster = 0;
  for (int64_t seed = 0; seed < c.n; ++seed) {
    if (result.core[static_cast<size_t>(seed)] == 0 || result.labels[static_cast<size_t>(seed)] >= 0) continue;
    std::vector<int64_t> stack{seed};
    result.labels[static_cast<size_t>(seed)] = cluster;
    while (!stack.empty()) {
      const int64_t point = stack.back();
      stack.pop_back();
      if (result.core[static_cast<size_t>(point)] == 0) continue;
      for (const int64_t other : near[static_cast<size_t>(point)]) {
        if (result.labels[static_cast<size_t>(other)] >= 0) continue;
        result.labels[static_cast<size_t>(other)] = cluster;
        stack.push_back(other);
      }
    }
    ++cluster;
  }
  return result;
}

}  // namespace tmor::dbscan
