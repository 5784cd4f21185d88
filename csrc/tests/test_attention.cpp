// The CPU kernels of dependency_attention against its equations in float64, for .ci/check_sanitizers.sh: no Python, so
// sanitizers see nothing but our code. Also the kernels' conversions to and from half precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/isa.hpp"
#include "common/kernel_for.hpp"
#include "dependency_attention/cpu_params.hpp"
#include "dependency_attention/kernel.hpp"
#include "worse.hpp"

namespace {

using tmor::DType;
using tmor::dependency_attention::CpuBackwardParams;
using tmor::dependency_attention::CpuForwardParams;
using tmor::dependency_attention::CpuParams;
using tmor::dependency_attention::Kernel;
using Random = std::mt19937;
using Doubles = std::vector<double>;

int failures = 0;

size_t at(int64_t i) { return static_cast<size_t>(i); }

struct Case {
  int64_t clips, frames, joints, in, out, heads, size;
  Doubles x, embed, embed_bias, dependency, value, value_bias, shortcut, grad;
  int64_t rows() const { return clips * frames * joints; }
};

struct Result {
  Doubles z, x, embed, embed_bias, dependency, value, value_bias, statistics;
};

Doubles draw(Random* random, int64_t n, double scale, DType dtype) {
  std::normal_distribution<double> normal(0.0, scale);
  const Kernel kernel = Kernel::portable();
  std::vector<float> values(at(n));
  for (float& v : values) v = static_cast<float>(normal(*random));
  std::vector<uint16_t> half(at(n));
  if (dtype == DType::float16) {
    kernel.to_half(values.data(), half.data(), n);
    kernel.from_half(half.data(), values.data(), n);
  } else if (dtype == DType::bfloat16) {
    kernel.to_bfloat(values.data(), half.data(), n);
    kernel.from_bfloat(half.data(), values.data(), n);
  }
  return {values.begin(), values.end()};
}

Case make_case(Random* random, int64_t clips, int64_t frames, int64_t joints, int64_t in, int64_t out, int64_t heads,
               int64_t size, DType dtype) {
  Case c{clips, frames, joints, in, out, heads, size, {}, {}, {}, {}, {}, {}, {}, {}};
  const double scale = 1.0 / std::sqrt(static_cast<double>(in));
  c.x = draw(random, c.rows() * in, 1.0, dtype);
  c.embed = draw(random, 2 * heads * size * in, scale, DType::float32);
  c.embed_bias = draw(random, 2 * heads * size, 1.0, DType::float32);
  c.dependency = draw(random, heads * joints * joints, 0.3, DType::float32);
  c.value = draw(random, out * heads * in, scale, DType::float32);
  c.value_bias = draw(random, out, 1.0, DType::float32);
  c.shortcut = draw(random, c.rows() * out, 1.0, dtype);
  c.grad = draw(random, c.rows() * out, 1.0, dtype);
  return c;
}

// theta and phi of one clip, (T, V, 2 H Ce).
Doubles embeddings(const Case& c, int64_t clip) {
  const int64_t rows = c.frames * c.joints;
  const int64_t width = 2 * c.heads * c.size;
  Doubles result(at(rows * width));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t e = 0; e < width; ++e) {
      double sum = c.embed_bias[at(e)];
      for (int64_t k = 0; k < c.in; ++k) sum += c.x[at((clip * rows + r) * c.in + k)] * c.embed[at(e * c.in + k)];
      result[at(r * width + e)] = sum;
    }
  }
  return result;
}

// A of one clip, (H, V, V).
Doubles attention(const Case& c, const Doubles& embedding) {
  const int64_t width = 2 * c.heads * c.size;
  Doubles result(at(c.heads * c.joints * c.joints));
  for (int64_t h = 0; h < c.heads; ++h) {
    for (int64_t w = 0; w < c.joints; ++w) {
      Doubles logits(at(c.joints));
      for (int64_t v = 0; v < c.joints; ++v) {
        for (int64_t t = 0; t < c.frames; ++t) {
          for (int64_t e = 0; e < c.size; ++e) {
            logits[at(v)] += embedding[at((t * c.joints + v) * width + h * c.size + e)] *
                             embedding[at((t * c.joints + w) * width + (c.heads + h) * c.size + e)];
          }
        }
        logits[at(v)] /= static_cast<double>(c.size * c.frames);
      }
      const double high = *std::max_element(logits.begin(), logits.end());
      double total = 0.0;
      for (double& s : logits) total += s = std::exp(s - high);
      for (int64_t v = 0; v < c.joints; ++v) result[at((h * c.joints + v) * c.joints + w)] = logits[at(v)] / total;
    }
  }
  return result;
}

// The equations of tmor_fast/ops/dependency_attention.py, one clip after another.
Result define(const Case& c, bool epilogue) {
  Result r;
  const int64_t mixed = c.heads * c.in;
  const int64_t width = 2 * c.heads * c.size;
  r.z.resize(at(c.rows() * c.out));
  r.x.resize(c.x.size());
  r.embed.resize(c.embed.size());
  r.embed_bias.resize(c.embed_bias.size());
  r.dependency.resize(c.dependency.size());
  r.value.resize(c.value.size());
  r.value_bias.resize(c.value_bias.size());
  for (int64_t clip = 0; clip < c.clips; ++clip) {
    const Doubles embedding = embeddings(c, clip);
    const Doubles share = attention(c, embedding);
    const auto pair = [&](int64_t h, int64_t v, int64_t w) { return at((h * c.joints + v) * c.joints + w); };
    Doubles dmixing(share.size());
    for (int64_t t = 0; t < c.frames; ++t) {
      const int64_t first = (clip * c.frames + t) * c.joints;
      for (int64_t w = 0; w < c.joints; ++w) {
        Doubles y(at(mixed)), dy(at(mixed));
        for (int64_t h = 0; h < c.heads; ++h) {
          for (int64_t v = 0; v < c.joints; ++v) {
            const double weight = c.dependency[pair(h, v, w)] + share[pair(h, v, w)];
            for (int64_t k = 0; k < c.in; ++k) y[at(h * c.in + k)] += weight * c.x[at((first + v) * c.in + k)];
          }
        }
        for (int64_t o = 0; o < c.out; ++o) {
          const size_t place = at((first + w) * c.out + o);
          double sum = c.value_bias[at(o)];
          for (int64_t k = 0; k < mixed; ++k) {
            sum += y[at(k)] * c.value[at(o * mixed + k)];
            r.value[at(o * mixed + k)] += c.grad[place] * y[at(k)];
            dy[at(k)] += c.grad[place] * c.value[at(o * mixed + k)];
          }
          r.value_bias[at(o)] += c.grad[place];
          r.z[place] = epilogue ? std::max(0.0, sum + c.shortcut[place]) : sum;
        }
        for (int64_t h = 0; h < c.heads; ++h) {
          for (int64_t v = 0; v < c.joints; ++v) {
            const double weight = c.dependency[pair(h, v, w)] + share[pair(h, v, w)];
            for (int64_t k = 0; k < c.in; ++k) {
              r.x[at((first + v) * c.in + k)] += weight * dy[at(h * c.in + k)];
              dmixing[pair(h, v, w)] += dy[at(h * c.in + k)] * c.x[at((first + v) * c.in + k)];
            }
          }
        }
      }
    }
    Doubles dlogits(share.size());
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t w = 0; w < c.joints; ++w) {
        double mean = 0.0;
        for (int64_t v = 0; v < c.joints; ++v) mean += share[pair(h, v, w)] * dmixing[pair(h, v, w)];
        for (int64_t v = 0; v < c.joints; ++v) {
          r.dependency[pair(h, v, w)] += dmixing[pair(h, v, w)];
          dlogits[pair(h, v, w)] =
              share[pair(h, v, w)] * (dmixing[pair(h, v, w)] - mean) / static_cast<double>(c.size * c.frames);
        }
      }
    }
    const int64_t rows = c.frames * c.joints;
    Doubles dembedding(embedding.size());
    for (int64_t t = 0; t < c.frames; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t v = 0; v < c.joints; ++v) {
          for (int64_t w = 0; w < c.joints; ++w) {
            for (int64_t e = 0; e < c.size; ++e) {
              const size_t theta = at((t * c.joints + v) * width + h * c.size + e);
              const size_t phi = at((t * c.joints + w) * width + (c.heads + h) * c.size + e);
              dembedding[theta] += dlogits[pair(h, v, w)] * embedding[phi];
              dembedding[phi] += dlogits[pair(h, v, w)] * embedding[theta];
            }
          }
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t e = 0; e < width; ++e) {
        const double d = dembedding[at(row * width + e)];
        r.embed_bias[at(e)] += d;
        for (int64_t k = 0; k < c.in; ++k) {
          r.embed[at(e * c.in + k)] += d * c.x[at((clip * rows + row) * c.in + k)];
          r.x[at((clip * rows + row) * c.in + k)] += d * c.embed[at(e * c.in + k)];
        }
      }
    }
  }
  return r;
}

// A tensor in memory as the kernels take it, which is given back as float64.
class Tensor {
 public:
  Tensor(size_t n, DType dtype) : dtype_(dtype), single_(dtype == DType::float32 ? n : 0), half_(n - single_.size()) {}
  Tensor(const Doubles& values, DType dtype) : Tensor(values.size(), dtype) {
    const std::vector<float> single(values.begin(), values.end());
    const Kernel kernel = Kernel::portable();
    const int64_t n = static_cast<int64_t>(values.size());
    if (dtype == DType::float32) single_ = single;
    if (dtype == DType::float16) kernel.to_half(single.data(), half_.data(), n);
    if (dtype == DType::bfloat16) kernel.to_bfloat(single.data(), half_.data(), n);
  }
  void* data() { return dtype_ == DType::float32 ? static_cast<void*>(single_.data()) : half_.data(); }
  Doubles values() const {
    if (dtype_ == DType::float32) return {single_.begin(), single_.end()};
    const Kernel kernel = Kernel::portable();
    std::vector<float> single(half_.size());
    const auto convert = dtype_ == DType::float16 ? kernel.from_half : kernel.from_bfloat;
    convert(half_.data(), single.data(), static_cast<int64_t>(single.size()));
    return {single.begin(), single.end()};
  }

 private:
  DType dtype_;
  std::vector<float> single_;
  std::vector<uint16_t> half_;
};

// The largest error relative to the largest number, or to `least`: sums of many terms may cancel.
double error(const Doubles& ours, const Doubles& exact, double least = 1e-30) {
  double worst = 0.0;
  double scale = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double difference = std::abs(ours[i] - exact[i]);
    worst = worse(worst, difference);
    scale = std::max(scale, std::abs(exact[i]));
  }
  return worst / std::max(scale, least);
}

Result kernel(const Case& c, DType dtype, tmor::Isa isa, int threads, bool epilogue) {
  const auto single = [](const Doubles& values) { return std::vector<float>(values.begin(), values.end()); };
  std::vector<float> embed = single(c.embed), embed_bias = single(c.embed_bias), dependency = single(c.dependency);
  std::vector<float> value = single(c.value), value_bias = single(c.value_bias);
  Tensor x(c.x, dtype), shortcut(c.shortcut, dtype), grad(c.grad, dtype);
  Tensor z(c.grad.size(), dtype), dx(c.x.size(), dtype);
  CpuParams params;
  params.dtype = dtype;
  params.clips = c.clips;
  params.frames = c.frames;
  params.joints = c.joints;
  params.channels_in = c.in;
  params.channels_out = c.out;
  params.heads = c.heads;
  params.embedding = c.size;
  params.x = x.data();
  params.query_key_weight = embed.data();
  params.query_key_bias = embed_bias.data();
  params.dependency = dependency.data();
  params.value_weight = value.data();
  params.threads = threads;
  params.isa = isa;
  CpuForwardParams forward;
  static_cast<CpuParams&>(forward) = params;
  forward.value_bias = value_bias.data();
  forward.shortcut = epilogue ? shortcut.data() : nullptr;
  forward.relu = epilogue;
  forward.z = z.data();
  std::vector<float> statistics(epilogue ? 0 : 2 * at(c.out));
  forward.statistics = epilogue ? nullptr : statistics.data();
  tmor::dependency_attention::forward_cpu(forward);
  CpuBackwardParams backward;
  static_cast<CpuParams&>(backward) = params;
  backward.grad = grad.data();
  std::vector<float> dembed(embed.size()), dembed_bias(embed_bias.size()), ddependency(dependency.size());
  std::vector<float> dvalue(value.size()), dvalue_bias(value_bias.size());
  backward.grad_x = dx.data();
  backward.grad_query_key_weight = dembed.data();
  backward.grad_query_key_bias = dembed_bias.data();
  backward.grad_dependency = ddependency.data();
  backward.grad_value_weight = dvalue.data();
  backward.grad_value_bias = dvalue_bias.data();
  tmor::dependency_attention::backward_cpu(backward);
  const auto wide = [](const std::vector<float>& values) { return Doubles(values.begin(), values.end()); };
  return {z.values(),        dx.values(),  wide(dembed),      wide(dembed_bias),
          wide(ddependency), wide(dvalue), wide(dvalue_bias), wide(statistics)};
}

// Mean and biased variance of the columns of z, (2, Cout).
Doubles moments(const Doubles& z, int64_t columns) {
  const size_t n = at(columns);
  const double rows = static_cast<double>(z.size() / n);
  Doubles result(2 * n);
  for (size_t i = 0; i < z.size(); ++i) result[i % n] += z[i] / rows;
  for (size_t i = 0; i < z.size(); ++i) {
    const double away = z[i] - result[i % n];
    result[n + i % n] += away * away / rows;
  }
  return result;
}

void check(const Case& c, DType dtype, bool epilogue) {
  const Result exact = define(c, epilogue);
  for (const tmor::Isa isa : tmor::supported_isas()) {
    if (isa > tmor::Isa::avx512) continue;
    for (const int threads : {1, 3}) {
      const Result ours = kernel(c, dtype, isa, threads, epilogue);
      const double terms = std::sqrt(static_cast<double>(c.rows()));
      const double rounding = dtype == DType::float32 ? 2e-6 : dtype == DType::float16 ? 6e-4 : 5e-3;
      const Doubles statistics = epilogue ? Doubles() : moments(exact.z, c.out);
      const double errors[] = {error(ours.z, exact.z) / rounding,
                               error(ours.x, exact.x) / rounding,
                               error(ours.embed, exact.embed) / 2e-5,
                               error(ours.embed_bias, exact.embed_bias) / 2e-5,
                               error(ours.dependency, exact.dependency, terms) / 2e-6,
                               error(ours.value, exact.value, terms) / 2e-6,
                               error(ours.value_bias, exact.value_bias, terms) / 2e-6,
                               error(ours.statistics, statistics) / (10 * rounding)};
      for (size_t i = 0; i < 8; ++i) {
        if (errors[i] <= 1.0) continue;
        ++failures;
        std::printf(
            "FAILED: output %zu is off by %.2f times what is allowed: N %ld T %ld V %ld Cin %ld Cout %ld H %ld ", i,
            errors[i], static_cast<long>(c.clips), static_cast<long>(c.frames), static_cast<long>(c.joints),
            static_cast<long>(c.in), static_cast<long>(c.out), static_cast<long>(c.heads));
        std::printf("Ce %ld, %s, %d threads, dtype %d\n", static_cast<long>(c.size), tmor::isa_name(isa), threads,
                    static_cast<int>(dtype));
      }
    }
  }
}

void check_attention() {
  Random random(3);
  const DType dtypes[] = {DType::float32, DType::float16, DType::bfloat16};
  int64_t number = 0;
  for (const int64_t joints : {1, 5, 17}) {
    for (const int64_t frames : {1, 7, 33}) {
      for (const int64_t in : {1, 3, 16, 20}) {
        for (const int64_t out : {1, 16, 33}) {
          const int64_t clips = number % 4 == 0 ? 7 : 1;  // one after another, or threads that share one
          const int64_t heads = number % 3 + 1;
          const int64_t size = number % 5 == 0 ? 16 : number % 5;
          const DType dtype = dtypes[number % 3];
          check(make_case(&random, clips, frames, joints, in, out, heads, size, dtype), dtype, number % 2 == 0);
          ++number;
        }
      }
    }
  }
  // Panels that are full, and steps that are cut in chunks.
  check(make_case(&random, 2, 12, 17, 144, 80, 2, 20, DType::float32), DType::float32, true);
  check(make_case(&random, 1, 2, 153, 4, 8, 2, 3, DType::float32), DType::float32, false);
}

void check_interrupt() {
  Random random(4);
  Case c = make_case(&random, 64, 100, 25, 32, 32, 3, 8, DType::float32);
  std::vector<float> x(c.x.begin(), c.x.end()), embed(c.embed.begin(), c.embed.end());
  std::vector<float> embed_bias(c.embed_bias.begin(), c.embed_bias.end()), value(c.value.begin(), c.value.end());
  std::vector<float> dependency(c.dependency.begin(), c.dependency.end()), z(c.grad.size());
  CpuForwardParams forward;
  forward.clips = c.clips;
  forward.frames = c.frames;
  forward.joints = c.joints;
  forward.channels_in = c.in;
  forward.channels_out = c.out;
  forward.heads = c.heads;
  forward.embedding = c.size;
  forward.x = x.data();
  forward.query_key_weight = embed.data();
  forward.query_key_bias = embed_bias.data();
  forward.dependency = dependency.data();
  forward.value_weight = value.data();
  forward.value_bias = embed_bias.data();
  forward.z = z.data();
  forward.interrupted = [] { return true; };
  bool stopped = false;
  try {
    // A call may be over before it is asked for the first time.
    for (int i = 0; i < 1000 && !stopped; ++i) tmor::dependency_attention::forward_cpu(forward);
  } catch (const tmor::dependency_attention::CpuInterrupted&) {
    stopped = true;
  }
  if (stopped) return;
  ++failures;
  std::printf("FAILED: a call that is interrupted goes on\n");
}

// Every half comes back from float32 as itself, and every float32 becomes the nearest one, ties to even.
void check_halves(const Kernel& kernel, const char* name) {
  const auto bits_of = [](float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  };
  for (const bool brain : {false, true}) {
    const auto to = brain ? kernel.to_bfloat : kernel.to_half;
    const auto from = brain ? kernel.from_bfloat : kernel.from_half;
    std::vector<uint16_t> halves(65536), back(65536);
    std::vector<float> singles(65536);
    for (size_t i = 0; i < 65536; ++i) halves[i] = static_cast<uint16_t>(i);
    from(halves.data(), singles.data(), 65536);
    to(singles.data(), back.data(), 65536);
    int64_t wrong = 0;
    for (size_t i = 0; i < 65536; ++i) {
      wrong += std::isnan(singles[i]) ? !std::isnan(singles[back[i]]) : back[i] != halves[i];
    }
    const uint16_t infinite = brain ? 0x7f80 : 0x7c00;
    std::vector<float> between;
    std::vector<uint16_t> expected;
    for (uint16_t i = 0; i + 1 < infinite; ++i) {
      const float middle = 0.5F * singles[i] + 0.5F * singles[i + 1U];
      if (bits_of(middle) < 0x00800000U) continue;  // the sum of halves of denormal float32 may round
      between.insert(between.end(), {middle, std::nextafter(middle, 0.0F), -std::nextafter(middle, INFINITY)});
      const uint16_t even = i % 2 == 0 ? i : static_cast<uint16_t>(i + 1);
      expected.insert(expected.end(), {even, i, static_cast<uint16_t>((i + 1) | 0x8000)});
    }
    std::vector<uint16_t> found(between.size());
    to(between.data(), found.data(), static_cast<int64_t>(between.size()));
    for (size_t i = 0; i < found.size(); ++i) wrong += found[i] != expected[i];
    const float large[] = {3.4e38F, -INFINITY, 65519.9F, 65520.0F};
    uint16_t largest[4];
    to(large, largest, 4);
    if (!brain) wrong += largest[0] != 0x7c00 || largest[1] != 0xfc00 || largest[2] != 0x7bff || largest[3] != 0x7c00;
    if (wrong == 0) continue;
    ++failures;
    std::printf("FAILED: %ld conversions of %s, %s\n", static_cast<long>(wrong), brain ? "bfloat16" : "float16", name);
  }
}

}  // namespace

int main() {
  std::string names;
  for (const tmor::Isa isa : tmor::supported_isas()) {
    if (isa > tmor::Isa::avx512) continue;
    check_halves(tmor::kernel_for<Kernel>(isa), tmor::isa_name(isa));
    names += std::string(" ") + tmor::isa_name(isa);
  }
  check_attention();
  check_interrupt();
  if (failures != 0) return EXIT_FAILURE;
  std::printf("all dependency_attention CPU checks passed, instruction sets:%s\n", names.c_str());
  return EXIT_SUCCESS;
}
