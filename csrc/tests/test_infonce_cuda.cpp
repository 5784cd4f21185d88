// The CUDA tile loop of cluster_infonce on a host that plays the blocks (host_infonce_block.hpp), against its
// definition in float64: fragments, ring, masks, pairs of A one by one and by the matrix units, merge, key gradient.
// For .ci/check_sanitizers.sh; needs no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "host_infonce_check.hpp"

namespace {

using namespace infonce_cases;
using namespace tmor::cluster_infonce;
using tmor::DType;

constexpr Limits kLimits[] = {{4, 101376, 102400}, {4, 166912, 167936}, {132, 232448, 233472}};  // sm_86, sm_80, sm_90

void test_conversions() {
  for (uint32_t bits = 0; bits < 0x7c00U; ++bits) {
    require(round_to_float16(tmor::Float16::widen(static_cast<uint16_t>(bits))) == bits, "float16 round trip");
  }
  require(round_to_float16(65520.0F) == 0x7c00, "float16 overflows");
  require(round_to_float16(1.00048828125F) == 0x3c00, "tie to even, down");
  require(round_to_float16(1.00146484375F) == 0x3c02, "tie to even, up");
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 100000; ++i) {
    const float value = std::ldexp(normal(random), static_cast<int>(random() % 60U) - 30);
    const Split parts = split(tmor::bits_of_float(value));
    const double rest = static_cast<double>(value) - static_cast<double>(tmor::float_of_bits(parts.high)) -
                        static_cast<double>(tmor::float_of_bits(parts.low));
    require((parts.high & 0x1fffU) == 0 && (parts.low & 0x1fffU) == 0, "two numbers of TF32");
    require(std::abs(rest) <= std::abs(static_cast<double>(value)) * 0x1p-23, "the rest of a split");
    const PowerOfTwo power = normalising(std::abs(value));
    require(power.scale * power.inverse == 1.0F && std::abs(value) * power.scale >= 1.0F &&
                std::abs(value) * power.scale < 2.0F,
            "normalising");
  }
  for (const float odd : {0.0F, 1e-44F, 3e38F, HUGE_VALF}) {
    const PowerOfTwo power = normalising(odd);
    require(power.scale > 0.0F && power.inverse > 0.0F && std::isfinite(power.scale * power.inverse), "odd numbers");
  }
}

// A hundred thousand terms, and sums that a larger maximum makes small.
void test_running_sum() {
  RunningSum sum{0.0F, 0.0F};
  double exact = 0.0;
  for (int i = 0; i < 100000; ++i) {
    const float decay = i % 30000 == 29999 ? 0x1p-30F : 1.0F;
    const float term = 0.1F + static_cast<float>(i % 7);
    sum.add(decay, term);
    exact = exact * static_cast<double>(decay) + static_cast<double>(term);
    const double found = static_cast<double>(sum.total) + static_cast<double>(sum.carry);
    require(std::abs(found - exact) <= 1.2e-7 * exact, "a running sum");
  }
}

void test_plans() {
  for (const Limits& limits : kLimits) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (int64_t dimensions = 1; dimensions <= kMostDimensions; dimensions += 13) {
        for (const int64_t batch : {1, 64, 65, 4096}) {
          for (const int64_t bank : {1, 65536, 1 << 20, 1 << 28}) {
            const ForwardPlan plan = plan_forward(dtype, batch, bank, dimensions, true, limits);
            const Ring& ring = plan.ring.ring;
            const int64_t bytes = plan.ring.bytes + kFixedBytes<ForwardShared>;
            require(bytes <= limits.shared_per_block, "shared memory of a block");
            require(plan.ring.blocks * (bytes + 1024) <= limits.shared_per_multiprocessor, "and of its neighbours");
            require(ring.stages >= 2 && ring.stages <= kMostStages && ring.warps >= 1 && ring.warps <= 4, "ring");
            require(plan.groups * ring.rows >= batch && plan.parts * ring.width >= dimensions, "all is covered");
            require(plan.splits >= 1 && plan.splits <= kMostSplits && (plan.splits - 1) * 256 < bank, "splits");
            require(plan.splits << 17 >= bank || plan.splits == kMostSplits, "a split too long for a float32 sum");
            const int64_t keys = plan_keys(dtype, batch, bank, dimensions, limits).ring.bytes;
            require(keys > 0 && keys + kFixedBytes<KeysShared> <= limits.shared_per_block, "key gradient");
          }
        }
      }
    }
  }
  // The chip is busy, in one wave, with what the notes promise.
  for (const int64_t batch : {64, 256, 1024, 4096}) {
    const ForwardPlan plan = plan_forward(DType::bfloat16, batch, 65536, 128, true, kLimits[2]);
    const int64_t blocks = plan.groups * plan.splits;
    require(blocks >= 120 && blocks <= 396, "blocks of a call: " + std::to_string(blocks));
  }
  // Or in whole waves, less a row of blocks.
  const ForwardPlan plan = plan_forward(DType::bfloat16, 4096, 1 << 20, 128, true, kLimits[2]);
  const double waves = static_cast<double>(plan.groups * plan.splits) / (132.0 * plan.ring.blocks);
  require(waves - std::floor(waves) > 0.9 || waves == std::floor(waves), "waves: " + std::to_string(waves));
}

void test_losses() {
  Random random(11);
  int count = 0;
  const int64_t dimensions[] = {1, 7, 16, 33, 64, 129};
  for (const int64_t batch : {1, 7, 64, 65, 129}) {
    for (const int64_t bank : {1, 7, 64, 65, 129, 300}) {
      for (const int64_t clusters : {0, 1, 5, 40}) {
        Case c = make_case(&random, batch, bank, dimensions[count % 6], clusters);
        if (count % 3 == 0) {  // rows of whole chunks, as a bank has them
          const int64_t stride = (c.dimensions + 7) / 8 * 8;
          c.keys = unit_rows(&random, bank, c.dimensions, stride);
          c.key_stride = stride;
        }
        c.form = static_cast<Form>(random() % 3);
        c.denominator = static_cast<Denominator>(random() % 2);
        if (random() % 3 == 0) list_positives(&random, &c);
        HostOptions options;
        options.dtype = count % 2 == 0 ? DType::float32 : count % 4 == 1 ? DType::bfloat16 : DType::float16;
        options.limits = kLimits[random() % 2];
        const int64_t tiles = (bank + 31) / 32;
        if (random() % 2 == 0) options.splits = 1 + static_cast<int64_t>(random()) % tiles;
        if (random() % 8 == 0) options.splits = tiles + 2;  // some of them empty
        options.small_merge = random() % 2 == 0;
        check(c, options);
        ++count;
      }
    }
  }
  std::printf("%d losses and their gradients\n", count);
}

// Every mode in every type, with many pairs of A in some tiles and few in others.
void test_modes() {
  Random random(5);
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (int mode = 0; mode < 8; ++mode) {
      Case c = make_case(&random, 37, 200, 40, 6);
      c.form = static_cast<Form>(mode % 4 < 3 ? mode % 4 : 0);
      c.denominator = static_cast<Denominator>(mode / 4);
      c.positive = unit_rows(&random, c.batch, c.dimensions, c.dimensions);
      if (mode % 4 == 3) c.listed = true;  // "instance"
      for (int64_t j = 0; j < 96; ++j) c.key_cluster[at(j)] = j < 64 ? 2 : -1;
      for (int64_t i = 0; i < c.batch; i += 2) c.query_cluster[at(i)] = 2;
      HostOptions options;
      options.dtype = dtype;
      options.splits = 1 + mode % 3;
      for (const double temperature : {0.01, 0.1, 10.0}) {
        c.temperature = temperature;
        check(c, options);
      }
    }
  }
}

// More dimensions than stay in shared memory, and more than one block's columns.
void test_wide() {
  Random random(6);
  for (const int64_t dimensions : {128, 129, 255, 256, 300, 511, 768}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      Case c = make_case(&random, 40, 70, dimensions, 3);
      c.key_stride = (dimensions + 7) / 8 * 8;
      c.keys = unit_rows(&random, c.bank, dimensions, c.key_stride);
      c.form = static_cast<Form>(random() % 3);
      c.temperature = 0.1;
      HostOptions options;
      options.dtype = dtype;
      options.limits = kLimits[random() % 3];
      options.splits = 2;
      check(c, options);
    }
  }
}

// 32 rows a warp, with few pairs of A in a tile and with many.
void test_tall() {
  Random random(17);
  for (const int64_t dimensions : {100, 128}) {
    for (const int64_t clusters : {2, 60}) {
      for (const DType dtype : {DType::bfloat16, DType::float16}) {
        Case c = make_case(&random, 150, 200, dimensions, clusters);
        c.key_stride = 128;
        c.keys = unit_rows(&random, c.bank, dimensions, c.key_stride);
        c.form = static_cast<Form>(random() % 3);
        c.temperature = 0.1;
        HostOptions options;
        options.dtype = dtype;
        options.splits = 2;
        check(c, options);
      }
    }
  }
}

// Ids, clusters and captions whose lower halves are all equal, or those of a row that has none.
void test_lower_halves() {
  Random random(18);
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    Case c = make_case(&random, 20, 100, 16, 3);
    c.query_caption.assign(at(c.batch), -1);
    c.key_caption.assign(at(c.bank), -1);
    std::vector<int64_t>* numbers[] = {&c.query_id,    &c.key_id,        &c.query_cluster,
                                       &c.key_cluster, &c.query_caption, &c.key_caption};
    for (std::vector<int64_t>* values : numbers) {
      for (int64_t& value : *values) {
        const auto upper = static_cast<int64_t>(random() % 4) - 1;
        value = upper * (int64_t{1} << 32) + static_cast<int64_t>(lower(kNobody));
      }
    }
    HostOptions options;
    options.dtype = dtype;
    check(c, options);
  }
}

// Logits that grow along the bank, so that maxima rise in every tile and differ between splits; and ones that fall.
void test_maxima() {
  Random random(8);
  for (const bool falling : {false, true}) {
    Case c = make_case(&random, 9, 700, 8, 3);
    for (int64_t j = 0; j < c.bank; ++j) {
      const int64_t place = falling ? c.bank - 1 - j : j;
      for (int64_t k = 0; k < c.dimensions; ++k) {
        c.keys[at(j * c.key_stride + k)] *= static_cast<float>(place) / 700.0F;
      }
    }
    for (const Form form : {Form::sum, Form::mean, Form::supcon}) {
      for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
        c.form = form;
        c.temperature = 0.02;
        HostOptions options;
        options.dtype = dtype;
        options.splits = 5;
        check(c, options);
      }
    }
  }
}

// Queries of any length, and those for which nothing is left.
void test_odd_queries() {
  Random random(9);
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const float length : {1e-12F, 30.0F, 1e7F}) {
      Case c = make_case(&random, 5, 100, 12, 4);
      c.temperature = 0.1 * static_cast<double>(length);
      for (float& value : c.query) value *= length;
      HostOptions options;
      options.dtype = dtype;
      check(c, options);
    }
    Case c = make_case(&random, 3, 80, 12, 4);
    c.positive.clear();
    c.key_log_weight.clear();
    c.query_caption.clear();
    c.key_caption.clear();
    c.listed = false;
    std::fill(c.key_cluster.begin(), c.key_cluster.end(), 0);
    c.query_cluster = {-1, 0, 0};  // no positives; no negatives; and only rows with its own id
    for (size_t j = 0; j < c.key_id.size(); ++j) c.key_id[j] = 7;
    c.query_id = {1, 2, 7};
    for (const Denominator denominator : {Denominator::all, Denominator::negatives}) {
      for (const Form form : {Form::sum, Form::mean, Form::supcon}) {
        c.form = form;
        c.denominator = denominator;
        HostOptions options;
        options.dtype = dtype;
        check(c, options);
        const HostResult found = HostRun(c, options).forward(true);
        require(found.loss[0] == 0.0F && found.loss[2] == 0.0F, "queries without positives have no loss");
        require(denominator == Denominator::all || found.loss[1] == 0.0F, "nor has one without negatives");
      }
    }
  }
}

// More splits than the merge has threads, the last of them empty; maxima that rise from one to the next.
void test_many_splits() {
  Random random(12);
  Case c = make_case(&random, 3, 32 * kMergeThreads + 1000, 4, 3);
  for (size_t k = 0; k < c.keys.size(); ++k) c.keys[k] *= static_cast<float>(k) / static_cast<float>(c.keys.size());
  c.temperature = 0.1;
  HostOptions options;
  options.splits = kMostSplits;
  for (const Form form : {Form::sum, Form::supcon}) {
    c.form = form;
    check(c, options);
  }
  // Rising by more than float64 holds.
  c.key_log_weight.clear();
  for (int64_t j = 0; j < c.bank; ++j) {
    c.key_log_weight.push_back(2000.0F * static_cast<float>(j) / static_cast<float>(c.bank));
  }
  check(c, options);
}

// As many pairs of A in a warp's tile as its list holds, and one more or less.
void test_list_of_pairs() {
  Random random(13);
  for (const int64_t pairs : {kListed - 1, kListed, kListed + 1}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const Form form : {Form::sum, Form::supcon}) {
        Case c = make_case(&random, 16, 32, 24, 1);
        c.form = form;
        c.temperature = 0.1;
        for (int64_t j = 0; j < c.bank; ++j) {
          c.key_id[at(j)] = -1 - j;
          c.key_cluster[at(j)] = j < 31 ? j % 14 : pairs < kListed ? -1 : 14;
        }
        for (int64_t i = 0; i < c.batch; ++i) {
          c.query_id[at(i)] = i;
          c.query_cluster[at(i)] = i < 15 ? i : pairs <= kListed ? -1 : 14;  // two queries share the last key
        }
        int64_t found = 0;
        for (int64_t i = 0; i < c.batch; ++i) {
          for (int64_t j = 0; j < c.bank; ++j) found += pair_of(c, i, j) == Pair::positive ? 1 : 0;
        }
        require(found == pairs, "pairs of A");
        HostOptions options;
        options.dtype = dtype;
        check(c, options);
      }
    }
  }
}

// Logits that weights move out of what a float32 exponential can hold, and a batch that does not fill its last tile.
void test_large_weights() {
  Random random(14);
  for (const float weight : {-200.0F, 200.0F}) {
    for (const bool listed : {false, true}) {
      Case c = make_case(&random, 37, 70, 12, 3);
      c.key_log_weight.assign(at(c.bank), weight);
      c.temperature = 1.0;
      if (listed) list_positives(&random, &c);
      check(c, HostOptions());
    }
  }
}

// Sixty thousand terms that a plain float32 sum would round the same way every time.
void test_long_sum() {
  Random random(15);
  Case c = make_case(&random, 1, 1 << 16, 1, 0);
  c.positive = {1.0F};
  c.query = {1.0F};
  c.key_log_weight.clear();
  c.query_caption.clear();
  c.key_caption.clear();
  std::fill(c.key_id.begin(), c.key_id.end(), c.query_id[0] + 1);
  for (size_t j = 0; j < c.keys.size(); ++j) c.keys[j] = j % 32 == 0 ? 1.0F : 0.7F;
  c.temperature = 1.0;
  HostOptions options;
  options.splits = 1;
  const double exact = define(c).loss[0];
  const double found = static_cast<double>(HostRun(c, options).forward(false).loss[0]);
  require(std::abs(found - exact) <= 1.5e-6, "a long sum is off by " + std::to_string(std::abs(found - exact)));
}

// Weights that float16 would hold with five bits, were they not relative to 2^15.
void test_small_weights() {
  Random random(16);
  Case c = make_case(&random, 1, 64, 2, 0);
  c.key_stride = 2;
  c.keys.assign(at(2 * c.bank), 0.0F);
  c.keys[0] = 1.0F;
  for (int64_t j = 1; j < c.bank; ++j) c.keys[at(2 * j + 1)] = 1.0F;
  c.query = {1.0F, 0.0F};
  c.positive = c.query;
  c.key_log_weight.clear();
  c.query_caption.clear();
  c.key_caption.clear();
  std::fill(c.key_id.begin(), c.key_id.end(), c.query_id[0] + 1);
  c.temperature = 1.0 / std::log(0x1p24 / 16.45);
  HostOptions options;
  options.dtype = DType::float16;
  const double exact = define(c).query_gradient[1];
  const double found = static_cast<double>(HostRun(c, options).forward(true).gradient[1]);
  require(std::abs(found - exact) <= 0x1p-10 * exact, "small weights: " + std::to_string(found / exact));
}

// A number that is not finite must not vanish.
void test_not_finite() {
  Random random(10);
  // The last is the NaN that devices make.
  for (const float odd : {std::nanf(""), HUGE_VALF, tmor::float_of_bits(0x7fffffffU)}) {
    Case c = make_case(&random, 3, 100, 12, 0);
    c.listed = false;
    std::fill(c.key_id.begin(), c.key_id.end(), int64_t{1} << 50);
    c.positive = unit_rows(&random, 3, 12, 12);
    c.query_caption.clear();
    c.key_caption.clear();
    std::vector<float>* places[] = {&c.query, &c.keys, &c.positive};
    for (std::vector<float>* values : places) {
      const float before = (*values)[5];
      (*values)[5] = odd;
      HostOptions options;
      const HostResult found = HostRun(c, options).forward(true);
      require(!std::isfinite(found.loss[0]) || !std::isfinite(found.gradient[0]), "NaN and inf are seen");
      if (odd != odd) {
        HostRun run(c, options);
        HostResult gradient = run.forward(true);
        run.key_gradient({odd, odd, odd}, &gradient);
        require(!std::isfinite(gradient.key_gradient[0]), "a NaN that comes from above is seen");
      }
      // And in the loss itself, which would otherwise look like 0; a negative's logit of -inf may vanish there.
      require((values == &c.keys && odd == odd) || !std::isfinite(found.loss[0]), "the loss is not finite either");
      (*values)[5] = before;
    }
  }
}

}  // namespace

int main() {
  // Half of the time goes into the wide cases and the modes.
  std::thread wide([] {
    test_wide();
    test_modes();
  });
  test_conversions();
  test_tall();
  test_lower_halves();
  test_running_sum();
  test_plans();
  test_maxima();
  test_odd_queries();
  test_not_finite();
  test_losses();
  test_many_splits();
  test_list_of_pairs();
  test_large_weights();
  test_long_sum();
  test_small_weights();
  wide.join();
  std::puts("the CUDA tile loop of cluster_infonce agrees with its definition");
  return 0;
}
