// Both passes of batch_norm_relu on the CPU. Rows are cut into parts by their number alone, and what the parts add up
// is merged in their order, so results do not depend on the threads. Rows of 16 bits are widened a few at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "batch_norm_relu/kernel.hpp"
#include "batch_norm_relu/params.hpp"
#include "common/buffer.hpp"
#include "common/kernel_for.hpp"
#include "common/merge_moments.hpp"
#include "common/threads.hpp"

namespace tmor::batch_norm_relu {
namespace {

using Floats = RawBuffer<float>;
using Doubles = Buffer<double>;

class Rows {
 public:
  static constexpr int64_t kRun = 64;  // rows that are widened and worked on at a time

  explicit Rows(const Params& params)
      : params_(params),
        kernel_(kernel_for<Kernel>(params.isa)),
        // Enough parts for any number of cores; few enough that merging them costs nothing.
        parts_(std::max<int64_t>(1, std::min<int64_t>(kMostParts, params.rows / kRun))),
        threads_(static_cast<int>(std::min<int64_t>(std::max(1, params.threads), parts_))) {}

  const Kernel& kernel() const { return kernel_; }
  int64_t parts() const { return parts_; }
  int threads() const { return threads_; }
  int64_t first(int64_t part) const { return part * params_.rows / parts_; }

  // Calls work(part, thread) for every part.
  template <typename Work>
  void for_each_part(const Work& work) const {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t part = 0; part < parts_; ++part) work(part, this_thread());
  }

  // Calls work(row, rows) for a few rows of the part at a time.
  template <typename Work>
  void for_each_run(int64_t part, const Work& work) const {
    const int64_t end = first(part + 1);
    for (int64_t row = first(part); row < end; row += kRun) work(row, std::min(kRun, end - row));
  }

  bool wide() const { return params_.dtype == DType::float32; }
  // Floats that hold a run of a tensor, none where it is float32 itself.
  int64_t room() const { return wide() ? 0 : kRun * params_.channels; }

  // Some rows in float32: where they lie, or in `room`.
  const float* load(const void* tensor, int64_t row, int64_t rows, float* room) const {
    if (tensor == nullptr) return nullptr;
    const int64_t offset = row * params_.channels;
    if (wide()) return static_cast<const float*>(tensor) + offset;
    const auto convert = params_.dtype == DType::float16 ? kernel_.from_half : kernel_.from_bfloat;
    convert(static_cast<const uint16_t*>(tensor) + offset, room, rows * params_.channels);
    return room;
  }

  // Where results of some rows go: their place, or `room`, which `store` then copies there.
  float* target(void* tensor, int64_t row, float* room) const {
    if (tensor == nullptr) return nullptr;
    return wide() ? static_cast<float*>(tensor) + row * params_.channels : room;
  }
  void store(const float* values, void* tensor, int64_t row, int64_t rows) const {
    if (wide() || tensor == nullptr) return;
    const auto convert = params_.dtype == DType::float16 ? kernel_.to_half : kernel_.to_bfloat;
    convert(values, static_cast<uint16_t*>(tensor) + row * params_.channels, rows * params_.channels);
  }

 private:
  static constexpr int64_t kMostParts = 256;
  const Params& params_;
  const Kernel kernel_;
  const int64_t parts_;
  const int threads_;
};

// Mean and scale = weight / sqrt(variance + eps) of every channel; the inverse deviation too.
struct Scales {
  Scales(const Params& params, const float* statistics)
      : mean(statistics), inverse(params.channels), scale(params.channels) {
    for (int64_t j = 0; j < params.channels; ++j) {
      const double variance = static_cast<double>(statistics[params.channels + j]);
      inverse[j] = static_cast<float>(1.0 / std::sqrt(variance + params.eps));
      scale[j] = inverse[j] * params.weight[j];
    }
  }
  const float* mean;
  Floats inverse;
  Floats scale;
};

void find_statistics(const ForwardParams& params, const Rows& rows) {
  const int64_t n = params.channels;
  // Columns of float32 are read where they lie, a part at a time; others a run at a time.
  const int64_t runs_a_part = params.rows / rows.parts() / Rows::kRun + 2;
  const int64_t pieces = rows.wide() ? 1 : runs_a_part;
  PartMoments found(rows.parts() * pieces, n);
  std::vector<Floats> room;
  for (int i = 0; i < rows.threads(); ++i) room.emplace_back(3 * n + rows.room());
  rows.for_each_part([&](int64_t part, int thread) {
    float* mine = room[static_cast<size_t>(thread)].data();
    if (rows.wide()) {
      const int64_t count = rows.first(part + 1) - rows.first(part);
      found.set_rows(part, count);
      const float* x = rows.load(params.x, rows.first(part), count, nullptr);
      rows.kernel().moments(x, n, count, n, mine, found.mean(part), found.squares(part));
      return;
    }
    int64_t piece = part * pieces;
    rows.for_each_run(part, [&](int64_t row, int64_t count) {
      found.set_rows(piece, count);
      const float* x = rows.load(params.x, row, count, mine + 3 * n);
      rows.kernel().moments(x, n, count, n, mine, found.mean(piece), found.squares(piece));
      ++piece;
    });
  });
  found.write(params.statistics);
}

}  // namespace

void forward_cpu(const ForwardParams& params) {
  const Rows rows(params);
  if (!params.given) find_statistics(params, rows);
  const Scales scales(params, params.statistics);
  std::vector<Floats> room;
  for (int i = 0; i < rows.threads(); ++i) room.emplace_back(2 * rows.room());
  rows.for_each_part([&](int64_t part, int thread) {
    float* first = room[static_cast<size_t>(thread)].data();
    rows.for_each_run(part, [&](int64_t row, int64_t count) {
      const float* x = rows.load(params.x, row, count, first);
      const float* shortcut = rows.load(params.shortcut, row, count, first + rows.room());
      float* out = rows.target(params.out, row, first);
      rows.kernel().normalise(x, shortcut, scales.mean, scales.scale.data(), params.bias, params.relu, out, count,
                              params.channels);
      rows.store(out, params.out, row, count);
    });
  });
}

namespace {

class Backward {
 public:
  explicit Backward(const BackwardParams& params)
      : params_(params), rows_(params), scales_(params, params.statistics), sums_(2 * rows_.parts() * params.channels) {
    for (int i = 0; i < rows_.threads(); ++i) room_.emplace_back(2 * params.channels + 3 * rows_.room());
  }

  void run() {
    if (params_.grad_x != nullptr || params_.grad_weight != nullptr || params_.grad_bias != nullptr ||
        params_.grad_shortcut != nullptr) {
      sum_gradients();
    }
    merge();
    if (params_.grad_x != nullptr) write_gradient();
  }

 private:
  // Where g, the gradient before the ReLU, is kept until the second pass: as the gradient of the shortcut if there is
  // one, else in the place of the result.
  void* kept() const { return params_.grad_shortcut != nullptr ? params_.grad_shortcut : params_.grad_x; }

  void sum_gradients() {
    const int64_t n = params_.channels;
    rows_.for_each_part([&](int64_t part, int thread) {
      float* room = room_[static_cast<size_t>(thread)].data();
      double* sums = sums_.data() + 2 * part * n;
      rows_.for_each_run(part, [&](int64_t row, int64_t count) {
        float* wide = room + 2 * n;
        const float* grad = rows_.load(params_.grad, row, count, wide);
        const float* out = rows_.load(params_.out, row, count, wide + rows_.room());
        const float* x = rows_.load(params_.x, row, count, wide + 2 * rows_.room());
        float* masked = out == nullptr ? nullptr : rows_.target(kept(), row, wide);
        rows_.kernel().gradient_sums(grad, out, x, scales_.mean, masked, count, n, room, sums, sums + n);
        if (masked != nullptr) rows_.store(masked, kept(), row, count);
      });
    });
  }

  void merge() {
    const int64_t n = params_.channels;
    const double count = static_cast<double>(params_.rows);
    for (int64_t j = 0; j < n; ++j) {
      double first = 0.0;
      double second = 0.0;
      for (int64_t part = 0; part < rows_.parts(); ++part) {
        first += sums_[2 * part * n + j];
        second += sums_[(2 * part + 1) * n + j];
      }
      const double inverse = static_cast<double>(scales_.inverse[j]);
      if (params_.grad_bias != nullptr) params_.grad_bias[j] = static_cast<float>(first);
      if (params_.grad_weight != nullptr) params_.grad_weight[j] = static_cast<float>(second * inverse);
      constant_.push_back(static_cast<float>(first / count));
      slope_.push_back(static_cast<float>(second * inverse * inverse / count));
    }
  }

  void write_gradient() {
    const int64_t n = params_.channels;
    const void* from = params_.out == nullptr ? params_.grad : kept();
    rows_.for_each_part([&](int64_t part, int thread) {
      float* room = room_[static_cast<size_t>(thread)].data();
      rows_.for_each_run(part, [&](int64_t row, int64_t count) {
        const float* g = rows_.load(from, row, count, room);
        const float* x = rows_.load(params_.x, row, count, room + rows_.room());
        float* result = rows_.target(params_.grad_x, row, room);
        rows_.kernel().gradient(g, x, scales_.mean, constant_.data(), slope_.data(), scales_.scale.data(), result,
                                count, n);
        rows_.store(result, params_.grad_x, row, count);
      });
    });
  }

  const BackwardParams& params_;
  const Rows rows_;
  const Scales scales_;
  Doubles sums_;
  std::vector<Floats> room_;
  std::vector<float> constant_;
  std::vector<float> slope_;
};

}  // namespace

void backward_cpu(const BackwardParams& params) { Backward(params).run(); }

}  // namespace tmor::batch_norm_relu
