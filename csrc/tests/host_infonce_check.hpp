// One case of cluster_infonce as the host plays the device, held against its definition; for test_infonce_cuda.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "host_infonce_run.hpp"
#include "infonce_cases.hpp"

namespace tmor::cluster_infonce {

using namespace infonce_cases;

inline void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

inline float rounded(DType dtype, float value) {
  if (dtype == DType::float16) return tmor::Float16::widen(round_to<tmor::Float16>(value));
  if (dtype == DType::bfloat16) return tmor::BFloat16::widen(round_to<tmor::BFloat16>(value));
  return value;
}

// What 16 bits can hold, of queries but for a power of two, so that the definition starts from the kernel's numbers.
inline void round_to_type(DType dtype, Case* c) {
  for (float& value : c->keys) value = rounded(dtype, value);
  for (int64_t i = 0; i < c->batch; ++i) {
    float* row = &c->query[at(i * c->dimensions)];
    float largest = 0.0F;
    for (int64_t k = 0; k < c->dimensions; ++k) largest = std::max(largest, std::abs(row[k]));
    const PowerOfTwo power = normalising(largest);
    for (int64_t k = 0; k < c->dimensions; ++k) row[k] = rounded(dtype, row[k] * power.scale) * power.inverse;
  }
}

inline std::vector<double> widened(const std::vector<float>& values) { return {values.begin(), values.end()}; }

inline std::string name_of(const Case& c, const HostOptions& options) {
  return "B " + std::to_string(c.batch) + ", N " + std::to_string(c.bank) + ", d " + std::to_string(c.dimensions) +
         ", stride " + std::to_string(c.key_stride) + ", form " + std::to_string(static_cast<int>(c.form)) +
         ", denominator " + std::to_string(static_cast<int>(c.denominator)) + ", listed " +
         std::to_string(c.listed ? c.chosen_count : -1) + ", temperature " + std::to_string(c.temperature) + ", type " +
         std::to_string(static_cast<int>(options.dtype)) + ", splits " + std::to_string(options.splits);
}

// `c` with numbers of the bank's type. A rounded logit moves every term by this share of it at most; a weight of 16
// bits moves the gradient's terms, whose shares add up to 1 or less, by half of its last bit.
inline void check(Case c, const HostOptions& options) {
  round_to_type(options.dtype, &c);
  const Result exact = define(c);
  const std::string name = name_of(c, options);
  HostRun run(c, options);
  const HostResult plain = run.forward(false);
  HostResult ours = run.forward(true);
  require(std::equal(ours.loss.begin(), ours.loss.end(), plain.loss.begin(),
                     [](float a, float b) { return std::abs(a - b) <= 1e-5F * (1.0F + std::abs(b)); }),
          name + ": the loss depends on whether a gradient is asked for");
  HostOptions turned = options;
  turned.backwards = true;
  HostRun backwards(c, turned);
  const HostResult again = backwards.forward(true);
  require(ours.loss == again.loss && ours.gradient == again.gradient && ours.statistics == again.statistics,
          name + ": not the same bits every time, whatever the order of blocks");

  double longest = 0.0;
  for (int64_t i = 0; i < c.batch; ++i) {
    const float* query = &c.query[at(i * c.dimensions)];
    longest = std::max(longest, std::sqrt(dot(query, query, c.dimensions)));
  }
  double logit = longest / c.temperature + 3.0;
  for (const float weight : c.key_log_weight) {
    logit = std::max(logit, longest / c.temperature + std::abs(static_cast<double>(weight)));
  }
  const double allowed = 1e-6 * logit;
  const double rounding = options.dtype == DType::bfloat16 ? 0x1p-8 : options.dtype == DType::float16 ? 0x1p-11 : 0.0;
  double terms = 0.0;
  std::vector<float> upstream;
  for (int64_t i = 0; i < c.batch; ++i) {
    upstream.push_back(upstream_of(i));
    terms += static_cast<double>(upstream_of(i)) * longest;
  }
  backwards.key_gradient(upstream, &ours);
  const double errors[] = {error(widened(ours.loss), exact.loss, logit),
                           error(widened(ours.gradient), exact.query_gradient, 1.0 / c.temperature),
                           error(widened(ours.key_gradient), exact.key_gradient, terms / c.temperature)};
  require(errors[0] <= allowed, name + ": loss " + std::to_string(errors[0] / allowed) + " of what is allowed");
  require(errors[1] <= allowed + 2.0 * rounding,
          name + ": gradient " + std::to_string(errors[1] / (allowed + 2.0 * rounding)) + " of what is allowed");
  require(errors[2] <= allowed + 2.0 * rounding,
          name + ": key gradient " + std::to_string(errors[2] / (allowed + 2.0 * rounding)) + " of what is allowed");
}

}  // namespace tmor::cluster_infonce
