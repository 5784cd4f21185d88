// The equations by plain loops in float64, one thread a number, every intermediate in memory: slow, and the first thing
// to compare with when the tile programs are suspected.
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_plan.hpp"

namespace tmor::dependency_attention {

enum class NaiveStep : int {
  embedding,        // theta and phi
  logits,           //
  softmax,          // a column w a thread
  value,            // z
  statistics,       // of z before it is rounded, a channel a thread
  pull,             // the gradient of the mixed values
  mixing_gradient,  // of M[v, w]
  logit_gradient,   // a column w a thread
  embedding_gradient,
  x_gradient,
  dependency_gradient,
  query_key_weight_gradient,
  query_key_bias_gradient,
  value_weight_gradient,
  value_bias_gradient,
};

class Naive {
 public:
  explicit Naive(const CudaParams& params, bool backward) : p_(params), shape_(shape_of(params)) {
    Carver carver(params.workspace);
    const int64_t all = shape_.clips * shape_.heads * shape_.square();
    embedding_ = carver.take<double>(rows() * wide());
    attention_ = carver.take<double>(all);
    check_statistics(params, backward);
    if (!backward && params.statistics != nullptr) exact_ = carver.take<double>(rows() * shape_.channels_out);
    if (backward) {
      pull_ = carver.take<double>(rows() * shape_.heads * shape_.channels_in);
      mixing_gradient_ = carver.take<double>(all);
      logit_gradient_ = carver.take<double>(all);
      embedding_gradient_ = carver.take<double>(rows() * wide());
    }
    bytes_ = carver.used();
    if (params.workspace != nullptr && params.workspace_bytes < bytes_) {
      throw std::invalid_argument("dependency_attention: the workspace is too small");
    }
  }

  int64_t bytes() const { return bytes_; }

  // Calls run(step, count): `one(step, i)` is then to be called for every i < count.
  template <typename Run>
  void forward(const Run& run) const {
    attend(run);
    run(NaiveStep::value, rows() * shape_.channels_out);
    if (p_.statistics != nullptr) run(NaiveStep::statistics, shape_.channels_out);
  }

  template <typename Run>
  void backward(const Run& run) const {
    const int64_t inputs = shape_.channels_in;
    attend(run);
    run(NaiveStep::pull, rows() * shape_.heads * inputs);
    run(NaiveStep::mixing_gradient, shape_.clips * shape_.heads * shape_.square());
    run(NaiveStep::logit_gradient, shape_.clips * shape_.heads * shape_.joints);
    run(NaiveStep::embedding_gradient, rows() * wide());
    if (p_.grad_x != nullptr) run(NaiveStep::x_gradient, rows() * inputs);
    if (p_.grad_dependency != nullptr) run(NaiveStep::dependency_gradient, shape_.heads * shape_.square());
    if (p_.grad_query_key_weight != nullptr) run(NaiveStep::query_key_weight_gradient, wide() * inputs);
    if (p_.grad_query_key_bias != nullptr) run(NaiveStep::query_key_bias_gradient, wide());
    if (p_.grad_value_weight != nullptr) {
      run(NaiveStep::value_weight_gradient, int64_t{shape_.channels_out} * shape_.heads * inputs);
    }
    if (p_.grad_value_bias != nullptr) run(NaiveStep::value_bias_gradient, shape_.channels_out);
  }

  TMOR_BLOCK_CODE void one(NaiveStep step, int64_t i) const {
    switch (step) {
      case NaiveStep::embedding:
        return embed(i);
      case NaiveStep::logits:
        return logit(i);
      case NaiveStep::softmax:
        return softmax(i);
      case NaiveStep::value:
        return value(i);
      case NaiveStep::statistics:
        return statistics(i);
      case NaiveStep::pull:
        return pull(i);
      case NaiveStep::mixing_gradient:
        return mixing_gradient(i);
      case NaiveStep::logit_gradient:
        return logit_gradient(i);
      case NaiveStep::embedding_gradient:
        return embedding_gradient(i);
      case NaiveStep::x_gradient:
        return x_gradient(i);
      case NaiveStep::dependency_gradient:
        return dependency_gradient(i);
      case NaiveStep::query_key_weight_gradient:
        return query_key_weight_gradient(i);
      case NaiveStep::query_key_bias_gradient:
        return query_key_bias_gradient(i);
      case NaiveStep::value_weight_gradient:
        return value_weight_gradient(i);
      case NaiveStep::value_bias_gradient:
        return value_bias_gradient(i);
    }
  }

 private:
  TMOR_HOST_DEVICE int64_t rows() const { return shape_.clips * shape_.frames * shape_.joints; }
  TMOR_HOST_DEVICE int64_t wide() const { return int64_t{2} * shape_.heads * shape_.embedding; }

  template <typename Run>
  void attend(const Run& run) const {
    run(NaiveStep::embedding, rows() * wide());
    run(NaiveStep::logits, shape_.clips * shape_.heads * shape_.square());
    run(NaiveStep::softmax, shape_.clips * shape_.heads * shape_.joints);
  }

  TMOR_BLOCK_CODE double read(const void* values, int64_t i) const {
    if (p_.dtype == DType::float16) return static_cast<double>(widen(static_cast<const Float16*>(values)[i]));
    if (p_.dtype == DType::bfloat16) return static_cast<double>(widen(static_cast<const BFloat16*>(values)[i]));
    return static_cast<double>(static_cast<const float*>(values)[i]);
  }

  TMOR_BLOCK_CODE void write(void* values, int64_t i, double value) const {
    const auto rounded = static_cast<float>(value);
    if (p_.dtype == DType::float16) {
      static_cast<Float16*>(values)[i] = narrow<Float16>(rounded);
    } else if (p_.dtype == DType::bfloat16) {
      static_cast<BFloat16*>(values)[i] = narrow<BFloat16>(rounded);
    } else {
      static_cast<float*>(values)[i] = rounded;
    }
  }

  TMOR_BLOCK_CODE double terms() const {
    return static_cast<double>(shape_.embedding) * static_cast<double>(shape_.frames);
  }

  // A + D of a clip and a head.
  TMOR_BLOCK_CODE double mixing(int64_t clip, int64_t head, int64_t v, int64_t w) const {
    const int64_t inside = (head * shape_.joints + v) * shape_.joints + w;
    return attention_[clip * shape_.heads * shape_.square() + inside] + read(p_.dependency, inside);
  }

  // sum_v x[v] M[v, w] of row (clip, frame, w), channel c.
  TMOR_BLOCK_CODE double mixed(int64_t row, int64_t head, int64_t c) const {
    const int64_t w = row % shape_.joints;
    const int64_t clip = row / (shape_.frames * shape_.joints);
    double sum = 0.0;
    for (int64_t v = 0; v < shape_.joints; ++v) {
      sum += read(p_.x, (row - w + v) * shape_.channels_in + c) * mixing(clip, head, v, w);
    }
    return sum;
  }

  TMOR_BLOCK_CODE void embed(int64_t i) const {
    const int64_t row = i / wide();
    const int64_t j = i % wide();
    double sum = read(p_.query_key_bias, j);
    for (int64_t c = 0; c < shape_.channels_in; ++c) {
      sum += read(p_.x, row * shape_.channels_in + c) * read(p_.query_key_weight, j * shape_.channels_in + c);
    }
    embedding_[i] = sum;
  }

  TMOR_BLOCK_CODE void logit(int64_t i) const {
    const int64_t w = i % shape_.joints;
    const int64_t v = i / shape_.joints % shape_.joints;
    const int64_t head = i / shape_.square() % shape_.heads;
    const int64_t clip = i / shape_.square() / shape_.heads;
    double sum = 0.0;
    for (int64_t t = 0; t < shape_.frames; ++t) {
      const int64_t base = (clip * shape_.frames + t) * shape_.joints;
      for (int64_t e = 0; e < shape_.embedding; ++e) {
        sum += embedding_[(base + v) * wide() + head * shape_.embedding + e] *
               embedding_[(base + w) * wide() + (shape_.heads + head) * shape_.embedding + e];
      }
    }
    attention_[i] = sum / terms();
  }

  TMOR_BLOCK_CODE void softmax(int64_t i) const {
    double* column = attention_ + i / shape_.joints * shape_.square() + i % shape_.joints;
    double largest = column[0];
    for (int64_t v = 1; v < shape_.joints; ++v) largest = fmax(largest, column[v * shape_.joints]);
    double sum = 0.0;
    for (int64_t v = 0; v < shape_.joints; ++v) sum += exp(column[v * shape_.joints] - largest);
    for (int64_t v = 0; v < shape_.joints; ++v) {
      column[v * shape_.joints] = exp(column[v * shape_.joints] - largest) / sum;
    }
  }

  TMOR_BLOCK_CODE void value(int64_t i) const {
    const int64_t row = i / shape_.channels_out;
    const int64_t o = i % shape_.channels_out;
    double sum = read(p_.value_bias, o);
    for (int64_t k = 0; k < int64_t{shape_.heads} * shape_.channels_in; ++k) {
      sum += mixed(row, k / shape_.channels_in, k % shape_.channels_in) *
             read(p_.value_weight, o * shape_.heads * shape_.channels_in + k);
    }
    if (p_.shortcut != nullptr) sum += read(p_.shortcut, i);
    write(p_.z, i, p_.relu && sum < 0.0 ? 0.0 : sum);
    if (exact_ != nullptr) exact_[i] = sum;
  }

  TMOR_BLOCK_CODE void statistics(int64_t o) const {
    const auto count = static_cast<double>(rows());
    double mean = 0.0;
    for (int64_t row = 0; row < rows(); ++row) mean += exact_[row * shape_.channels_out + o];
    mean /= count;
    double squares = 0.0;
    for (int64_t row = 0; row < rows(); ++row) {
      const double step = exact_[row * shape_.channels_out + o] - mean;
      squares += step * step;
    }
    p_.statistics[o] = static_cast<float>(mean);
    p_.statistics[shape_.channels_out + o] = static_cast<float>(squares / count);
  }

  TMOR_BLOCK_CODE void pull(int64_t i) const {
    const int64_t columns = int64_t{shape_.heads} * shape_.channels_in;
    const int64_t row = i / columns;
    double sum = 0.0;
    for (int64_t o = 0; o < shape_.channels_out; ++o) {
      sum += read(p_.grad_z, row * shape_.channels_out + o) * read(p_.value_weight, o * columns + i % columns);
    }
    pull_[i] = sum;
  }

  TMOR_BLOCK_CODE void mixing_gradient(int64_t i) const {
    const int64_t w = i % shape_.joints;
    const int64_t v = i / shape_.joints % shape_.joints;
    const int64_t head = i / shape_.square() % shape_.heads;
    const int64_t clip = i / shape_.square() / shape_.heads;
    double sum = 0.0;
    for (int64_t t = 0; t < shape_.frames; ++t) {
      const int64_t base = (clip * shape_.frames + t) * shape_.joints;
      for (int64_t c = 0; c < shape_.channels_in; ++c) {
        sum += read(p_.x, (base + v) * shape_.channels_in + c) *
               pull_[((base + w) * shape_.heads + head) * shape_.channels_in + c];
      }
    }
    mixing_gradient_[i] = sum;
  }

  TMOR_BLOCK_CODE void logit_gradient(int64_t i) const {
    const int64_t first = i / shape_.joints * shape_.square() + i % shape_.joints;
    double mean = 0.0;
    for (int64_t v = 0; v < shape_.joints; ++v) {
      mean += attention_[first + v * shape_.joints] * mixing_gradient_[first + v * shape_.joints];
    }
    for (int64_t v = 0; v < shape_.joints; ++v) {
      const int64_t k = first + v * shape_.joints;
      logit_gradient_[k] = attention_[k] * (mixing_gradient_[k] - mean) / terms();
    }
  }

  TMOR_BLOCK_CODE void embedding_gradient(int64_t i) const {
    const int64_t row = i / wide();
    const int64_t column = i % wide();
    const int64_t joint = row % shape_.joints;
    const int64_t half = int64_t{shape_.heads} * shape_.embedding;
    const int64_t head = column % half / shape_.embedding;
    const double* logits =
        logit_gradient_ + (row / (shape_.frames * shape_.joints) * shape_.heads + head) * shape_.square();
    double sum = 0.0;
    for (int64_t other = 0; other < shape_.joints; ++other) {
      const double from = embedding_[(row - joint + other) * wide() + (column < half ? column + half : column - half)];
      sum += from * (column < half ? logits[joint * shape_.joints + other] : logits[other * shape_.joints + joint]);
    }
    embedding_gradient_[i] = sum;
  }

  TMOR_BLOCK_CODE void x_gradient(int64_t i) const {
    const int64_t row = i / shape_.channels_in;
    const int64_t c = i % shape_.channels_in;
    const int64_t v = row % shape_.joints;
    const int64_t clip = row / (shape_.frames * shape_.joints);
    double sum = 0.0;
    for (int64_t h = 0; h < shape_.heads; ++h) {
      for (int64_t w = 0; w < shape_.joints; ++w) {
        sum += mixing(clip, h, v, w) * pull_[((row - v + w) * shape_.heads + h) * shape_.channels_in + c];
      }
    }
    for (int64_t j = 0; j < wide(); ++j) {
      sum += embedding_gradient_[row * wide() + j] * read(p_.query_key_weight, j * shape_.channels_in + c);
    }
    write(p_.grad_x, i, sum);
  }

  TMOR_BLOCK_CODE void dependency_gradient(int64_t i) const {
    double sum = 0.0;
    for (int64_t n = 0; n < shape_.clips; ++n) sum += mixing_gradient_[n * shape_.heads * shape_.square() + i];
    write(p_.grad_dependency, i, sum);
  }

  TMOR_BLOCK_CODE void query_key_weight_gradient(int64_t i) const {
    double sum = 0.0;
    for (int64_t row = 0; row < rows(); ++row) {
      sum += embedding_gradient_[row * wide() + i / shape_.channels_in] *
             read(p_.x, row * shape_.channels_in + i % shape_.channels_in);
    }
    write(p_.grad_query_key_weight, i, sum);
  }

  TMOR_BLOCK_CODE void query_key_bias_gradient(int64_t i) const {
    double sum = 0.0;
    for (int64_t row = 0; row < rows(); ++row) sum += embedding_gradient_[row * wide() + i];
    write(p_.grad_query_key_bias, i, sum);
  }

  TMOR_BLOCK_CODE void value_weight_gradient(int64_t i) const {
    const int64_t columns = int64_t{shape_.heads} * shape_.channels_in;
    const int64_t o = i / columns;
    const int64_t k = i % columns;
    double sum = 0.0;
    for (int64_t row = 0; row < rows(); ++row) {
      sum +=
          read(p_.grad_z, row * shape_.channels_out + o) * mixed(row, k / shape_.channels_in, k % shape_.channels_in);
    }
    write(p_.grad_value_weight, i, sum);
  }

  TMOR_BLOCK_CODE void value_bias_gradient(int64_t i) const {
    double sum = 0.0;
    for (int64_t row = 0; row < rows(); ++row) sum += read(p_.grad_z, row * shape_.channels_out + i);
    write(p_.grad_value_bias, i, sum);
  }

  CudaParams p_;
  Shape shape_;
  double* embedding_ = nullptr;           // (rows, wide)
  double* attention_ = nullptr;           // (clips, heads, V, V)
  double* exact_ = nullptr;               // (rows, Cout), z for its statistics
  double* pull_ = nullptr;                // (rows, heads Cin)
  double* mixing_gradient_ = nullptr;     // (clips, heads, V, V)
  double* logit_gradient_ = nullptr;      // (clips, heads, V, V)
  double* embedding_gradient_ = nullptr;  // (rows, wide)
  int64_t bytes_ = 0;
};

}  // namespace tmor::dependency_attention
