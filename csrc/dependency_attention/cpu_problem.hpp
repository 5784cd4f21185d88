// What the CPU's forward and backward passes share: sizes, blocks of frames, packed weights and the steps up to the
// mixed values. Channels are padded with zeros to whole vectors.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "common/buffer.hpp"
#include "common/threads.hpp"
#include "dependency_attention/cpu_params.hpp"
#include "dependency_attention/kernel.hpp"

namespace tmor::dependency_attention {

using Floats = RawBuffer<float>;

// `count` runs of `size` numbers, each padded to `padded`.
struct Groups {
  int64_t count = 1;
  int64_t size = 0;
  int64_t padded = 0;

  int64_t total() const { return count * padded; }
  // Where a number lies among those without padding; -1 for padding.
  int64_t real(int64_t place) const { return place % padded < size ? place / padded * size + place % padded : -1; }
};

// A matrix (steps, columns) cut into panels of columns, each stored step by step: the right side of a product.
class Panels {
 public:
  Panels(const Kernel& kernel, Groups steps, Groups columns);

  int64_t panels() const { return (columns_.total() + panel_width_ - 1) / panel_width_; }
  // Element (s, c) is source[s * step_stride + c * column_stride], counted without padding.
  void fill(int64_t panel, const float* source, int64_t step_stride, int64_t column_stride);

  // c(r, column) = [c if add] + sum over steps of a(r, step) b(step, column), and what `finish` says (not if null).
  void multiply(const float* a, int64_t a_row, int64_t rows, float* c, int64_t c_row, bool add,
                const Finish* finish) const;

 private:
  struct Chunk {
    int64_t first;
    int64_t steps;
  };
  int64_t width_of(int64_t panel) const {
    const int64_t left = columns_.total() - panel * panel_width_;
    return left < panel_width_ ? left : panel_width_;
  }

  const Kernel kernel_;
  const Groups steps_;
  const Groups columns_;
  const int64_t panel_width_;
  std::vector<Chunk> chunks_;  // steps that are added up in registers; padding is left out
  Floats values_;
};

// Consecutive frames [first(i), first(i + 1)).
struct Blocks {
  int64_t frames = 0;
  int64_t count = 1;
  int64_t first(int64_t block) const { return block * frames / count; }
  int64_t longest() const { return (frames + count - 1) / count; }
};

class Problem {
 public:
  explicit Problem(const CpuParams& params);

  const CpuParams& params;
  const Kernel kernel;
  const int64_t joints;
  const int64_t in;          // Cin, padded
  const int64_t out;         // Cout, padded
  const int64_t embedding;   // Ce, padded
  const int64_t embeddings;  // 2 H of them side by side
  const int64_t mixed_rows;  // V H: row w * H + h of a frame holds what joint w receives in head h
  const int64_t mixed;       // H Cin, padded: the channels of a joint's mixed values
  const int64_t pairs;       // H V V
  const Blocks embed_blocks;
  const Blocks value_blocks;
  const int threads;

  Groups embedding_groups() const { return {2 * params.heads, params.embedding, embedding}; }
  Groups input_groups() const { return {1, params.channels_in, in}; }
  Groups mixed_groups() const { return {params.heads, params.channels_in, in}; }

  // `frames` frames of a (N, T, V, channels) tensor in float32 with `padded` numbers a row: where they lie, or `room`.
  const float* load(const void* tensor, int64_t clip, int64_t first, int64_t frames, int64_t channels, int64_t padded,
                    float* room) const;
  void store(const float* rows, void* tensor, int64_t clip, int64_t first, int64_t frames, int64_t channels,
             int64_t padded) const;
  bool in_place(int64_t channels, int64_t padded) const { return params.dtype == DType::float32 && channels == padded; }

  // theta and phi (rows, embeddings) of the frames of x, then their products over these frames (H, V, V).
  void embed(const float* x, int64_t frames, const Panels& weight, const Floats& bias, float* result,
             float* products) const;
  // Sums of these products to attention, in place. `room` (2 V).
  void softmax(float* logits, float* room) const;
  // D + A as (V, V H): what joint v gives to (w, h).
  void add_dependency(const float* attention, float* mixing) const;
  // Mixed values (frames, V H, Cin).
  void mix(const float* x, int64_t frames, const float* mixing, float* result) const;

  Floats padded_bias() const;
};

// Whether the call was interrupted: the first thread asks from time to time, all stop.
class Watch {
 public:
  explicit Watch(bool (*interrupted)()) : interrupted_(interrupted), asked_(Clock::now()) {}
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  void look() {
    constexpr std::chrono::milliseconds kEvery{20};
    if (interrupted_ == nullptr || this_thread() != 0 || Clock::now() - asked_ < kEvery) return;
    asked_ = Clock::now();
    if (interrupted_()) stopped_ = true;
  }
  void finish() const {
    if (stopped()) throw CpuInterrupted();
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool (*interrupted_)();
  Clock::time_point asked_;
  std::atomic<bool> stopped_{false};
};

// Calls work(item, thread) for every item, whoever is free taking the next one, or in equal shares by their order.
template <typename Work>
void for_each(const Problem& problem, int64_t items, bool equal_shares, Watch* watch, const Work& work) {
  const int64_t least = problem.threads < items ? problem.threads : items;
  const int used = static_cast<int>(least > 0 ? least : 1);
  if (equal_shares) {
#pragma omp parallel for num_threads(used) schedule(static)
    for (int64_t item = 0; item < items; ++item) {
      if (watch->stopped()) continue;
      work(item, this_thread());
      watch->look();
    }
  } else {
#pragma omp parallel for num_threads(used) schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      if (watch->stopped()) continue;
      work(item, this_thread());
      watch->look();
    }
  }
  watch->finish();
}

}  // namespace tmor::dependency_attention
