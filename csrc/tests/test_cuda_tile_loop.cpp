// The CUDA tile loop of dbscan on a host that plays the blocks (host_block.hpp), against brute force: schedule, ring,
// fragments, error band, queue, skipping, edges, weights and borders. For .ci/check_sanitizers.sh; needs no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "dbscan/cuda_assign.hpp"
#include "dbscan/cuda_labels.hpp"
#include "host_block.hpp"
#include "host_run.hpp"

namespace {

using namespace tmor::dbscan;
using tmor::BFloat16;
using tmor::Float16;
using tmor::round_to_bfloat16;

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

void test_conversions() {
  for (uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int exponent = static_cast<int>(bits >> 10 & 31U);
    const double fraction = static_cast<double>(bits & 1023U) / 1024.0;
    const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
    if (exponent < 31) {
      const double value = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0 + fraction, exponent - 15);
      require(static_cast<double>(Float16{half}) == sign * value, "float16 " + std::to_string(bits));
    } else {
      require(!std::isfinite(Float16::widen(half)), "float16 not finite");
    }
    const float wide = BFloat16::widen(half);
    const bool normal = std::isfinite(wide) && std::fpclassify(wide) != FP_SUBNORMAL;
    if (normal && wide != 0.0F) require(round_to_bfloat16(wide) == half, "bfloat16 round trip");
  }
  require(round_to_bfloat16(1.00390625F) == 0x3f80, "tie to even, down");
  require(round_to_bfloat16(1.01171875F) == 0x3f82, "tie to even, up");
  require(round_to_bfloat16(1e-40F) == 0, "subnormal to zero");
}

void test_schedule() {
  for (const int64_t strip : {4, 8, 64}) {
    for (const int64_t panels : {1, 2, 3, 4, 5, 63, 64, 65, 130, 257}) {
      Schedule schedule;
      schedule.panels = panels;
      schedule.strip = strip;
      std::vector<int> seen(static_cast<size_t>(panels * panels), 0);
      for (const bool diagonal : {true, false}) {
        schedule.diagonal = diagonal;
        for (int64_t index = 0; index < schedule.units(); ++index) {
          const Unit unit = schedule.unit(index);
          require(unit.last - unit.first <= strip, "strip too wide");
          for (int64_t b = unit.first; b < unit.last; ++b) ++seen.at(static_cast<size_t>(unit.row * panels + b));
        }
      }
      for (int64_t a = 0; a < panels; ++a) {
        for (int64_t b = 0; b < panels; ++b) {
          require(seen[static_cast<size_t>(a * panels + b)] == (a <= b ? 1 : 0), "each pair of panels once");
        }
      }
    }
  }
  // 2^31 points: the inverse must hold where float64 rounds.
  Schedule schedule;
  schedule.panels = int64_t{1} << 24;
  std::mt19937_64 random(3);
  for (int i = 0; i < 100000; ++i) {
    const int64_t index = static_cast<int64_t>(random() % static_cast<uint64_t>(schedule.units()));
    const Unit unit = schedule.unit(index);
    const int64_t block = unit.row / 64;
    require(schedule.before(block) <= index && (block + 1 == schedule.strips() || index < schedule.before(block + 1)),
            "block of rows");
    require(unit.first >= unit.row && unit.last <= schedule.panels, "columns above the diagonal");
  }
}

void test_own_positions() {
  require(own_positions(0) == 0, "an empty cell has no panels");
  for (uint32_t size = 1; size < 5000; ++size) {
    const uint32_t holes = (kPanel - size % kPanel) % kPanel;
    require(own_positions(size) == (8 * holes <= size ? size + holes : 0), "holes are an eighth at most");
    require(size < 1024 || own_positions(size) != 0, "large cells are never mixed");
  }
  std::mt19937 random(4);
  for (const uint32_t largest : {114U, 300U, 2000U}) {
    for (int cells = 1; cells < 200; ++cells) {
      int64_t points = 0;
      int64_t own = 0;
      int64_t shared = 0;
      for (int cell = 0; cell < cells; ++cell) {
        const uint32_t size = largest == 114 ? 114 : static_cast<uint32_t>(random() % largest);
        points += size;
        own += own_positions(size);
        shared += own_positions(size) == 0 ? size : 0;
      }
      require((own + shared + kPanel - 1) / kPanel * kPanel <= most_positions(points), "positions suffice");
    }
  }
  const int64_t most = 0x7fffffff;
  require(most_positions(most) <= most + most / 8 + kPanel && most_positions(most) < int64_t{1} << 32, "32 bits do");
}

void test_ring_plan() {
  const int64_t devices[][2] = {{166912, 167936}, {101376, 102400}, {232448, 233472}};  // sm_80, sm_86, sm_90
  for (const auto& device : devices) {
    for (int64_t slices = 1; slices < 40; ++slices) {
      const RingPlan plan = plan_ring(slices, 15360, device[0], device[1]);
      require(plan.bytes > 0 && plan.stages >= 2 && plan.stages <= 4, "a ring fits");
      require(plan.bytes + 15360 <= device[0] && plan.blocks * (plan.bytes + 15360 + 1024) <= device[1], "and fits in");
    }
  }
  require(plan_ring(1, 15360, 49152, 65536).bytes == 0, "too little shared memory is noticed");
}

// Products of small integers are exact, so ring, swizzle and fragments must give them to the last bit.
void test_products() {
  std::mt19937 random(5);
  for (const int32_t slices : {1, 2, 3, 5}) {
    for (const int32_t stages : {2, 3, 4}) {
      for (const int32_t stationary : {0, 1}) {
        const int64_t padded = int64_t{slices} * kSlice;
        std::vector<uint16_t> rows(static_cast<size_t>(kPanel * padded));
        std::vector<uint16_t> columns(static_cast<size_t>(3 * kPanel * padded));
        const auto fill = [&](std::vector<uint16_t>* to) {
          for (uint16_t& value : *to)
            value = round_to_bfloat16(static_cast<float>(static_cast<int>(random() % 15) - 7));
        };
        fill(&rows);
        fill(&columns);
        Ring ring;
        ring.plan.stages = stages;
        ring.plan.stationary = stationary;
        ring.slices = slices;
        ring.padded = padded;
        ring.left = 1024;
        ring.stage = ring.left + static_cast<uint32_t>(ring.plan.left_bytes(slices));
        HostBlock block(nullptr, 1024 + ring.plan.left_bytes(slices) + stages * ring.plan.stage_bytes(), 1);
        int finished = 0;
        const auto value = [](uint16_t bits) { return BFloat16::widen(bits); };
        multiply_tiles(
            block, ring, rows.data(), 3, [&](int tile) { return columns.data() + tile * kPanel * padded; }, [](int) {},
            [](int tile) { return tile == 1; },
            [&](int tile, HostBlock::PerThread<Sums>& sums) {
              require(tile != 1, "a skipped tile is not finished");
              ++finished;
              for (int thread = 0; thread < kTileThreads; ++thread) {
                for (int i = 0; i < kRowTiles; ++i) {
                  for (int j = 0; j < kColumnTiles; ++j) {
                    for (int c = 0; c < 4; ++c) {
                      const int64_t row = fragment_row(thread, i, c);
                      const int64_t column = tile * kPanel + fragment_column(thread, j, c);
                      float want = 0.0F;
                      for (int64_t k = 0; k < padded; ++k) {
                        want += value(rows[static_cast<size_t>(row * padded + k)]) *
                                value(columns[static_cast<size_t>(column * padded + k)]);
                      }
                      require(sums[static_cast<size_t>(thread)].value[i][j][c] == want, "product of a tile");
                    }
                  }
                }
              }
            });
        require(finished == 2, "all tiles but the skipped one");
      }
    }
  }
}

void test_assignment() {
  Case c = mixture(300, 20, 11);
  HostRun run(c, Options{});
  std::vector<uint32_t> pivots;
  for (uint32_t i = 0; i < 140; ++i) pivots.push_back(i * 2);
  HostPanels pivot_panels(c, run.frame(), run.centre(), pivots);
  std::vector<uint32_t> leader(256, kNobody);
  const std::vector<uint32_t> identity = run.identity();
  HostPanels all(c, run.frame(), run.centre(), identity);
  AssignTask task;
  task.frame = &run.frame();
  task.pivots = pivot_panels.view();
  task.pivot_panels = 2;
  task.pivot_count = 140;
  task.rows = task.pivots;
  task.row_panels = 2;
  task.points = 140;
  task.answer = leader.data();
  run_assignment(task);
  for (uint32_t i = 0; i < 140; ++i) {
    require(leader[i] <= i && leader[leader[i]] <= leader[i], "a leader comes first");
    const double gap = run.scaled_distance(pivots[i], pivots[leader[i]]);
    require(leader[i] == i || gap <= run.frame().radius * 1.01, "a leader is near");
  }
  std::vector<uint32_t> cell(300, kNobody);
  std::vector<uint32_t> plain(256);
  for (uint32_t i = 0; i < 256; ++i) plain[i] = i;
  task.rows = all.view();
  task.row_panels = 3;
  task.points = 300;
  task.leader = plain.data();
  task.answer = cell.data();
  run_assignment(task);
  for (uint32_t i = 0; i < 300; ++i) {
    double best = std::numeric_limits<double>::infinity();
    for (const uint32_t pivot : pivots) best = std::fmin(best, run.scaled_distance(i, pivot));
    const double got = run.scaled_distance(i, pivots.at(cell[i] % 140));
    require(got <= best + 0.01, "the nearest pivot, but for rounding");
    if (best < run.frame().radius * 0.97) require(cell[i] < 140, "near");
    if (best > run.frame().radius * 1.03) require(cell[i] >= 140, "far");
  }
}

void check(const Case& c, const std::string& name, Options options = {}) {
  const Result want = brute_force(c);
  for (const int variant : {0, 1}) {
    options.shuffle = variant == 1;
    HostRun run(c, options);
    const Result got = run.cluster();
    require(got.core == want.core, name + ": core, variant " + std::to_string(variant));
    require(got.labels == want.labels, name + ": labels, variant " + std::to_string(variant));
  }
}

void test_clusterings() {
  for (const int64_t n : {1, 2, 127, 128, 129, 500}) {
    Case c = mixture(n, 16, static_cast<unsigned>(n));
    for (const int64_t min_samples : {1, 2, 5, 64}) {
      c.min_samples = min_samples;
      check(c, "mixture " + std::to_string(n) + ", " + std::to_string(min_samples));
    }
  }
  for (const int64_t dimensions : {1, 3, 65, 200}) {
    check(mixture(300, dimensions, 7), "dimensions " + std::to_string(dimensions));
  }
  for (const int64_t min_samples : {1, 3, 5, 9, 65, 400, 401}) {
    Case c = lattice(400);
    c.min_samples = min_samples;
    check(c, "lattice with ties, " + std::to_string(min_samples));
  }
  check(duplicates(600), "duplicates");
  check(bridge(260), "chain that bridges");
  Case places = bridge(256);  // panels whose centroids are eps apart, no further
  for (int64_t i = 0; i < places.n; ++i) places.points[static_cast<size_t>(i)] = i < kPanel ? 0.0 : 1.0;
  check(places, "two places");
  Case far = mixture(300, 17, 3);
  for (double& value : far.points) value += 1e7;
  check(far, "offset");
  Case wide = mixture(200, 5, 3);
  for (double& value : wide.points) value *= 1e160;
  wide.threshold = std::numeric_limits<double>::max();
  check(wide, "no bound");
  Case same = mixture(130, 4, 3);
  for (double& value : same.points) value = 0.25;
  check(same, "all the same");
  Case tiny = mixture(200, 8, 4);
  tiny.threshold = 5e-324;
  check(tiny, "tiny eps");
  Case huge = mixture(200, 8, 4);
  huge.threshold = 1e300;
  check(huge, "huge eps");
  check(right_angles(300), "zero vectors under cosine");
  for (const int64_t dimensions : {2, 70}) check(directions(300, dimensions), "rows scaled to length 1");
  Case weighted = mixture(300, 8, 21);
  weighted.min_samples = 4;
  std::mt19937 random(2);
  std::uniform_real_distribution<double> uniform(-0.5, 2.0);
  for (int64_t i = 0; i < weighted.n; ++i) weighted.weight.push_back(uniform(random));
  check(weighted, "weights");
  for (const bool reverse : {false, true}) {  // a panel of borders alone and one of core points alone
    Case split = bridge(256);
    split.min_samples = 4;
    for (int64_t i = 0; i < split.n; ++i) {
      const int64_t from = reverse ? split.n - 1 - i : i;
      const int64_t place = from < kPanel ? 0 : from < 192 ? 1 : 2;
      split.points[static_cast<size_t>(i)] = static_cast<double>(place);
      split.weight.push_back(place == 0 ? 0.0 : place == 1 ? 0.015625 : 1.0);
    }
    check(split, "borders in a panel of their own");
  }
  Case weighted_zero = right_angles(300);
  weighted_zero.min_samples = 1;
  for (int64_t i = 0; i < weighted_zero.n; ++i) weighted_zero.weight.push_back(0.5 + static_cast<double>(i % 3));
  check(weighted_zero, "weights of zero vectors");
  for (const tmor::DType dtype : {tmor::DType::float64, tmor::DType::float16, tmor::DType::bfloat16}) {
    Options options;
    options.dtype = dtype;
    check(rounded(mixture(300, 16, 9), dtype), "number type " + std::to_string(static_cast<int>(dtype)), options);
  }
}

// Strips of more than 32 panels, of which few are live: panels p and p + 18 share a cluster, all others are far apart.
void test_wide_strips() {
  constexpr int64_t kPanels = 36;
  Case c = mixture(kPanels * kPanel - 5, 3, 6, 1);
  c.threshold = 1.0;
  for (int64_t i = 0; i < c.n; ++i) {
    double* point = &c.points[static_cast<size_t>(3 * i)];
    for (int k = 0; k < 3; ++k) point[k] *= 0.0625;  // noise is within reach
    point[0] += 64.0 * static_cast<double>(i / kPanel % 18);
  }
  require(strip_for(kPanels, 2) == 64, "wide strips");
  for (const int64_t min_samples : {5, 65}) {
    c.min_samples = min_samples;
    HostRun run(c, Options{});
    require(run.cluster() == brute_force(c), "wide strips, " + std::to_string(min_samples));
    // A cluster of two panels counts to 65 on the diagonal alone, and has no borders.
    const uint64_t tiles = min_samples == 5 ? 36 + 18 : 36 + 36 + 18;
    require(run.tiles() == tiles, "the live tiles of wide strips, " + std::to_string(min_samples));
  }
}

// Skipping must pay, or a fault in it would never show.
void test_skipping() {
  Case giant = mixture(2000, 3, 1, 1);
  for (int64_t i = 5; i < giant.n; i += 8) {  // no noise
    std::copy_n(giant.points.begin() + 3 * (i - 1), 3, giant.points.begin() + 3 * i);
  }
  giant.threshold = 1.0;
  HostRun run(giant, Options{});
  require(run.cluster() == brute_force(giant), "giant cluster");
  const int64_t panels = (giant.n + kPanel - 1) / kPanel;
  std::printf("giant cluster: %llu of %lld tiles\n", static_cast<unsigned long long>(run.tiles()),
              static_cast<long long>(panels * (panels + 1) / 2));
  require(run.tiles() < static_cast<uint64_t>(panels * (panels + 1) / 4), "tiles of one component are skipped");

  Case apart = mixture(1280, 3, 1, 10);
  for (int64_t i = 0; i < apart.n; ++i)
    apart.points[static_cast<size_t>(3 * i)] += 100.0 * static_cast<double>(i / 128);
  HostRun separate(apart, Options{});
  require(separate.cluster() == brute_force(apart), "separate clusters");
  require(separate.tiles() == 10, "tiles out of reach are skipped");
}

}  // namespace

int main() {
  test_conversions();
  test_schedule();
  test_own_positions();
  test_ring_plan();
  test_products();
  test_assignment();
  test_clusterings();
  test_wide_strips();
  test_skipping();
  std::puts("the CUDA tile loop agrees with brute force");
  return 0;
}
