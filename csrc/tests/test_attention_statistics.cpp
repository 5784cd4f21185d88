// The statistics that dependency_attention's CUDA programs gather while they finish z, on a host that plays the blocks,
// against float64: sizes, rows that do not exist, weights of what is joined, means far from zero.
// For .ci/check_sanitizers.sh; needs no GPU.
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dependency_attention/cuda_naive.hpp"
#include "host_attention_call.hpp"

namespace {

using namespace tmor::dependency_attention;
using tmor::BFloat16;
using tmor::Float16;

// Mean and biased variance of every column of (rows, channels).
struct Statistics {
  std::vector<double> mean, variance;

  Statistics(const std::vector<double>& z, int64_t channels) : mean(at(channels)), variance(at(channels)) {
    const int64_t rows = static_cast<int64_t>(z.size()) / channels;
    for (int64_t o = 0; o < channels; ++o) {
      for (int64_t row = 0; row < rows; ++row) mean[at(o)] += z[at(row * channels + o)];
      mean[at(o)] /= static_cast<double>(rows);
      for (int64_t row = 0; row < rows; ++row) {
        variance[at(o)] += std::pow(z[at(row * channels + o)] - mean[at(o)], 2) / static_cast<double>(rows);
      }
    }
  }
};

// Fails where a mean is off by more than `mean_tolerance` of its size or `tolerance` of the standard deviation, or a
// variance by more than `tolerance` of itself; `floor` is a variance that rounding z makes.
void compare(float* got, const Statistics& want, double mean_tolerance, double tolerance, double floor,
             const std::string& name) {
  const size_t channels = want.mean.size();
  for (size_t o = 0; o < channels; ++o) {
    const double variance = want.variance[o];
    const double mean_error = std::fabs(static_cast<double>(got[o]) - want.mean[o]);
    const double error = std::fabs(static_cast<double>(got[channels + o]) - variance);
    const std::string where = name + ", channel " + std::to_string(o) + ": ";
    require(mean_error <= mean_tolerance * std::fabs(want.mean[o]) + tolerance * std::sqrt(variance) + std::sqrt(floor),
            where + "mean " + std::to_string(got[o]) + ", not " + std::to_string(want.mean[o]));
    require(got[channels + o] >= 0.0F && error <= tolerance * variance + floor,
            where + "variance " + std::to_string(got[channels + o]) + ", not " + std::to_string(variance));
  }
}

template <typename Number>
std::vector<double> wide(Guarded<Number>& values, int64_t size) {
  std::vector<double> result;
  for (int64_t i = 0; i < size; ++i) result.push_back(static_cast<double>(widen(values.get()[i])));
  return result;
}

template <typename Number>
void play(Call<Number>& call, const Limits& limits) {
  HostLauncher<Number> launcher(limits);
  call.params.workspace = nullptr;
  call.workspace.give(&call.params, Plan<Number>(call.params, false).bytes());
  const Plan<Number> plan(call.params, false);
  require(plan.refusal(limits) == nullptr, "refused");
  plan.forward(launcher);
}

// Mean and variance of every channel. In float32 they must be those of the z that was written, but for the rounding of
// single numbers.
template <typename Number>
std::vector<double> check(const Case& c, const Tensors& t, double mean_tolerance = 3e-7, double tolerance = 3e-6) {
  const std::string name = c.name + ", dtype " + std::to_string(sizeof(Number)) + (kHalf<Number> ? " half" : "");
  Call<Number> plain(c, t, 0);
  play(plain, c.limits);
  const std::vector<double> z = wide(plain.z, c.rows() * c.outputs);
  Call<Number> call(c, t, 0);
  Guarded<float> got(2 * c.outputs);
  call.params.statistics = got.get();
  play(call, c.limits);
  require(wide(call.z, c.rows() * c.outputs) == z, name + ": z differs without statistics");
  call.z.check(z, 0.0, name + ", z");
  const std::vector<double> values = wide(got, 2 * c.outputs);
  got.check(values, 0.0, name + ", statistics");
  const double rounding = std::is_same<Number, float>::value ? 0.0 : std::is_same<Number, Float16>::value ? 4e-3 : 3e-2;
  compare(got.get(), Statistics(z, c.outputs), mean_tolerance + rounding / 8, tolerance + rounding, 1e-12, name);
  if (c.rows() > 500) return values;
  // The same bits again, from other memory.
  Guarded<float> again(2 * c.outputs);
  call.params.statistics = again.get();
  play(call, c.limits);
  require(wide(again, 2 * c.outputs) == values, name + ": other bits the second time");
  return values;
}

Case sized(int64_t clips, int64_t frames, int64_t joints, int64_t outputs, int64_t inputs = 3, int64_t heads = 1) {
  const std::string name = "N " + std::to_string(clips) + ", T " + std::to_string(frames) + ", V " +
                           std::to_string(joints) + ", Cout " + std::to_string(outputs) + ", H " +
                           std::to_string(heads);
  return {name, clips, frames, joints, inputs, outputs, heads, 2};
}

// The first channel of x is of(clip, frame, joint), which the attention does not see. Joints are averaged alone, so
// what is equal for all of them reaches z as it is.
Tensors with_first_channel(const Case& c, unsigned seed, const std::function<double(int64_t, int64_t, int64_t)>& of) {
  Tensors t = make_tensors<float>(c, seed);
  for (double& value : t.dependency) value = 0.0;
  for (int64_t j = 0; j < c.wide(); ++j) t.qk_weight[at(j * c.inputs)] = 0.0;
  for (int64_t i = 0; i < c.outputs * c.heads; ++i) t.value_weight[at(i * c.inputs)] = 1.0;
  for (int64_t row = 0; row < c.rows(); ++row) {
    const int64_t frame = row / c.joints;
    t.x[at(row * c.inputs)] = of(frame / c.frames, frame % c.frames, row % c.joints);
  }
  return t;
}

void test_sizes() {
  unsigned seed = 0;
  for (const int64_t joints : {5, 17, 25, 51}) {
    for (const int64_t frames : {1, 2, 37}) {
      for (const int64_t clips : {1, 3}) {
        for (const int64_t outputs : {2, 3, 64, 129, 256}) {
          // Many rows of many channels take minutes when sanitized.
          if (frames == 37 && joints != 17 && (outputs > 64 || clips == 3)) continue;
          if (frames == 37 && outputs == 256) continue;
          const Case c = sized(clips, frames, joints, outputs);
          check<float>(c, make_tensors<float>(c, ++seed));
        }
      }
    }
  }
  for (const int64_t heads : {3, 5, 12}) {  // pieces of 32, 16 and 8 channels
    for (const int64_t outputs : {1, 37}) {
      const Case c = sized(2, 4, 17, outputs, 8, heads);
      check<float>(c, make_tensors<float>(c, ++seed));
      check<BFloat16>(c, make_tensors<BFloat16>(c, ++seed));
    }
  }
  const Case half = sized(2, 4, 17, 37, 8, 3);
  check<Float16>(half, make_tensors<Float16>(half, ++seed));
  for (const int64_t joints : {1, 2, 16, 64, 65, 128, 129, 153, 300}) {
    const Case c = sized(1, joints < 3 ? 130 : 3, joints, 5);
    check<float>(c, make_tensors<float>(c, ++seed));
    if (joints % 64 == 1) check<BFloat16>(c, make_tensors<BFloat16>(c, ++seed));
  }
  const Case one = sized(1, 1, 1, 5);
  const std::vector<double> got = check<float>(one, make_tensors<float>(one, ++seed));
  for (size_t o = 5; o < 10; ++o) require(got[o] == 0.0, "one row has no variance");
}

// Means that drift over joints, frames and clips: whoever joins with wrong weights is off by as much as they drift.
void test_weights() {
  unsigned seed = 100;
  bool saw_many = false;
  bool saw_short = false;
  const std::vector<Case> cases = {
      sized(1, 37, 17, 33), sized(3, 9, 25, 8),   sized(2, 7, 51, 4),
      sized(1, 150, 65, 2), sized(1, 1651, 5, 2), sized(1, 323, 25, 3),
  };
  for (const Case& c : cases) {
    Shape shape;
    shape.clips = c.clips;
    shape.frames = c.frames;
    shape.joints = static_cast<int32_t>(c.joints);
    const Tiling tiling = make_tiling(shape);
    saw_many = saw_many || tiling.tiles > 2 * tiling.splits;
    saw_short = saw_short || (tiling.tiles > tiling.splits && c.frames % tiling.frames != 0);
    const auto drift = [&c](int64_t clip, int64_t frame, int64_t joint) {
      const double along = static_cast<double>(frame) / static_cast<double>(c.frames);
      return 5.0 * static_cast<double>(clip % 7) + 20.0 * along * along + static_cast<double>(joint % 16) / 4.0;
    };
    const Tensors t = with_first_channel(c, ++seed, drift);
    check<float>(c, t, 1e-6, 1e-5);
    if (c.rows() > 1000) continue;
    const Truth truth(c, t);
    Call<float> call(c, t, 0);
    Guarded<float> got(2 * c.outputs);
    call.params.statistics = got.get();
    play(call, c.limits);
    compare(got.get(), Statistics(truth.z, c.outputs), 1e-5, 1e-4, 0.0, c.name + ", truth");
  }
  require(saw_many && saw_short, "no block has three tiles, or no block of two a short one");
}

// Mean over standard deviation 1000, from x and from the bias; and a first row that is far from all others.
void test_large_means() {
  for (const Case& c : {sized(2, 16, 17, 33), sized(1, 323, 25, 3), sized(1, 50, 5, 2), sized(1, 3, 153, 4)}) {
    const bool many = c.rows() > 5000;
    for (const bool from_bias : {false, true}) {
      if (many && from_bias) continue;
      Tensors t = with_first_channel(c, 7, [&](int64_t, int64_t, int64_t) { return from_bias ? 0.0 : 1500.0; });
      if (from_bias) {
        for (double& value : t.value_bias) value = 1500.0;
      }
      for (size_t i = 0; i < t.value_weight.size(); ++i) {
        if (i % at(c.inputs) != 0) t.value_weight[i] += t.value_weight[i] < 0.0 ? -1.0 : 1.0;
      }
      Call<float> call(c, t, 0);
      play(call, c.limits);
      const Statistics want(wide(call.z, c.rows() * c.outputs), c.outputs);
      for (int64_t o = 0; o < c.outputs; ++o) {
        const double ratio = std::fabs(want.mean[at(o)]) / std::sqrt(want.variance[at(o)]);
        require(ratio > 1000.0, c.name + ": only " + std::to_string(ratio) + " standard deviations");
      }
      check<float>(c, t, 1e-7, 4e-4);
    }
    if (many) continue;
    const auto outlier = [](int64_t clip, int64_t frame, int64_t) { return clip + frame == 0 ? 1e4 : 0.0; };
    check<float>(c, with_first_channel(c, 8, outlier), 3e-7, 1e-5);
  }
}

// bfloat16 keeps 8 bits: of 300 + noise of a standard deviation of about 1 it makes steps of 2.
void test_before_rounding() {
  const Case c = sized(2, 37, 17, 16);
  Tensors t = make_tensors<BFloat16>(c, 5);
  for (double& value : t.value_bias) value = 300.0;
  const Truth truth(c, t);
  Call<BFloat16> call(c, t, 0);
  Guarded<float> got(2 * c.outputs);
  call.params.statistics = got.get();
  play(call, c.limits);
  compare(got.get(), Statistics(truth.z, c.outputs), 1e-5, 2e-2, 0.0, "before rounding");
}

void test_not_finite() {
  const Case c = sized(2, 9, 17, 5);
  Tensors t = make_tensors<float>(c, 6);
  t.x[at((c.frames * c.joints + 40) * c.inputs)] = std::nan("");
  Call<float> call(c, t, 0);
  Guarded<float> got(2 * c.outputs);
  call.params.statistics = got.get();
  play(call, c.limits);
  for (int64_t i = 0; i < 2 * c.outputs; ++i) require(std::isnan(got.get()[i]), "a NaN is hidden");
}

template <typename Number>
void test_naive() {
  for (const Case& c : {sized(2, 9, 17, 5, 3, 2), sized(1, 1, 1, 1), sized(3, 2, 5, 33)}) {
    const Tensors t = make_tensors<Number>(c, 9);
    const Truth truth(c, t);
    Call<Number> call(c, t, 0);
    const int64_t without = Naive(call.params, false).bytes();
    Guarded<float> got(2 * c.outputs);
    call.params.statistics = got.get();
    const int64_t bytes = Naive(call.params, false).bytes();
    require(bytes >= without + c.rows() * c.outputs * 8, "the naive workspace holds z in float64");
    call.workspace.give(&call.params, bytes);
    const Naive naive(call.params, false);
    naive.forward([&naive](NaiveStep step, int64_t count) {
      for (int64_t i = count - 1; i >= 0; --i) naive.one(step, i);
    });
    call.z.check(truth.z, kTolerance<Number> / 5, "naive, " + c.name + ", z");
    compare(got.get(), Statistics(truth.z, c.outputs), 1e-7, 1e-6, 1e-14, "naive, " + c.name);
    got.check(wide(got, 2 * c.outputs), 0.0, "naive, " + c.name + ", statistics");
  }
}

void test_refusal() {
  Case c = sized(2, 3, 5, 4);
  Guarded<float> got(2 * c.outputs);
  CudaParams params = sizes_of(c);
  params.dtype = tmor::DType::float32;
  const int64_t without = Plan<float>(params, false).bytes();
  const int64_t backward = Plan<float>(params, true).bytes();
  params.statistics = got.get();
  require(Plan<float>(params, false).bytes() > without, "statistics need workspace");
  require(Plan<float>(params, true).bytes() == backward, "but not backward");
  const auto refused = [](const CudaParams& given, const std::string& message) {
    for (const bool naive : {false, true}) {
      try {
        naive ? Naive(given, false).bytes() : Plan<float>(given, false).bytes();
      } catch (const std::invalid_argument& error) {
        require(std::string(error.what()).find(message) != std::string::npos, error.what());
        continue;
      }
      require(false, "not refused: " + message);
    }
  };
  params.relu = true;
  refused(params, "without shortcut and relu");
  params.relu = false;
  params.shortcut = got.get();
  refused(params, "without shortcut and relu");
  params.shortcut = nullptr;
  params.clips = 0;
  refused(params, "no clips");
}

}  // namespace

int main() {
  test_sizes();
  test_weights();
  test_large_means();
  test_before_rounding();
  test_not_finite();
  test_naive<float>();
  test_naive<BFloat16>();
  test_refusal();
  std::puts("test_attention_statistics: ok");
  return 0;
}
