// Cases for cluster_infonce and its definition in float64, for the tests of its CPU and CUDA kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cluster_infonce/finish.hpp"
#include "worse.hpp"

namespace infonce_cases {

using tmor::cluster_infonce::Denominator;
using tmor::cluster_infonce::Form;
using Random = std::mt19937;

inline size_t at(int64_t i) { return static_cast<size_t>(i); }

struct Case {
  int64_t batch = 0;
  int64_t bank = 0;
  int64_t dimensions = 0;
  int64_t key_stride = 0;
  Form form = Form::sum;
  Denominator denominator = Denominator::all;
  bool listed = false;
  int64_t chosen_count = 0;
  double temperature = 0.1;
  std::vector<float> query, keys, positive, key_log_weight;
  std::vector<int64_t> query_id, key_id, query_cluster, key_cluster, query_caption, key_caption, chosen;
};

struct Result {
  std::vector<double> loss, query_gradient, key_gradient;
};

enum class Pair { none, positive, negative };

inline Pair pair_of(const Case& c, int64_t i, int64_t j) {
  if (c.key_id[at(j)] == c.query_id[at(i)]) return Pair::none;
  if (c.query_cluster[at(i)] >= 0 && c.query_cluster[at(i)] == c.key_cluster[at(j)]) {
    if (!c.listed) return Pair::positive;
    const auto first = c.chosen.begin() + i * c.chosen_count;
    return std::find(first, first + c.chosen_count, j) != first + c.chosen_count ? Pair::positive : Pair::none;
  }
  const bool caption =
      !c.query_caption.empty() && c.query_caption[at(i)] >= 0 && c.query_caption[at(i)] == c.key_caption[at(j)];
  return caption ? Pair::none : Pair::negative;
}

inline double log_sum(const std::vector<double>& logits) {
  double high = -INFINITY;
  for (const double s : logits) high = std::max(high, s);
  if (high == -INFINITY) return high;
  double sum = 0.0;
  for (const double s : logits) sum += std::exp(s - high);
  return high + std::log(sum);
}

inline double dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t k = 0; k < n; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return sum;
}

// Loss of query i, and its derivatives by the logits (bank rows, then the own positive).
inline double define(const Case& c, int64_t i, std::vector<double>* derivative) {
  const float* query = &c.query[at(i * c.dimensions)];
  std::vector<double> logits, positives, negatives;
  std::vector<Pair> kinds;
  for (int64_t j = 0; j < c.bank; ++j) {
    const double weight = c.key_log_weight.empty() ? 0.0 : static_cast<double>(c.key_log_weight[at(j)]);
    logits.push_back(dot(query, &c.keys[at(j * c.key_stride)], c.dimensions) / c.temperature + weight);
    kinds.push_back(pair_of(c, i, j));
  }
  if (!c.positive.empty()) {
    logits.push_back(dot(query, &c.positive[at(i * c.dimensions)], c.dimensions) / c.temperature);
    kinds.push_back(Pair::positive);
  }
  double sum = 0.0;
  for (size_t j = 0; j < logits.size(); ++j) {
    if (kinds[j] == Pair::negative) negatives.push_back(logits[j]);
    if (kinds[j] != Pair::positive) continue;
    positives.push_back(logits[j]);
    sum += logits[j];
  }
  derivative->assign(logits.size(), 0.0);
  const bool all = c.denominator == Denominator::all;
  if (positives.empty() || (!all && negatives.empty())) return 0.0;
  const double count = static_cast<double>(positives.size());
  const double inside = log_sum(positives);
  const double above = inside - (c.form == Form::mean ? std::log(count) : 0.0);
  std::vector<double> below = negatives;
  if (all) below.push_back(above);
  const double whole = log_sum(below);
  for (size_t j = 0; j < logits.size(); ++j) {
    if (kinds[j] == Pair::negative) (*derivative)[j] = std::exp(logits[j] - whole);
    if (kinds[j] != Pair::positive) continue;
    const double share = std::exp(logits[j] - inside);
    (*derivative)[j] = (all ? std::exp(above - whole) * share : 0.0) - (c.form == Form::supcon ? 1.0 / count : share);
  }
  return whole - (c.form == Form::supcon ? sum / count : above);
}

inline float upstream_of(int64_t i) { return 0.5F + 0.25F * static_cast<float>(i % 5); }

inline Result define(const Case& c) {
  Result result;
  result.query_gradient.assign(at(c.batch * c.dimensions), 0.0);
  result.key_gradient.assign(at(c.bank * c.dimensions), 0.0);
  std::vector<double> derivative;
  for (int64_t i = 0; i < c.batch; ++i) {
    result.loss.push_back(define(c, i, &derivative));
    for (int64_t j = 0; j < static_cast<int64_t>(derivative.size()); ++j) {
      const float* key = j < c.bank ? &c.keys[at(j * c.key_stride)] : &c.positive[at(i * c.dimensions)];
      const double factor = derivative[at(j)] / c.temperature;
      for (int64_t k = 0; k < c.dimensions; ++k) {
        result.query_gradient[at(i * c.dimensions + k)] += factor * static_cast<double>(key[k]);
        if (j >= c.bank) continue;
        result.key_gradient[at(j * c.dimensions + k)] +=
            factor * static_cast<double>(upstream_of(i)) * static_cast<double>(c.query[at(i * c.dimensions + k)]);
      }
    }
  }
  return result;
}

template <typename T>
const T* pointer(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

// The largest difference, as a share of `scale`.
inline double error(const std::vector<double>& ours, const std::vector<double>& exact, double scale) {
  double worst = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double difference = std::abs(ours[i] - exact[i]);
    worst = worse(worst, difference);
  }
  return worst / scale;
}

inline std::vector<float> unit_rows(Random* random, int64_t rows, int64_t dimensions, int64_t stride) {
  std::normal_distribution<float> normal;
  std::vector<float> result(at((rows - 1) * stride + dimensions));
  for (int64_t row = 0; row < rows; ++row) {
    float* values = &result[at(row * stride)];
    for (int64_t k = 0; k < dimensions; ++k) values[k] = normal(*random);
    const double length = std::sqrt(dot(values, values, dimensions));
    for (int64_t k = 0; k < dimensions; ++k) values[k] = static_cast<float>(static_cast<double>(values[k]) / length);
  }
  return result;
}

inline std::vector<int64_t> integers(Random* random, int64_t n, int64_t low, int64_t high) {
  std::uniform_int_distribution<int64_t> draw(low, high - 1);
  std::vector<int64_t> result(at(n));
  for (int64_t& value : result) value = draw(*random);
  return result;
}

inline Case make_case(Random* random, int64_t batch, int64_t bank, int64_t dimensions, int64_t clusters) {
  Case c;
  c.batch = batch;
  c.bank = bank;
  c.dimensions = dimensions;
  c.key_stride = dimensions + static_cast<int64_t>((*random)() % 3);
  c.query = unit_rows(random, batch, dimensions, dimensions);
  c.keys = unit_rows(random, bank, dimensions, c.key_stride);
  if ((*random)() % 4 != 0) c.positive = unit_rows(random, batch, dimensions, dimensions);
  // Ids far apart and negative ones: they are compared, not counted.
  for (auto [n, ids] : {std::pair(batch, &c.query_id), std::pair(bank, &c.key_id)}) {
    *ids = integers(random, n, 0, bank + 1);
    for (int64_t& id : *ids) id = id % 2 != 0 ? -id : id * (int64_t{1} << 40);
  }
  c.query_cluster = integers(random, batch, -1, clusters);
  c.key_cluster = integers(random, bank, -1, clusters);
  if ((*random)() % 2 == 0) {
    c.query_caption = integers(random, batch, -2, 3);
    c.key_caption = integers(random, bank, -2, 3);
  }
  if ((*random)() % 2 == 0) {
    std::uniform_real_distribution<float> weight(-3.0F, 3.0F);
    for (int64_t j = 0; j < bank; ++j) c.key_log_weight.push_back(weight(*random));
  }
  c.temperature = std::pow(10.0, static_cast<double>((*random)() % 4) - 2.0);
  return c;
}

// The first rows of every A_i, some of them left out.
inline void list_positives(Random* random, Case* c) {
  c->listed = true;
  c->chosen_count = static_cast<int64_t>((*random)() % 4);
  c->chosen.assign(at(c->batch * c->chosen_count), -1);
  Case unlisted = *c;
  unlisted.listed = false;
  for (int64_t i = 0; i < c->batch; ++i) {
    int64_t found = 0;
    for (int64_t j = 0; j < c->bank && found < c->chosen_count; ++j) {
      if (pair_of(unlisted, i, j) != Pair::positive || (*random)() % 3 == 0) continue;
      c->chosen[at(i * c->chosen_count + found++)] = j;
    }
  }
}

}  // namespace infonce_cases
