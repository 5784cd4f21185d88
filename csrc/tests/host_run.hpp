// A CUDA run of dbscan played by the host; for test_cuda_tile_loop.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "dbscan/cuda_assign.hpp"
#include "dbscan/cuda_labels.hpp"
#include "host_block.hpp"
#include "host_cases.hpp"

namespace tmor::dbscan {

struct Options {
  bool shuffle = false;  // positions in random order, with holes
  DType dtype = DType::float32;
};

inline void set_scaling(const Case& c, Input* input) {
  input->largest = c.largest.empty() ? nullptr : c.largest.data();
  input->length = c.length.empty() ? nullptr : c.length.data();
  input->orthogonal = c.orthogonal.empty() ? nullptr : c.orthogonal.data();
}

// Panels of the points that `order` names (kNobody for a hole), as pack_panels of cuda_prepare.cu makes them.
class HostPanels {
 public:
  HostPanels(const Case& c, const Frame& frame, const std::vector<double>& centre, std::vector<uint32_t> order)
      : order_(std::move(order)) {
    count_ = (static_cast<int64_t>(order_.size()) + kPanel - 1) / kPanel;
    order_.resize(static_cast<size_t>(count_ * kPanel), kNobody);
    panels_.padded = (c.dimensions + kSlice - 1) / kSlice * kSlice;
    values_.resize(order_.size() * static_cast<size_t>(panels_.padded));
    norm_.assign(order_.size(), kHoleNorm);
    residual_.assign(order_.size(), 0.0F);
    Input input;
    input.dimensions = c.dimensions;
    set_scaling(c, &input);
    for (size_t position = 0; position < order_.size(); ++position) {
      const uint32_t point = order_[position];
      if (point == kNobody) continue;
      const auto pack = [&](const auto& row) {
        return pack_row(row, centre.data(), frame, c.dimensions, panels_.padded, 0, 1,
                        &values_[position * static_cast<size_t>(panels_.padded)]);
      };
      const RowSums sums = c.largest.empty() ? pack(&c.points[point * static_cast<size_t>(c.dimensions)])
                                             : pack(row_of(input, c.points.data(), int64_t{point}));
      const bool right_angle = !c.orthogonal.empty() && c.orthogonal[point] != 0;
      finish_row(sums, right_angle, &norm_[position], &residual_[position]);
    }
    for (int64_t panel = 0; panel < count_; ++panel) summarise(c, frame, panel);
    panels_.order = order_.data();
    panels_.values = values_.data();
    panels_.norm = norm_.data();
    panels_.residual = residual_.data();
    panels_.length = length_.data();
    panels_.slack = slack_.data();
    panels_.radius = radius_.data();
    panels_.centroid = centroid_.data();
  }

  const Panels& view() const { return panels_; }
  const int64_t& count() const { return count_; }

 private:
  float value(int64_t position, int64_t k) const {
    return BFloat16::widen(values_[static_cast<size_t>(position * panels_.padded + k)]);
  }

  void summarise(const Case& c, const Frame& frame, int64_t panel) {
    float length = 0.0F;
    float slack = 0.0F;
    float radius = frame.bounded != 0 ? 0.0F : HUGE_VALF;
    std::vector<float> centroid(static_cast<size_t>(c.dimensions), 0.0F);
    float points = 0.0F;
    for (int64_t position = panel * kPanel; position < (panel + 1) * kPanel; ++position) {
      if (order_[static_cast<size_t>(position)] == kNobody) continue;
      points += 1.0F;
      for (int64_t k = 0; k < c.dimensions; ++k) centroid[static_cast<size_t>(k)] += value(position, k);
    }
    for (float& one : centroid) one /= points;
    for (int64_t position = panel * kPanel; position < (panel + 1) * kPanel; ++position) {
      const uint32_t point = order_[static_cast<size_t>(position)];
      if (point == kNobody) continue;
      float squared = 0.0F;
      for (int64_t k = 0; k < c.dimensions; ++k) {
        const float difference = value(position, k) - centroid[static_cast<size_t>(k)];
        squared += difference * difference;
      }
      const bool right_angle = !c.orthogonal.empty() && c.orthogonal[point] != 0;
      const float residual = residual_[static_cast<size_t>(position)];
      length = std::max(length, row_length(norm_[static_cast<size_t>(position)]));
      slack = std::max(slack, residual);
      radius = std::max(radius, reach_from_centroid(squared, right_angle, residual, c.dimensions));
    }
    length_.push_back(length);
    slack_.push_back(slack);
    radius_.push_back(radius);
    centroid_.insert(centroid_.end(), centroid.begin(), centroid.end());
  }

  std::vector<uint32_t> order_;
  std::vector<uint16_t> values_;
  std::vector<float> norm_, residual_, length_, slack_, radius_, centroid_;
  Panels panels_;
  int64_t count_ = 0;
};

inline Ring host_ring(int64_t padded, int64_t* bytes) {
  Ring ring;
  ring.padded = padded;
  ring.slices = static_cast<int32_t>(padded / kSlice);
  ring.plan = plan_ring(ring.slices, 15360, 101376, 2 * 102400);
  ring.stage = static_cast<uint32_t>(ring.plan.left_bytes(ring.slices));
  *bytes = ring.plan.bytes;
  return ring;
}

// Two blocks at once, each on a thread, as blocks of a grid run.
template <typename Body>
void run_blocks(int64_t padded, const Body& body) {
  unsigned long long counter = 0;
  std::vector<std::thread> threads;
  for (unsigned index = 0; index < 2; ++index) {
    threads.emplace_back([&counter, &body, padded, index] {
      int64_t bytes = 0;
      const Ring ring = host_ring(padded, &bytes);
      HostBlock block(&counter, bytes, 17 * index);
      body(block, ring);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline void run_assignment(const AssignTask& task) {
  run_blocks(task.rows.padded, [&](HostBlock& block, const Ring& ring) {
    auto shared = std::make_unique<AssignShared>();
    assign_points(block, task, ring, *shared);
  });
}

class HostRun {
 public:
  HostRun(const Case& c, const Options& options) : case_(c), options_(options) {
    fill_input();
    centre_.assign(static_cast<size_t>(c.dimensions), 0.0);
    double longest = 0.0;
    if (c.orthogonal.empty()) {
      for (int64_t i = 0; i < c.n * c.dimensions; ++i) {
        centre_[static_cast<size_t>(i % c.dimensions)] += c.points[static_cast<size_t>(i)] / static_cast<double>(c.n);
      }
    }
    for (int64_t i = 0; i < c.n; ++i) {
      longest = std::max(
          longest, squared_distance(&c.points[static_cast<size_t>(i * c.dimensions)], centre_.data(), c.dimensions));
    }
    frame_ = make_cuda_frame(longest, c.dimensions, c.threshold, !c.orthogonal.empty());
  }

  const Frame& frame() const { return frame_; }
  const std::vector<double>& centre() const { return centre_; }
  uint64_t tiles() const { return tiles_; }

  std::vector<uint32_t> identity() const {
    std::vector<uint32_t> order(static_cast<size_t>(case_.n));
    std::iota(order.begin(), order.end(), 0U);
    return order;
  }

  double scaled_distance(uint32_t a, uint32_t b) const {
    const auto* points = case_.points.data();
    return std::sqrt(squared_distance(points + a * case_.dimensions, points + b * case_.dimensions, case_.dimensions)) *
           frame_.scale;
  }

  Result cluster() {
    const size_t n = static_cast<size_t>(case_.n);
    const bool lists = case_.weight.empty() && case_.min_samples <= kMaxListSamples;
    const int64_t capacity = std::max<int64_t>(lists ? 0 : 1, std::min(case_.min_samples - 1, case_.n));
    std::vector<uint32_t> count(n, 0);
    std::vector<uint32_t> slots(n * static_cast<size_t>(capacity), kNobody);
    std::vector<uint32_t> parent = identity();
    std::vector<uint32_t> best(n, kNobody);
    Field field;
    field.input = input_;
    field.frame = &frame_;
    field.lists = {count.data(), lists ? slots.data() : nullptr, static_cast<uint32_t>(capacity)};
    static uint32_t none = kNobody;
    if (lists && capacity == 0) field.lists.slots = &none;
    field.sets.parent = parent.data();
    field.best = best.data();
    field.tiles = &tiles_;
    field.rechecked = &rechecked_;
    field.min_samples = case_.min_samples;
    if (!case_.weight.empty()) {
      const HostPanels given(case_, frame_, centre_, identity());
      sweep(field, given, Mode::weigh, false);
    }
    const HostPanels panels(case_, frame_, centre_, positions());
    if (lists) {
      sweep(field, panels, Mode::one_pass, true);
      sweep(field, panels, Mode::one_pass, false);
      for (uint32_t point = 0; point < case_.n; ++point) unite_list(field.lists, field.sets, point);
    } else {
      if (case_.weight.empty()) {
        sweep(field, panels, Mode::count, true);
        sweep(field, panels, Mode::count, false);
      }
      for (const Mode mode : {Mode::connect, Mode::border}) {
        finished_.clear();
        sweep(field, panels, mode, true);
        sweep(field, panels, mode, false);
      }
    }
    return labels(field);
  }

 private:
  void fill_input() {
    input_.dtype = options_.dtype;
    for (const double value : case_.points) {
      if (options_.dtype == DType::float16 || options_.dtype == DType::bfloat16) {
        halves_.push_back(to_half(options_.dtype, value));
      } else if (options_.dtype == DType::float32 && std::fabs(value) < 1e30) {
        floats_.push_back(static_cast<float>(value));
      }
    }
    input_.points = halves_.empty() ? static_cast<const void*>(floats_.data()) : halves_.data();
    if (floats_.size() + halves_.size() != case_.points.size()) {
      input_.dtype = DType::float64;
      input_.points = case_.points.data();
    } else if (options_.dtype == DType::float32) {
      // Offsets may have rounded: then the case means its float64 numbers.
      for (size_t i = 0; i < floats_.size(); ++i) {
        if (static_cast<double>(floats_[i]) == case_.points[i]) continue;
        input_.dtype = DType::float64;
        input_.points = case_.points.data();
      }
    }
    input_.n = case_.n;
    input_.dimensions = case_.dimensions;
    input_.threshold = case_.threshold;
    input_.weight = case_.weight.empty() ? nullptr : case_.weight.data();
    set_scaling(case_, &input_);
  }

  // Holes never come first in a panel.
  std::vector<uint32_t> positions() const {
    std::vector<uint32_t> order = identity();
    if (!options_.shuffle) return order;
    std::shuffle(order.begin(), order.end(), std::mt19937(23));
    std::vector<uint32_t> result;
    for (const uint32_t point : order) {
      if (result.size() % kPanel == 100) result.resize(result.size() + 28, kNobody);
      result.push_back(point);
    }
    return result;
  }

  void sweep(Field field, const HostPanels& panels, Mode mode, bool diagonal) {
    if (finished_.empty() || mode == Mode::weigh) finished_.assign(static_cast<size_t>(panels.count()), 0);
    field.panels = panels.view();
    field.panel_count = &panels.count();
    field.mode = mode;
    field.diagonal = diagonal;
    field.blocks = 2;
    field.finished = finished_.data();
    kinds_.assign(static_cast<size_t>(panels.count()), 0);
    for (int64_t position = 0; position < panels.count() * kPanel; ++position) {
      kinds_[static_cast<size_t>(position / kPanel)] |= kind_of(field, position);
    }
    field.kinds = kinds_.data();
    run_blocks(field.panels.padded, [&](HostBlock& block, const Ring& ring) {
      auto shared = std::make_unique<SweepShared>();
      Sweep<HostBlock>(block, field, ring, *shared).run();
    });
    if (mode == Mode::weigh) finished_.clear();
  }

  Result labels(const Field& field) const {
    std::vector<int32_t> number(static_cast<size_t>(case_.n), -1);
    int32_t clusters = 0;
    Result result;
    for (uint32_t point = 0; point < case_.n; ++point) {
      if (starts_cluster(field, point)) number[point] = clusters++;
    }
    for (uint32_t point = 0; point < case_.n; ++point) {
      result.labels.push_back(label_of(field, number.data(), point));
      result.core.push_back(field.lists.core(point) ? 1 : 0);
    }
    return result;
  }

  const Case case_;
  Options options_;
  Input input_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
  std::vector<double> centre_;
  Frame frame_;
  std::vector<uint32_t> finished_;
  std::vector<uint32_t> kinds_;
  uint64_t tiles_ = 0;
  uint64_t rechecked_ = 0;
};

}  // namespace tmor::dbscan
