// The CPU kernels of temporal_convolution against their equations in float64, for .ci/check_sanitizers.sh: no Python,
// so sanitizers see nothing but our code.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "common/isa.hpp"
#include "temporal_convolution/params.hpp"
#include "worse.hpp"

namespace {

using namespace tmor::temporal_convolution;
using Random = std::mt19937;
using Doubles = std::vector<double>;
using Floats = std::vector<float>;

int failures = 0;

size_t at(int64_t i) { return static_cast<size_t>(i); }

Floats draw(Random* random, int64_t n) {
  std::normal_distribution<float> normal;
  Floats drawn(at(n));
  for (float& value : drawn) value = normal(*random);
  return drawn;
}

struct Gradients {
  Doubles weight, bias;
};

// The equations, and beside them the sums of the terms' sizes.
void define(const Params& p, Gradients* exact, Gradients* sizes) {
  const auto add = [](double* sum, double* size, double term) {
    *sum += term;
    *size += std::abs(term);
  };
  for (int64_t row = 0; row < p.clips * p.output_frames * p.joints; ++row) {
    const int64_t joint = row % p.joints;
    const int64_t frame = row / p.joints % p.output_frames;
    const int64_t clip = row / p.joints / p.output_frames;
    for (int64_t o = 0; o < p.out_channels; ++o) {
      const double grad = static_cast<double>(p.grad[row * p.out_channels + o]);
      add(&exact->bias[at(o)], &sizes->bias[at(o)], grad);
      for (int64_t k = 0; k < p.kernel; ++k) {
        const int64_t source = frame * p.stride + k * p.dilation - p.padding;
        if (source < 0 || source >= p.frames) continue;
        const float* x = p.x + ((clip * p.frames + source) * p.joints + joint) * p.in_channels;
        for (int64_t i = 0; i < p.in_channels; ++i) {
          const size_t weight = at((o * p.in_channels + i) * p.kernel + k);
          add(&exact->weight[weight], &sizes->weight[weight], grad * static_cast<double>(x[i]));
        }
      }
    }
  }
}

void compare(const Floats& ours, const Doubles& exact, const Doubles& sizes, const char* what, const Params& p) {
  double worst = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = std::abs(static_cast<double>(ours[i]) - exact[i]) / (sizes[i] + 1e-30);
    worst = worse(worst, error);
  }
  if (worst < 3e-7) return;
  ++failures;
  const auto number = [](int64_t n) { return static_cast<long>(n); };
  std::printf("FAILED: gradient of the %s is off by %.1e of its terms: %ld clips, %ld frames, %ld joints, %ld to %ld ",
              what, worst, number(p.clips), number(p.frames), number(p.joints), number(p.in_channels),
              number(p.out_channels));
  std::printf("channels, %ld taps, stride %ld, padding %ld, dilation %ld, %s, %d threads\n", number(p.kernel),
              number(p.stride), number(p.padding), number(p.dilation), tmor::isa_name(p.isa), p.threads);
}

void check(Random* random, Params p) {
  p.output_frames = (p.frames + 2 * p.padding - p.dilation * (p.kernel - 1) - 1) / p.stride + 1;
  const int64_t weights = p.out_channels * p.in_channels * p.kernel;
  const Floats x = draw(random, p.clips * p.frames * p.joints * p.in_channels);
  const Floats grad = draw(random, p.clips * p.output_frames * p.joints * p.out_channels);
  p.x = x.data();
  p.grad = grad.data();
  Gradients exact{Doubles(at(weights)), Doubles(at(p.out_channels))};
  Gradients sizes = exact;
  define(p, &exact, &sizes);
  for (const tmor::Isa isa : tmor::supported_isas()) {
    if (isa > tmor::Isa::avx512) continue;
    for (const int threads : {1, 3}) {
      Floats weight(at(weights), NAN), bias(at(p.out_channels), NAN);
      p.grad_weight = weight.data();
      p.grad_bias = threads == 1 ? bias.data() : nullptr;
      p.threads = threads;
      p.isa = isa;
      weight_gradient_cpu(p);
      compare(weight, exact.weight, sizes.weight, "weight", p);
      if (p.grad_bias != nullptr) compare(bias, exact.bias, sizes.bias, "bias", p);
    }
  }
}

Params sized(int64_t clips, int64_t frames, int64_t joints, int64_t inputs, int64_t outputs) {
  Params p;
  p.clips = clips;
  p.frames = frames;
  p.joints = joints;
  p.in_channels = inputs;
  p.out_channels = outputs;
  return p;
}

}  // namespace

int main() {
  Random random(5);
  const Params sizes[] = {sized(1, 1, 1, 1, 1),    sized(2, 9, 3, 3, 2),     sized(3, 37, 17, 8, 13),
                          sized(1, 90, 17, 33, 6), sized(40, 5, 2, 17, 12),  sized(2, 70, 51, 5, 25),
                          sized(1, 3, 1100, 4, 5), sized(2, 130, 17, 31, 30)};
  const int64_t taps[][3] = {{1, 0, 1}, {9, 4, 1}, {9, 16, 4}, {5, 30, 3}, {2, 3, 2}};  // K, padding, dilation
  int cases = 0;
  for (Params p : sizes) {
    for (const auto& tap : taps) {
      p.kernel = tap[0];
      p.padding = tap[1];
      p.dilation = tap[2];
      p.stride = cases % 5 == 4 ? 23 : 1 + cases % 5;
      check(&random, p);
      ++cases;
    }
  }
  if (failures > 0) {
    std::printf("%d checks of temporal_convolution failed\n", failures);
    return 1;
  }
  std::printf("temporal_convolution: %d cases agree\n", cases);
  return 0;
}
