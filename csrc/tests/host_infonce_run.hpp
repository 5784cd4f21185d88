// A CUDA call of cluster_infonce played by the host; for test_infonce_cuda.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cluster_infonce/cuda_forward.hpp"
#include "cluster_infonce/cuda_plan.hpp"
#include "host_infonce_block.hpp"
#include "infonce_cases.hpp"

namespace tmor::cluster_infonce {

using infonce_cases::at;
using infonce_cases::Case;

// What the bank and the device are like.
struct HostOptions {
  DType dtype = DType::float32;
  Limits limits{4, 101376, 102400};
  int64_t splits = 0;  // 0: as the plan has it
  bool small_merge = false;
  bool backwards = false;  // blocks run from the last to the first: none may count on another, nor write its results
};

struct HostResult {
  std::vector<float> loss, gradient, own, statistics, key_gradient;
};

// An array of results, NaN until it is written, and numbers behind it that nobody may touch.
class Guarded {
 public:
  Guarded(std::vector<float>* values, int64_t size) : values_(*values), size_(at(size)) {
    values_.assign(size_, std::nanf(""));
    values_.resize(size_ + kGuards, kGuard);
  }
  // Checks them and takes them away.
  void finish() {
    const auto end = values_.begin() + static_cast<std::ptrdiff_t>(size_);
    if (std::any_of(end, values_.end(), [](float value) { return value != kGuard; })) {
      throw std::logic_error("results are written behind their end");
    }
    values_.resize(size_);
  }

 private:
  static constexpr size_t kGuards = 64 * 768;  // rows of a block, at most
  static constexpr float kGuard = -77.0F;
  std::vector<float>& values_;
  size_t size_;
};

class HostRun {
 public:
  HostRun(const Case& c, const HostOptions& options) : case_(c), options_(options), temperature_(c.temperature) {
    // A stride of whole chunks lets the copies be asynchronous, any other one goes number by number.
    const int64_t bytes = options.dtype == DType::float32 ? 4 : 2;
    keys_.assign(at(c.bank * c.key_stride * bytes + 16), 0xff);
    start_ = (16 - reinterpret_cast<uintptr_t>(keys_.data()) % 16) % 16;
    for (int64_t j = 0; j < c.bank; ++j) {
      for (int64_t k = 0; k < c.dimensions; ++k) {
        const float value = c.keys[at(j * c.key_stride + k)];
        unsigned char* target = &keys_[start_ + at((j * c.key_stride + k) * bytes)];
        if (bytes == 4) {
          std::memcpy(target, &value, 4);
        } else {
          const uint16_t half = options.dtype == DType::float16 ? round_to<Float16>(value) : round_to<BFloat16>(value);
          std::memcpy(target, &half, 2);
        }
      }
    }
  }

  HostResult forward(bool gradient) {
    HostResult result;
    Guarded guarded[] = {{&result.loss, case_.batch},
                         {&result.own, case_.batch},
                         {&result.statistics, 4 * case_.batch},
                         {&result.gradient, case_.batch * case_.dimensions}};
    ForwardPlan plan =
        plan_forward(options_.dtype, case_.batch, case_.bank, case_.dimensions, gradient, options_.limits);
    if (options_.splits != 0) plan.splits = options_.splits;
    const bool aligned = !case_.listed;
    const int64_t needed =
        carve_forward(nullptr, plan, case_.batch, case_.dimensions, case_.chosen_count, gradient, aligned).bytes;
    std::vector<uint64_t> workspace(at(needed / 8), 0xfff7fff7fff7fff7U);  // NaN of any size
    const ForwardMemory memory =
        carve_forward(workspace.data(), plan, case_.batch, case_.dimensions, case_.chosen_count, gradient, aligned);
    const ForwardTask task = forward_task(plan, memory.partials, gradient);
    run_blocks(task, plan);
    const MergeTask merge = merge_task(task, memory, gradient, &result);
    options_.small_merge ? run_merge<kSmallMergeThreads>(merge) : run_merge<kMergeThreads>(merge);
    for (Guarded& values : guarded) values.finish();
    return result;
  }

  void key_gradient(const std::vector<float>& upstream, HostResult* result) {
    const KeysPlan plan = plan_keys(options_.dtype, case_.batch, case_.bank, case_.dimensions, options_.limits);
    const int64_t needed = carve_keys(nullptr, options_.dtype, case_.batch, case_.dimensions).bytes;
    std::vector<uint64_t> workspace(at(needed / 8 + 2), 0xfff7fff7fff7fff7U);
    // Asynchronous copies want whole chunks, as the device's allocations start at.
    auto* start = workspace.data() + (reinterpret_cast<uintptr_t>(workspace.data()) % 16 == 0 ? 0 : 1);
    const KeysMemory memory = carve_keys(start, options_.dtype, case_.batch, case_.dimensions);
    for (int64_t i = 0; i < case_.batch; ++i) {
      make_numbers(upstream.data(), result->statistics.data(), temperature_, case_.batch, i, memory.numbers);
      if (memory.rounded == nullptr) continue;
      for (int lane = 0; lane < 32; ++lane) {
        round_query<HostBlock<kMaxThreads>>(&case_.query[at(i * case_.dimensions)], case_.dimensions, memory.pitch,
                                            lane, 32, memory.rounded + i * memory.pitch / 2);
      }
    }
    Guarded guarded(&result->key_gradient, case_.bank * case_.dimensions);
    KeysTask task;
    task.keys = key_rows();
    const bool rounded = memory.rounded != nullptr;
    task.queries.values = rounded ? reinterpret_cast<const unsigned char*>(memory.rounded)
                                  : reinterpret_cast<const unsigned char*>(case_.query.data());
    task.queries.stride = rounded ? memory.pitch * 2 : case_.dimensions * 4;
    task.queries.count = case_.batch;
    task.queries.row_bytes = static_cast<int32_t>(case_.dimensions * (rounded ? 2 : 4));
    task.queries.aligned = is_aligned(task.queries) ? 1 : 0;
    set_rows(&task);
    task.numbers = memory.numbers;
    task.chosen = pointer(case_.chosen);
    task.chosen_count = case_.chosen_count;
    task.has_chosen = case_.listed ? 1 : 0;
    task.key_gradient = result->key_gradient.data();
    task.ring = plan.ring.ring;
    for_blocks(plan.groups * plan.parts, [&](int64_t index) {
      run_keys_block(task, plan, index / plan.parts, static_cast<int>(index % plan.parts));
    });
    guarded.finish();
  }

 private:
  template <typename T>
  static const T* pointer(const std::vector<T>& values) {
    return values.empty() ? nullptr : values.data();
  }

  template <typename Task>
  void set_rows(Task* task) const {
    task->query_id = case_.query_id.data();
    task->key_id = case_.key_id.data();
    task->query_cluster = case_.query_cluster.data();
    task->key_cluster = case_.key_cluster.data();
    task->query_caption = pointer(case_.query_caption);
    task->key_caption = pointer(case_.key_caption);
    task->key_log_weight = pointer(case_.key_log_weight);
    task->temperature = &temperature_;
  }

  RowSource key_rows() const {
    RowSource rows;
    rows.values = &keys_[start_];
    rows.dtype = options_.dtype;
    rows.stride = case_.key_stride;
    rows.count = case_.bank;
    rows.dimensions = static_cast<int32_t>(case_.dimensions);
    return rows;
  }

  ForwardTask forward_task(const ForwardPlan& plan, const Partials& partials, bool gradient) const {
    const int64_t bytes = options_.dtype == DType::float32 ? 4 : 2;
    ForwardTask task;
    task.queries.values = case_.query.data();
    task.queries.stride = case_.dimensions;
    task.queries.count = case_.batch;
    task.queries.dimensions = static_cast<int32_t>(case_.dimensions);
    task.keys.values = &keys_[start_];
    task.keys.stride = case_.key_stride * bytes;
    task.keys.count = case_.bank;
    task.keys.row_bytes = static_cast<int32_t>(case_.dimensions * bytes);
    task.keys.aligned = is_aligned(task.keys) ? 1 : 0;
    set_rows(&task);
    set_modes(case_.form, case_.denominator, case_.listed, &task);
    task.gradient = gradient ? 1 : 0;
    task.splits = plan.splits;
    task.partials = partials;
    task.ring = plan.ring.ring;
    return task;
  }

  MergeTask merge_task(const ForwardTask& task, const ForwardMemory& memory, bool gradient, HostResult* result) const {
    MergeTask merge = merge_of(task);
    merge.form = case_.form;
    merge.denominator = case_.denominator;
    merge.keys = key_rows();
    merge.query = case_.query.data();
    merge.positive = pointer(case_.positive);
    merge.chosen = pointer(case_.chosen);
    merge.chosen_count = case_.chosen_count;
    merge.listed = memory.listed;
    merge.loss_out = result->loss.data();
    merge.gradient_out = gradient ? result->gradient.data() : nullptr;
    merge.own_out = result->own.data();
    merge.statistics_out = result->statistics.data();
    return merge;
  }

  template <typename Products>
  static void run_block(const ForwardTask& task, const ForwardPlan& plan, int64_t group, int64_t split, int part) {
    auto shared = std::make_unique<ForwardShared>();
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(ForwardShared));
    HostBlock<kMaxThreads> block(32 * task.ring.warps, plan.ring.bytes, static_cast<unsigned>(7 * group + split));
    const Place place = Place::of(task, task.ring, group, split, part);
    Forward<HostBlock<kMaxThreads>, Products>(block, task, task.ring, place, *shared).run();
  }

  void run_blocks(const ForwardTask& task, const ForwardPlan& plan) const {
    for_blocks(plan.groups * plan.splits * plan.parts, [&](int64_t index) {
      const int64_t group = index / plan.parts / plan.splits;
      const int64_t split = index / plan.parts % plan.splits;
      const int part = static_cast<int>(index % plan.parts);
      if (options_.dtype == DType::float32) {
        run_block<FloatProducts>(task, plan, group, split, part);
      } else if (options_.dtype == DType::float16) {
        run_half_block<Float16>(task, plan, group, split, part);
      } else {
        run_half_block<BFloat16>(task, plan, group, split, part);
      }
    });
  }

  template <typename Number>
  void run_half_block(const ForwardTask& task, const ForwardPlan& plan, int64_t group, int64_t split, int part) const {
    with_half_products<Number>(case_.batch, case_.dimensions,
                               [&](auto products) { run_block<decltype(products)>(task, plan, group, split, part); });
  }

  template <int kThreads>
  void run_merge(const MergeTask& merge) const {
    auto shared = std::make_unique<MergeShared<kThreads>>();
    for_blocks(case_.batch, [&](int64_t i) {
      std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(*shared));
      HostBlock<kThreads> block(kThreads, 16, static_cast<unsigned>(i));
      Merge<HostBlock<kThreads>, kThreads>(block, merge, *shared).run(i);
    });
  }

  template <typename Products>
  static void run_keys(const KeysTask& task, const KeysPlan& plan, int64_t group, int part) {
    auto shared = std::make_unique<KeysShared>();
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(KeysShared));
    HostBlock<kMaxThreads> block(32 * task.ring.warps, plan.ring.bytes, static_cast<unsigned>(group));
    KeyGradient<HostBlock<kMaxThreads>, Products>(block, task, task.ring, *shared).run(group, part);
  }

  void run_keys_block(const KeysTask& task, const KeysPlan& plan, int64_t group, int part) const {
    if (options_.dtype == DType::float32) {
      run_keys<FloatProducts>(task, plan, group, part);
    } else if (options_.dtype == DType::float16) {
      run_keys<RoundedProducts>(task, plan, group, part);
    } else {
      with_half_products<BFloat16>(case_.bank, case_.dimensions,
                                   [&](auto products) { run_keys<decltype(products)>(task, plan, group, part); });
    }
  }

  template <typename Run>
  void for_blocks(int64_t count, const Run& run) const {
    for (int64_t i = 0; i < count; ++i) run(options_.backwards ? count - 1 - i : i);
  }

  const Case& case_;
  const HostOptions options_;
  const float temperature_;
  std::vector<unsigned char> keys_;
  size_t start_ = 0;
};

}  // namespace tmor::cluster_infonce
