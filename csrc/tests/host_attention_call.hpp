// The tensors of a call of dependency_attention's CUDA programs, for the tests that play them on a host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "attention_truth.hpp"
#include "dependency_attention/cuda_plan.hpp"
#include "host_attention_block.hpp"

namespace tmor::dependency_attention {

inline void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

// Numbers that start `shift` numbers behind a multiple of 256 bytes, with guards on either side.
template <typename Number>
class Guarded {
 public:
  explicit Guarded(int64_t size, int64_t shift = 0) : size_(size), storage_(at(size + 1024 / kBytes)) {
    for (Number& value : storage_) value = narrow<Number>(-77.0F);
    const auto start = reinterpret_cast<uintptr_t>(storage_.data() + 8);
    data_ = reinterpret_cast<Number*>((start + 255) / 256 * 256) + shift;
  }
  Guarded(const std::vector<double>& values, int64_t shift) : Guarded(static_cast<int64_t>(values.size()), shift) {
    for (size_t i = 0; i < values.size(); ++i) data_[i] = narrow<Number>(static_cast<float>(values[i]));
  }
  Number* get() { return data_; }
  Range range() const { return {data_, data_ + size_}; }
  void check(const std::vector<double>& want, double tolerance, const std::string& what) const {
    double square = 1e-30;
    for (const double value : want) square += value * value;
    const double size = std::sqrt(square / static_cast<double>(want.size()));
    for (size_t i = 0; i < want.size(); ++i) {
      const double got = static_cast<double>(widen(data_[i]));
      const double error = std::fabs(got - want[i]);
      require(error <= tolerance * (size + std::fabs(want[i])),
              what + "[" + std::to_string(i) + "]: " + std::to_string(got) + ", not " + std::to_string(want[i]));
    }
    for (int64_t i = -8; i < 0; ++i) {
      require(widen(data_[i]) == -77.0F && widen(data_[size_ - 1 - i]) == -77.0F, what + ": written outside");
    }
  }

 private:
  static constexpr int64_t kBytes = sizeof(Number);
  int64_t size_;
  std::vector<Number> storage_;
  Number* data_;
};

template <typename Number>
constexpr double kTolerance = std::is_same<Number, float>::value     ? 2e-5
                              : std::is_same<Number, Float16>::value ? 6e-3
                                                                     : 5e-2;

inline CudaParams sizes_of(const Case& c) {
  CudaParams params;
  params.clips = c.clips;
  params.frames = c.frames;
  params.joints = c.joints;
  params.channels_in = c.inputs;
  params.channels_out = c.outputs;
  params.heads = c.heads;
  params.embedding = c.embedding;
  params.scale = std::exp2(-std::nearbyint(std::log2(static_cast<double>(c.embedding * c.frames)) / 2));
  return params;
}

// A workspace full of ones.
class Workspace {
 public:
  void give(CudaParams* params, int64_t bytes) {
    memory_.assign(at(bytes) + 256, 0xff);
    params->workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_.data()) + 255) / 256 * 256);
    params->workspace_bytes = bytes;
  }
  Range range() const { return {memory_.data(), memory_.data() + memory_.size()}; }

 private:
  std::vector<unsigned char> memory_;
};

// All tensors of a call, and the call's parameters that point to them.
template <typename Number>
struct Call {
  Call(const Case& c, const Tensors& t, int64_t shift)
      : x(t.x, shift),
        qk_weight(t.qk_weight, 0),
        qk_bias(t.qk_bias, 0),
        dependency(t.dependency, 0),
        value_weight(t.value_weight, 0),
        value_bias(t.value_bias, 0),
        shortcut(t.shortcut, 0),
        grad(t.grad, shift),
        z(c.rows() * c.outputs),
        grad_x(c.rows() * c.inputs),
        grad_dependency(c.heads * c.joints * c.joints),
        grad_value(c.outputs * c.heads * c.inputs),
        params(sizes_of(c)) {
    params.dtype = std::is_same<Number, float>::value     ? tmor::DType::float32
                   : std::is_same<Number, Float16>::value ? tmor::DType::float16
                                                          : tmor::DType::bfloat16;
    params.x = x.get();
    params.query_key_weight = qk_weight.get();
    params.query_key_bias = qk_bias.get();
    params.dependency = dependency.get();
    params.value_weight = value_weight.get();
    params.value_bias = value_bias.get();
    params.shortcut = c.shortcut ? shortcut.get() : nullptr;
    params.relu = c.relu;
    params.z = z.get();
    params.grad_z = grad.get();
    params.grad_x = grad_x.get();
    params.grad_dependency = grad_dependency.get();
    params.grad_value_weight = grad_value.get();
    params.wants_attention = true;
  }

  Guarded<Number> x, qk_weight, qk_bias, dependency, value_weight, value_bias, shortcut, grad;
  Guarded<Number> z, grad_x, grad_dependency, grad_value;
  CudaParams params;
  Workspace workspace;
};

}  // namespace tmor::dependency_attention
