// The CPU kernels of batch_norm_relu against its equations in float64, for .ci/check_sanitizers.sh: no Python, so
// sanitizers see nothing but our code.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "batch_norm_relu/kernel.hpp"
#include "batch_norm_relu/params.hpp"
#include "common/isa.hpp"
#include "worse.hpp"

namespace {

using namespace tmor::batch_norm_relu;
using tmor::DType;
using Random = std::mt19937;
using Doubles = std::vector<double>;
using Floats = std::vector<float>;

int failures = 0;

size_t at(int64_t i) { return static_cast<size_t>(i); }

// Numbers in memory of their type.
class Tensor {
 public:
  Tensor(size_t n, DType dtype) : dtype_(dtype), single_(dtype == DType::float32 ? n : 0), half_(n - single_.size()) {}
  Tensor(Random* random, size_t n, double mean, DType dtype) : Tensor(n, dtype) {
    std::normal_distribution<double> normal(mean, 1.0);
    Floats drawn(n);
    for (float& value : drawn) value = static_cast<float>(normal(*random));
    const Kernel kernel = Kernel::portable();
    const int64_t count = static_cast<int64_t>(n);
    if (dtype == DType::float32) single_ = drawn;
    if (dtype == DType::float16) kernel.to_half(drawn.data(), half_.data(), count);
    if (dtype == DType::bfloat16) kernel.to_bfloat(drawn.data(), half_.data(), count);
  }
  void* data() { return dtype_ == DType::float32 ? static_cast<void*>(single_.data()) : half_.data(); }
  Doubles values() const {
    if (dtype_ == DType::float32) return {single_.begin(), single_.end()};
    const Kernel kernel = Kernel::portable();
    Floats single(half_.size());
    const auto convert = dtype_ == DType::float16 ? kernel.from_half : kernel.from_bfloat;
    convert(half_.data(), single.data(), static_cast<int64_t>(single.size()));
    return {single.begin(), single.end()};
  }

 private:
  DType dtype_;
  Floats single_;
  std::vector<uint16_t> half_;
};

struct Result {
  Doubles statistics, out, x, shortcut, weight, bias;
};

struct Case {
  int64_t rows, channels;
  DType dtype;
  bool relu, has_shortcut;
  Tensor x, shortcut, grad;
  Floats weight, bias;
};

Case make_case(Random* random, int64_t rows, int64_t channels, DType dtype, bool relu, bool has_shortcut, double mean) {
  const size_t n = at(rows * channels);
  const Tensor x(random, n, mean, dtype), shortcut(random, n, 0.0, dtype), grad(random, n, 0.0, dtype);
  Case c{rows, channels, dtype, relu, has_shortcut, x, shortcut, grad, Floats(at(channels)), Floats(at(channels))};
  std::normal_distribution<float> normal(1.0F, 0.3F);
  for (float& w : c.weight) w = normal(*random);
  for (float& b : c.bias) b = normal(*random);
  return c;
}

constexpr double kEps = 1e-5;

// The equations. The ReLU of the backward pass is decided by `out`, as the kernel rounded it.
Result define(const Case& c, const Doubles& out) {
  const size_t n = at(c.channels);
  const double rows = static_cast<double>(c.rows);
  const Doubles x = c.x.values(), shortcut = c.shortcut.values(), grad = c.grad.values();
  Result r{Doubles(2 * n), Doubles(x.size()), Doubles(x.size()), Doubles(x.size()), Doubles(n), Doubles(n)};
  double* mean = r.statistics.data();
  double* variance = mean + n;
  for (size_t i = 0; i < x.size(); ++i) mean[i % n] += x[i] / rows;
  for (size_t i = 0; i < x.size(); ++i) variance[i % n] += (x[i] - mean[i % n]) * (x[i] - mean[i % n]) / rows;
  const auto normal = [&](size_t i) { return (x[i] - mean[i % n]) / std::sqrt(variance[i % n] + kEps); };
  for (size_t i = 0; i < x.size(); ++i) {
    const double weight = static_cast<double>(c.weight[i % n]);
    const double y = normal(i) * weight + static_cast<double>(c.bias[i % n]) + (c.has_shortcut ? shortcut[i] : 0.0);
    r.out[i] = c.relu ? std::max(y, 0.0) : y;
    r.shortcut[i] = c.relu && out[i] <= 0.0 ? 0.0 : grad[i];
    r.bias[i % n] += r.shortcut[i];
    r.weight[i % n] += r.shortcut[i] * normal(i);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const double centred = r.shortcut[i] - r.bias[i % n] / rows - normal(i) * r.weight[i % n] / rows;
    r.x[i] = centred * static_cast<double>(c.weight[i % n]) / std::sqrt(variance[i % n] + kEps);
  }
  return r;
}

Result kernel(Case* c, tmor::Isa isa, int threads) {
  const size_t n = at(c->channels);
  Tensor out(at(c->rows * c->channels), c->dtype), dx(out), dshortcut(out);
  Floats statistics(2 * n), dweight(n), dbias(n);
  Params params;
  params.dtype = c->dtype;
  params.rows = c->rows;
  params.channels = c->channels;
  params.x = c->x.data();
  params.weight = c->weight.data();
  params.eps = kEps;
  params.threads = threads;
  params.isa = isa;
  ForwardParams forward;
  static_cast<Params&>(forward) = params;
  forward.bias = c->bias.data();
  forward.shortcut = c->has_shortcut ? c->shortcut.data() : nullptr;
  forward.relu = c->relu;
  forward.statistics = statistics.data();
  forward.out = out.data();
  forward_cpu(forward);
  const Doubles first = out.values();
  forward.given = true;  // the same once more, with what was found
  forward_cpu(forward);
  if (out.values() != first) {
    ++failures;
    std::printf("FAILED: known statistics give another result\n");
  }
  BackwardParams backward;
  static_cast<Params&>(backward) = params;
  backward.statistics = statistics.data();
  backward.grad = c->grad.data();
  backward.out = c->relu ? out.data() : nullptr;
  backward.grad_x = dx.data();
  backward.grad_shortcut = c->relu && c->has_shortcut ? dshortcut.data() : nullptr;
  backward.grad_weight = dweight.data();
  backward.grad_bias = dbias.data();
  backward_cpu(backward);
  const auto wide = [](const Floats& values) { return Doubles(values.begin(), values.end()); };
  return {wide(statistics), first, dx.values(), dshortcut.values(), wide(dweight), wide(dbias)};
}

// The largest error relative to the largest number, or to `least`.
double error(const Doubles& ours, const Doubles& exact, double least) {
  double worst = 0.0;
  double scale = least;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double difference = std::abs(ours[i] - exact[i]);
    worst = worse(worst, difference);
    scale = std::max(scale, std::abs(exact[i]));
  }
  return worst / scale;
}

void check(Case c, double mean) {
  for (const tmor::Isa isa : tmor::supported_isas()) {
    if (isa > tmor::Isa::avx512) continue;
    for (const int threads : {1, 3}) {
      const Result ours = kernel(&c, isa, threads);
      const Result exact = define(c, ours.out);
      const double half = c.dtype == DType::float32 ? 0.0 : c.dtype == DType::float16 ? 6e-4 : 5e-3;
      // The mean is kept in float32, so a large one moves what is normalised.
      const double rounding = (2.0 + std::abs(mean)) * 1e-6;
      const double terms = std::sqrt(static_cast<double>(c.rows));
      // With few rows the gradient of x is a small difference of numbers of this size.
      double steep = 1.0;
      for (size_t j = 0; j < at(c.channels); ++j) {
        const double variance = exact.statistics[at(c.channels) + j];
        steep = std::max(steep, static_cast<double>(c.weight[j]) / std::sqrt(variance + kEps));
      }
      const bool masked = c.relu && c.has_shortcut;
      const double errors[] = {error(ours.statistics, exact.statistics, 1e-3) / 2e-6,
                               error(ours.out, exact.out, 1.0) / (rounding + half),
                               error(ours.x, exact.x, steep) / (4 * rounding + half),
                               masked ? error(ours.shortcut, exact.shortcut, 1.0) / 1e-9 : 0.0,
                               error(ours.weight, exact.weight, terms) / (4 * rounding),
                               error(ours.bias, exact.bias, terms) / 2e-6};
      for (size_t i = 0; i < 6; ++i) {
        if (errors[i] <= 1.0) continue;
        ++failures;
        std::printf("FAILED: output %zu is off by %.2f times what is allowed: %ld rows, %ld channels, mean %g, ", i,
                    errors[i], static_cast<long>(c.rows), static_cast<long>(c.channels), mean);
        std::printf("relu %d, shortcut %d, %s, %d threads, dtype %d\n", c.relu, c.has_shortcut, tmor::isa_name(isa),
                    threads, static_cast<int>(c.dtype));
      }
    }
  }
}

}  // namespace

int main() {
  Random random(5);
  int cases = 0;
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    for (const int64_t rows : {2, 15, 17, 64, 65, 1000, 17000}) {
      for (const int64_t channels : {1, 3, 16, 31, 64}) {
        const bool relu = cases % 3 != 0;
        const bool shortcut = cases % 2 == 0;
        const double mean = cases % 5 == 0 ? -20.0 : 0.5;
        check(make_case(&random, rows, channels, dtype, relu, shortcut, mean), mean);
        ++cases;
      }
    }
  }
  if (failures > 0) {
    std::printf("%d checks of batch_norm_relu failed\n", failures);
    return 1;
  }
  std::printf("batch_norm_relu: %d cases agree\n", cases);
  return 0;
}
