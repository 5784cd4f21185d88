// The proofs of csrc/dbscan/packed.hpp put to the test: whatever a tile or a ball says for sure must be true of the
// float64 distance, on data made to break it, for every instruction set that runs here and every arithmetic. For
// .ci/check_sanitizers.sh.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/distance.hpp"
#include "dbscan/exact_sum.hpp"
#include "dbscan/job.hpp"
#include "dbscan/one_pass.hpp"
#include "dbscan/walk.hpp"

namespace {

using namespace tmor::dbscan;
using Random = std::mt19937_64;

int failures = 0;

// Called for every pair, so it makes no string unless there is something to say.
void require(bool condition, const char* what, const std::string& where = "") {
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s%s\n", what, where.c_str());
}

struct Data {
  std::string name;
  int64_t n;
  int64_t dimensions;
  std::vector<double> points;
  std::vector<uint8_t> orthogonal;
};

std::vector<Data> adversaries(Random* random) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  const auto make = [&](const char* name, int64_t n, int64_t d, auto value) {
    Data data{name, n, d, {}, {}};
    for (int64_t i = 0; i < n * d; ++i) data.points.push_back(value(i / d, i % d));
    return data;
  };
  const auto draw = [&](int64_t, int64_t) { return normal(*random); };
  const auto tail = [&](int64_t, int64_t) { return normal(*random) / std::pow(uniform(*random) + 1e-12, 1.5); };
  std::vector<Data> all{
      make("normal", 150, 128, draw),
      make("one dimension", 100, 1, draw),
      make("257 dimensions", 100, 257, draw),
      make("heavy tails", 150, 24, tail),
      make("sparse", 150, 40, [&](int64_t, int64_t) { return (*random)() % 10 == 0 ? normal(*random) : 0.0; }),
      make("far from the origin", 150, 17, [&](int64_t, int64_t) { return 1e7 + normal(*random); }),
      make("lengths apart", 150, 17, [&](int64_t i, int64_t) { return normal(*random) * std::pow(10.0, -(i % 18)); }),
      make("denormal", 100, 9, [&](int64_t, int64_t) { return normal(*random) * 1e-310; }),
      make("tiny", 100, 9, [&](int64_t, int64_t) { return normal(*random) * 1e-30; }),
      make("huge", 100, 9, [&](int64_t, int64_t) { return normal(*random) * 1e30; }),
      make("overflowing", 80, 9, [&](int64_t, int64_t) { return normal(*random) * 1e200; }),
      make("lattice", 200, 8, [&](int64_t, int64_t) { return 0.1 * static_cast<double>((*random)() % 3); }),
      make("one point", 100, 5, [](int64_t, int64_t k) { return static_cast<double>(k) / 3.0; }),
      make("clusters", 200, 32,
           [&](int64_t i, int64_t k) { return ((i % 4) == (k % 4) ? 3.0 : 0.0) + 0.1 * normal(*random); }),
      make("digits below float32", 120, 12,
           [&](int64_t i, int64_t) { return 1.0 + 1e-9 * normal(*random) * static_cast<double>(i % 3); }),
  };
  Data zero = make("zero vectors", 120, 6, draw);
  for (int64_t i = 0; i < zero.n; ++i) {
    double length = 0.0;
    for (int64_t k = 0; k < 6; ++k) length += std::pow(zero.points[static_cast<size_t>(i * 6 + k)], 2);
    zero.orthogonal.push_back(i % 7 == 0);
    for (int64_t k = 0; k < 6; ++k)
      zero.points[static_cast<size_t>(i * 6 + k)] *= i % 7 == 0 ? 0.0 : 1.0 / std::sqrt(length);
  }
  all.push_back(zero);
  return all;
}

template <typename Scalar>
class Check {
 public:
  explicit Check(const Data& data)
      : data_(data), points_(data.points.begin(), data.points.end()), exact_(static_cast<size_t>(data.n * data.n)) {
    for (int64_t i = 0; i < data.n; ++i) {
      for (int64_t j = 0; j < data.n; ++j) {
        double squared = tmor::squared_distance(&points_[static_cast<size_t>(i * data.dimensions)],
                                                &points_[static_cast<size_t>(j * data.dimensions)], data.dimensions);
        const bool right_angle =
            !data.orthogonal.empty() && i != j &&
            (data.orthogonal[static_cast<size_t>(i)] | data.orthogonal[static_cast<size_t>(j)]) != 0;
        exact_[static_cast<size_t>(i * data.n + j)] = right_angle ? 2.0 : squared;
      }
    }
  }

  double exact(int64_t i, int64_t j) const { return exact_[static_cast<size_t>(i * data_.n + j)]; }

  void run(double threshold, tmor::Isa isa, Arithmetic arithmetic) {
    if (!(threshold >= 0.0 && threshold < std::numeric_limits<double>::infinity())) return;
    Params params;
    params.points = points_.data();
    params.dtype = sizeof(Scalar) == 4 ? tmor::DType::float32 : tmor::DType::float64;
    params.n = data_.n;
    params.dimensions = data_.dimensions;
    params.threshold = threshold;
    params.orthogonal = data_.orthogonal.empty() ? nullptr : data_.orthogonal.data();
    params.isa = isa;
    Job job(params);
    job.arithmetic = arithmetic;
    std::vector<uint32_t> order(static_cast<size_t>((data_.n + kWidth - 1) / kWidth * kWidth), kNobody);
    std::iota(order.begin(), order.begin() + data_.n, uint32_t{0});
    // A gap inside of a panel, and points of all kinds side by side.
    std::swap(order[3], order.back());
    const Field field = make_field(&job, order, true);
    const std::string where = data_.name + ", arithmetic " + std::to_string(static_cast<int>(arithmetic)) + ", " +
                              tmor::isa_name(isa) + ", " + std::to_string(sizeof(Scalar)) + "-byte numbers";
    tiles(&job, field, where);
    if (field.balls) balls(&job, field, where);
  }

  int64_t maybe = 0;
  int64_t pairs = 0;

 private:
  // Every answer of every tile.
  void tiles(Job* job, const Field& field, const std::string& where) {
    Worker* worker = job->worker();
    const double threshold = job->params.threshold;
    for (int64_t a = 0; a < field.panels(); ++a) {
      for (int64_t b = 0; b < field.panels(); ++b) {
        const uint64_t any = job->compare(worker, field.packed, a, field.packed, b, ~uint64_t{0});
        for (int i = 0; i < kWidth; ++i) {
          const uint32_t x = field.panel_order(a)[i];
          const uint64_t sure = (any >> i & 1) != 0 ? worker->pairs.sure[i] : 0;
          const uint64_t perhaps = (any >> i & 1) != 0 ? worker->pairs.maybe[i] : 0;
          require((sure & perhaps) == 0 && ((sure | perhaps) & ~field.lanes(b)) == 0, "masks of ", where);
          require(x != kNobody || (sure | perhaps) == 0, "a gap has neighbours: ", where);
          for (int j = 0; x != kNobody && j < kWidth; ++j) {
            const uint32_t y = field.panel_order(b)[j];
            if (y == kNobody || x == y) continue;  // no sweep asks whether a point is its own neighbour
            const bool near = exact(x, y) <= threshold;
            if ((sure >> j & 1) != 0) require(near, "sure, but apart: ", where);
            if (((sure | perhaps) >> j & 1) == 0) require(!near, "apart for sure, but neighbours: ", where);
            if ((perhaps >> j & 1) != 0) {
              const bool found = job->recheck(worker, x, field.panel_order(b), one_bit(j)) != 0;
              require(found == near, "recheck: ", where);
            }
            maybe += static_cast<int64_t>(perhaps >> j & 1);
            ++pairs;
          }
        }
      }
    }
  }

  // Whatever balls leave out holds no neighbours; whatever they take as it is holds nothing else.
  void balls(Job* job, const Field& field, const std::string& where) {
    Worker* worker = job->worker();
    const double threshold = job->params.threshold;
    uint64_t ball_pairs[kWidth] = {};
    const Packed& packed = field.balls->packed;
    const uint64_t any = job->compare(worker, packed, 0, packed, 0, ~uint64_t{0});
    for (int a = 0; a < kWidth; ++a)
      ball_pairs[a] = (any >> a & 1) != 0 ? worker->pairs.sure[a] | worker->pairs.maybe[a] : 0;
    for (int64_t a = 0; a < field.panels(); ++a) {
      uint64_t rows[kWidth] = {};
      const uint64_t near_rows = job->compare(worker, field.packed, a, packed, 0, field.lanes(a), true);
      for (int i = 0; i < kWidth; ++i)
        rows[i] = (near_rows >> i & 1) != 0 ? worker->pairs.sure[i] | worker->pairs.maybe[i] : 0;
      for (int64_t b = 0; b < field.panels(); ++b) {
        const bool inside = field.balls->inside(a, b);
        for (int i = 0; i < kWidth; ++i) {
          for (int j = 0; j < kWidth; ++j) {
            const uint32_t x = field.panel_order(a)[i];
            const uint32_t y = field.panel_order(b)[j];
            if (x == kNobody || y == kNobody || x == y) continue;
            const bool near = exact(x, y) <= threshold;
            require(!near || (ball_pairs[a] >> b & 1) != 0, "balls apart, points not: ", where);
            require(!near || (rows[i] >> b & 1) != 0, "ball far from a point with neighbours in it: ", where);
            require(near || !inside, "inside, but apart: ", where);
          }
        }
      }
    }
  }

  const Data& data_;
  std::vector<Scalar> points_;
  std::vector<double> exact_;
};

template <typename Scalar>
void check(const Data& data, Random* random) {
  Check<Scalar> check(data);
  std::vector<double> thresholds;
  // The distances themselves and the numbers next to them are the hardest thresholds.
  for (int draw = 0; draw < 4; ++draw) {
    const auto index = [&] { return static_cast<int64_t>((*random)() % static_cast<uint64_t>(data.n)); };
    const double squared = check.exact(index(), index());
    for (const double each : {squared, std::nextafter(squared, 0.0)}) thresholds.push_back(each);
  }
  for (const tmor::Isa isa : tmor::supported_isas()) {
    for (const Arithmetic arithmetic : {Arithmetic::float32, Arithmetic::bfloat16, Arithmetic::int8}) {
      // One number at a time once; natively where there is an instruction.
      if (arithmetic == Arithmetic::int8 && isa != tmor::Isa::portable && isa < tmor::Isa::avx512_vnni) continue;
      if (arithmetic == Arithmetic::bfloat16 && isa != tmor::Isa::portable && isa < tmor::Isa::avx512_bf16) continue;
      for (const double threshold : thresholds) check.run(threshold, isa, arithmetic);
    }
  }
}

// The bounds are not only right but narrow: few pairs of plain data are left to float64.
void check_width(Random* random) {
  const Data data = adversaries(random)[0];
  for (const auto& [arithmetic, most] : {std::pair{Arithmetic::float32, 0.001}, std::pair{Arithmetic::bfloat16, 0.06},
                                         std::pair{Arithmetic::int8, 0.3}}) {
    Check<double> check(data);
    check.run(256.0, tmor::Isa::portable, arithmetic);
    const double share = static_cast<double>(check.maybe) / static_cast<double>(check.pairs);
    require(share < most, "too many rechecks, arithmetic and share: ",
            std::to_string(static_cast<int>(arithmetic)) + ", " + std::to_string(share));
  }
}

// Rows whose first element lies beyond 2^31, in memory that is only reserved.
void check_large_index() {
  const int64_t dimensions = 4097;
  const int64_t n = (int64_t{1} << 31) / dimensions + 5;
  const size_t bytes = static_cast<size_t>(n * dimensions) * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;
  float* points = static_cast<float*>(memory);
  for (int64_t k = 0; k < dimensions; ++k) points[(n - 1) * dimensions + k] = static_cast<float>(k % 7);
  Params params;
  params.points = points;
  params.n = n;
  params.dimensions = dimensions;
  std::vector<double> row(static_cast<size_t>(padded_row(dimensions)));
  row_loader(params)(params, n - 1, row.data());
  require(row[4096] == 1.0 && row[6] == 6.0, "a row beyond 2^31 is read");
  munmap(memory, bytes);
}

void check_transpose(Random* random) {
  uint64_t masks[kWidth];
  uint64_t rows[kWidth];
  for (uint64_t& mask : masks) mask = (*random)();
  transpose(masks, rows);
  bool right = true;
  for (int i = 0; i < kWidth; ++i) {
    for (int j = 0; j < kWidth; ++j) right = right && (masks[i] >> j & 1) == (rows[j] >> i & 1);
  }
  require(right, "transpose");
}

// Sums that float64 rounds away.
void check_exact_sums() {
  const std::vector<double> values{1e300, -1e300, 1e-300, 3.0, -3.0, 0x1p-1074, -0x1p-1074, 0.1, 0.0};
  const ExactSums sums(values.data(), static_cast<int64_t>(values.size()));
  const auto sign = [&](const std::vector<double>& terms, int64_t less) {
    std::vector<int64_t> total(static_cast<size_t>(sums.limbs()), 0);
    for (const double term : terms) ExactSums::add(sums.pieces(term), total.data());
    sums.add_integer(less, -1, total.data());
    return sums.not_negative(total.data());
  };
  require(sign({1e300, 1e-300, -1e300}, 0) && !sign({1e300, -1e-300, -1e300}, 0),
          "exact sums of huge and tiny numbers");
  require(sign({0x1p-1074, 3.0, -3.0}, 0) && !sign({-0x1p-1074, 3.0, -3.0}, 0), "exact sums of denormals");
  require(sign(std::vector<double>(10, 0.1), 1) && !sign(std::vector<double>(9, 0.1), 1), "ten tenths");
  require(sign({3.0, 3.0}, 6) && !sign({3.0, 3.0, -0x1p-1074}, 6), "exact ties");
  require(!sign({3.0}, std::numeric_limits<int64_t>::max()) && sign({1e300}, std::numeric_limits<int64_t>::max()),
          "large integers");
}

}  // namespace

int main() {
  Random random(11);
  for (const Data& data : adversaries(&random)) {
    check<double>(data, &random);
    if (data.name != "denormal" && data.name != "overflowing") check<float>(data, &random);
  }
  check_width(&random);
  check_transpose(&random);
  check_exact_sums();
  check_large_index();
  if (failures != 0) return EXIT_FAILURE;
  std::printf("all bounds of the dbscan tiles hold\n");
  return EXIT_SUCCESS;
}
