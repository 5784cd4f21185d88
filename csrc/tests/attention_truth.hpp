// The equations of tmor_fast/ops/dependency_attention.py in float64, loop by loop, for the tests of the tile programs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dependency_attention/cuda_layout.hpp"

namespace tmor::dependency_attention {

// Shared memory of a block and of a multiprocessor: sm_90, and sm_86 or sm_89.
constexpr Limits kHopper{232448, 233472};
constexpr Limits kAda{101376, 102400};

inline size_t at(int64_t index) { return static_cast<size_t>(index); }

struct Case {
  std::string name;
  int64_t clips, frames, joints, inputs, outputs, heads, embedding;
  bool shortcut = false;
  bool relu = false;
  Limits limits = kHopper;

  int64_t rows() const { return clips * frames * joints; }
  int64_t wide() const { return 2 * heads * embedding; }
};

struct Tensors {
  std::vector<double> x, qk_weight, qk_bias, dependency, value_weight, value_bias, shortcut, grad;
};

template <typename Number>
std::vector<double> draw(std::mt19937& random, int64_t size, double scale) {
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<double> values(at(size));
  for (double& value : values) value = static_cast<double>(widen(narrow<Number>(static_cast<float>(normal(random)))));
  return values;
}

template <typename Number>
Tensors make_tensors(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  const double in = 1.0 / std::sqrt(static_cast<double>(c.inputs));
  Tensors t;
  t.x = draw<Number>(random, c.rows() * c.inputs, 1.0);
  t.qk_weight = draw<Number>(random, c.wide() * c.inputs, 1.5 * in);
  t.qk_bias = draw<Number>(random, c.wide(), 1.0);
  t.dependency = draw<Number>(random, c.heads * c.joints * c.joints, 0.3);
  t.value_weight = draw<Number>(random, c.outputs * c.heads * c.inputs, in);
  t.value_bias = draw<Number>(random, c.outputs, 1.0);
  t.shortcut = draw<Number>(random, c.rows() * c.outputs, 1.0);
  t.grad = draw<Number>(random, c.rows() * c.outputs, 1.0);
  return t;
}

struct Truth {
  std::vector<double> z, grad_x, grad_dependency, grad_value, grad_embedding;

  Truth(const Case& c, const Tensors& t) : c_(c), t_(t) {
    const int64_t V = c.joints;
    const int64_t square = V * V;
    z.assign(at(c.rows() * c.outputs), 0.0);
    grad_x.assign(at(c.rows() * c.inputs), 0.0);
    grad_dependency.assign(at(c.heads * square), 0.0);
    grad_value.assign(at(c.outputs * c.heads * c.inputs), 0.0);
    grad_embedding.assign(at(c.rows() * c.wide()), 0.0);
    for (int64_t row = 0; row < c.rows(); ++row) {
      for (int64_t o = 0; o < c.outputs; ++o) z[at(row * c.outputs + o)] = t.value_bias[at(o)];
    }
    for (int64_t n = 0; n < c.clips; ++n) {
      const std::vector<double> theta = embed(n);
      for (int64_t h = 0; h < c.heads; ++h) one_head(n, h, theta);
    }
    for (double& value : z) {
      const size_t i = static_cast<size_t>(&value - z.data());
      if (c.shortcut) value += t.shortcut[i];
      if (c.relu) value = std::max(value, 0.0);
    }
  }

 private:
  // theta and phi of all heads, (rows of a clip, wide).
  std::vector<double> embed(int64_t n) const {
    const int64_t rows = c_.frames * c_.joints;
    std::vector<double> result(at(rows * c_.wide()));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < c_.wide(); ++j) {
        double sum = t_.qk_bias[at(j)];
        for (int64_t c = 0; c < c_.inputs; ++c) {
          sum += t_.x[at((n * rows + row) * c_.inputs + c)] * t_.qk_weight[at(j * c_.inputs + c)];
        }
        result[at(row * c_.wide() + j)] = sum;
      }
    }
    return result;
  }

  std::vector<double> attention(const std::vector<double>& theta, int64_t h) const {
    const int64_t V = c_.joints;
    const auto terms = static_cast<double>(c_.embedding * c_.frames);
    std::vector<double> result(at(V * V));
    for (int64_t w = 0; w < V; ++w) {
      double sum = 0.0;
      for (int64_t v = 0; v < V; ++v) {
        double logit = 0.0;
        for (int64_t f = 0; f < c_.frames; ++f) {
          for (int64_t e = 0; e < c_.embedding; ++e) {
            logit += theta[at((f * V + v) * c_.wide() + h * c_.embedding + e)] *
                     theta[at((f * V + w) * c_.wide() + (c_.heads + h) * c_.embedding + e)];
          }
        }
        sum += result[at(v * V + w)] = std::exp(logit / terms);
      }
      for (int64_t v = 0; v < V; ++v) result[at(v * V + w)] /= sum;
    }
    return result;
  }

  void one_head(int64_t n, int64_t h, const std::vector<double>& theta) {
    const int64_t V = c_.joints;
    const int64_t wide = c_.wide();
    const std::vector<double> a = attention(theta, h);
    std::vector<double> m(a);
    for (int64_t i = 0; i < V * V; ++i) m[at(i)] += t_.dependency[at(h * V * V + i)];
    std::vector<double> dm(at(V * V), 0.0);
    for (int64_t f = 0; f < c_.frames; ++f) one_frame((n * c_.frames + f) * V, h, m, &dm);
    for (int64_t i = 0; i < V * V; ++i) grad_dependency[at(h * V * V + i)] += dm[at(i)];
    const auto terms = static_cast<double>(c_.embedding * c_.frames);
    for (int64_t w = 0; w < V; ++w) {
      double mean = 0.0;
      for (int64_t v = 0; v < V; ++v) mean += a[at(v * V + w)] * dm[at(v * V + w)];
      for (int64_t v = 0; v < V; ++v) {
        const double logit = a[at(v * V + w)] * (dm[at(v * V + w)] - mean) / terms;
        for (int64_t f = 0; f < c_.frames; ++f) {
          for (int64_t e = 0; e < c_.embedding; ++e) {
            const int64_t first = h * c_.embedding + e;
            const int64_t second = (c_.heads + h) * c_.embedding + e;
            const int64_t base = (n * c_.frames + f) * V;
            grad_embedding[at((base + v) * wide + first)] += logit * theta[at((f * V + w) * wide + second)];
            grad_embedding[at((base + w) * wide + second)] += logit * theta[at((f * V + v) * wide + first)];
          }
        }
      }
    }
  }

  void one_frame(int64_t base, int64_t h, const std::vector<double>& m, std::vector<double>* dm) {
    const int64_t V = c_.joints;
    std::vector<double> mixed(at(V * c_.inputs), 0.0);
    std::vector<double> pulled(at(V * c_.inputs), 0.0);
    for (int64_t w = 0; w < V; ++w) {
      for (int64_t c = 0; c < c_.inputs; ++c) {
        double value = 0.0;
        for (int64_t v = 0; v < V; ++v) value += t_.x[at((base + v) * c_.inputs + c)] * m[at(v * V + w)];
        mixed[at(w * c_.inputs + c)] = value;
        for (int64_t o = 0; o < c_.outputs; ++o) {
          const int64_t weight = o * c_.heads * c_.inputs + h * c_.inputs + c;
          const double upstream = t_.grad[at((base + w) * c_.outputs + o)];
          z[at((base + w) * c_.outputs + o)] += value * t_.value_weight[at(weight)];
          grad_value[at(weight)] += value * upstream;
          pulled[at(w * c_.inputs + c)] += upstream * t_.value_weight[at(weight)];
        }
      }
    }
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t w = 0; w < V; ++w) {
        for (int64_t c = 0; c < c_.inputs; ++c) {
          const double pull = pulled[at(w * c_.inputs + c)];
          (*dm)[at(v * V + w)] += t_.x[at((base + v) * c_.inputs + c)] * pull;
          grad_x[at((base + v) * c_.inputs + c)] += m[at(v * V + w)] * pull;
        }
      }
    }
  }

  const Case& c_;
  const Tensors& t_;
};

}  // namespace tmor::dependency_attention
