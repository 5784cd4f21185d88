// The CPU kernels against brute force, for .ci/check_sanitizers.sh: no Python, so sanitizers see nothing but our code.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/distance.hpp"
#include "common/isa.hpp"
#include "dbscan/params.hpp"

namespace {

struct Case {
  std::string name;
  int64_t n = 0;
  int64_t dimensions = 0;
  std::vector<double> points;
  double threshold = 0.0;
  int64_t min_samples = 1;
  std::vector<double> weight;
  std::vector<uint8_t> orthogonal;
};

struct Result {
  std::vector<int64_t> labels;
  std::vector<uint8_t> core;
  bool operator==(const Result& other) const { return labels == other.labels && core == other.core; }
};

// The definition, with a stored neighbour matrix and a depth-first search from each core point in turn.
template <typename Scalar>
Result brute_force(const Case& c) {
  const std::vector<Scalar> points(c.points.begin(), c.points.end());
  std::vector<std::vector<int64_t>> near(static_cast<size_t>(c.n));
  Result result{std::vector<int64_t>(static_cast<size_t>(c.n), -1), std::vector<uint8_t>(static_cast<size_t>(c.n), 0)};
  for (int64_t i = 0; i < c.n; ++i) {
    double amount = 0.0;
    for (int64_t j = 0; j < c.n; ++j) {
      double squared = tmor::squared_distance(&points[static_cast<size_t>(i * c.dimensions)],
                                              &points[static_cast<size_t>(j * c.dimensions)], c.dimensions);
      if (!c.orthogonal.empty() && i != j &&
          (c.orthogonal[static_cast<size_t>(i)] | c.orthogonal[static_cast<size_t>(j)])) {
        squared = 2.0;
      }
      if (squared > c.threshold) continue;
      near[static_cast<size_t>(i)].push_back(j);
      amount += c.weight.empty() ? 1.0 : c.weight[static_cast<size_t>(j)];
    }
    result.core[static_cast<size_t>(i)] = amount >= static_cast<double>(c.min_samples);
  }
  int64_t cluster = 0;
  for (int64_t seed = 0; seed < c.n; ++seed) {
    if (!result.core[static_cast<size_t>(seed)] || result.labels[static_cast<size_t>(seed)] >= 0) continue;
    std::vector<int64_t> stack{seed};
    result.labels[static_cast<size_t>(seed)] = cluster;
    while (!stack.empty()) {
      const int64_t point = stack.back();
      stack.pop_back();
      if (!result.core[static_cast<size_t>(point)]) continue;
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

using tmor::dbscan::Arithmetic;

struct Setting {
  tmor::Isa isa;
  Arithmetic arithmetic;
  int threads;
  int reorder;
};

// Every instruction set that runs here and every arithmetic, native or one number at a time.
std::vector<Setting> settings() {
  std::vector<Setting> result;
  for (const tmor::Isa isa : tmor::supported_isas()) {
    result.push_back({isa, Arithmetic::automatic, 1, -1});
    result.push_back({isa, Arithmetic::float32, 3, 1});
    if (isa != tmor::Isa::portable && isa < tmor::Isa::avx512_vnni) continue;
    result.push_back({isa, Arithmetic::int8, 2, 0});
    result.push_back({isa, Arithmetic::int8, 3, 1});
    if (isa != tmor::Isa::portable && isa < tmor::Isa::avx512_bf16) continue;
    result.push_back({isa, Arithmetic::bfloat16, 2, 0});
    result.push_back({isa, Arithmetic::bfloat16, 3, 1});
  }
  return result;
}

template <typename Scalar>
Result kernel(const Case& c, const Setting& setting) {
  const std::vector<Scalar> points(c.points.begin(), c.points.end());
  Result result{std::vector<int64_t>(static_cast<size_t>(c.n), -7), std::vector<uint8_t>(static_cast<size_t>(c.n), 7)};
  tmor::dbscan::Params params;
  params.points = points.data();
  params.dtype = sizeof(Scalar) == 4 ? tmor::DType::float32 : tmor::DType::float64;
  params.n = c.n;
  params.dimensions = c.dimensions;
  params.threshold = c.threshold;
  params.min_samples = c.min_samples;
  params.weight = c.weight.empty() ? nullptr : c.weight.data();
  params.orthogonal = c.orthogonal.empty() ? nullptr : c.orthogonal.data();
  params.labels = result.labels.data();
  params.core = result.core.data();
  params.threads = setting.threads;
  params.isa = setting.isa;
  params.arithmetic = setting.arithmetic;
  params.reorder = setting.reorder;
  tmor::dbscan::run_cpu(params);
  return result;
}

int failures = 0;

template <typename Scalar>
void check(const Case& c) {
  const Result expected = brute_force<Scalar>(c);
  for (const Setting& setting : settings()) {
    if (kernel<Scalar>(c, setting) == expected) continue;
    ++failures;
    std::printf(
        "FAILED %s: n %lld, d %lld, min_samples %lld, %s, arithmetic "
        "%d, %d threads, reorder %d, %d-byte numbers\n",
        c.name.c_str(), static_cast<long long>(c.n), static_cast<long long>(c.dimensions),
        static_cast<long long>(c.min_samples), tmor::isa_name(setting.isa), static_cast<int>(setting.arithmetic),
        setting.threads, setting.reorder, static_cast<int>(sizeof(Scalar)));
  }
}

using Random = std::mt19937;

Case blobs(Random* random, int64_t n, int64_t dimensions, double spread, double offset) {
  Case c;
  c.name = "blobs";
  c.n = n;
  c.dimensions = dimensions;
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < dimensions; ++k)
      c.points.push_back(offset + 3.0 * static_cast<double>(i % 4) + normal(*random));
  }
  c.threshold = spread * spread * 2.0 * static_cast<double>(dimensions);
  return c;
}

Case lattice(Random* random, int64_t n, int64_t dimensions) {
  Case c;
  c.name = "lattice";
  c.n = n;
  c.dimensions = dimensions;
  for (int64_t i = 0; i < n * dimensions; ++i) c.points.push_back(0.1 * static_cast<double>((*random)() % 4));
  c.threshold = 0.01 * static_cast<double>(dimensions);
  return c;
}

void run_all() {
  Random random(7);
  for (const int64_t n : {1, 2, 11, 12, 13, 47, 48, 49, 200, 331}) {
    for (const int64_t dimensions : {1, 2, 17, 33}) {
      for (const int64_t min_samples : {1, 3, 6}) {
        for (Case c : {blobs(&random, n, dimensions, 0.7, 0.0), blobs(&random, n, dimensions, 0.9, 1e4),
                       lattice(&random, n, dimensions)}) {
          c.min_samples = min_samples;
          check<float>(c);
          check<double>(c);
          c.name += ", weights";
          for (int64_t i = 0; i < n; ++i) c.weight.push_back(0.25 * static_cast<double>(random() % 13) - 1.0);
          check<double>(c);
        }
      }
    }
  }
  // Lengths that overflow, that vanish, and that differ by 30 orders of magnitude.
  for (const double scale : {1e300, 1e160, 1e-160, 1e-300}) {
    Case c = blobs(&random, 60, 3, 0.8, 0.0);
    c.name = "scale";
    for (double& value : c.points) value *= scale;
    c.threshold = std::min(c.threshold * scale * scale, std::numeric_limits<double>::max());
    c.min_samples = 2;
    check<double>(c);
  }
  Case far = blobs(&random, 60, 3, 0.8, 0.0);
  far.name = "outlier";
  far.points[4] = 1e30;
  far.min_samples = 2;
  check<double>(far);
  check<float>(far);
  // The border point 0 is at exactly eps from cluster 0, which takes float64 to see, and surely reached by cluster 1.
  Case tie;
  tie.name = "border tie";
  tie.points = {-1.0, -1.5, -1.8, -2.0, 0.0, 0.9, 1.5, 1.7, 1.8};
  tie.n = 9;
  tie.dimensions = 1;
  tie.threshold = 1.0;
  tie.min_samples = 4;
  check<double>(tie);
  check<float>(tie);
  // Zero vectors of the cosine metric, below and above a distance of 1.
  for (const double threshold : {0.3, 1.9999, 2.0, 2.1}) {
    Case c = blobs(&random, 70, 5, 0.0, 0.0);
    c.name = "zero vectors";
    c.orthogonal.assign(70, 0);
    for (int64_t i = 0; i < c.n; ++i) {
      double length = 0.0;
      for (int64_t k = 0; k < 5; ++k)
        length += c.points[static_cast<size_t>(i * 5 + k)] * c.points[static_cast<size_t>(i * 5 + k)];
      const bool zero = i % 9 == 0;
      c.orthogonal[static_cast<size_t>(i)] = zero;
      for (int64_t k = 0; k < 5; ++k) c.points[static_cast<size_t>(i * 5 + k)] *= zero ? 0.0 : 1.0 / std::sqrt(length);
    }
    c.threshold = threshold;
    c.min_samples = 4;
    check<double>(c);
    for (int64_t i = 0; i < c.n; ++i) c.weight.push_back(0.5 * static_cast<double>(random() % 11));
    check<double>(c);
  }
}

}  // namespace

int main() {
  run_all();
  if (failures != 0) return EXIT_FAILURE;
  std::printf("all CPU kernel checks passed, instruction sets:");
  for (const tmor::Isa isa : tmor::supported_isas()) std::printf(" %s", tmor::isa_name(isa));
  std::printf("\n");
  return EXIT_SUCCESS;
}
