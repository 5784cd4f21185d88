// A block of 256 threads played by one, for the code in dependency_attention/cuda_block.hpp: asynchronous copies arrive
// as late as they may, ldmatrix and mma follow the fragment layouts of the PTX manual (sections on ldmatrix and
// mma.m16n8k16). Memory that nothing was written to is NaN.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dependency_attention/cuda_block.hpp"

namespace tmor::dependency_attention {

// Beginning and end of what copies may read.
using Range = std::pair<const void*, const void*>;

class HostBlock {
 public:
  template <typename T>
  using PerThread = std::array<T, kThreads>;

  // Copies may read `readable` alone, if it says anything; it must outlive the block.
  HostBlock(int64_t bytes, unsigned seed, const std::vector<Range>* readable = nullptr)
      : memory_(static_cast<size_t>(bytes), 0xff), readable_(readable), first_(static_cast<int>(seed % kThreads)) {}

  // Threads run in an order that changes from step to step.
  template <typename F>
  void each(const F& f) {
    first_ = (first_ * 5 + 3) % kThreads;
    for (int i = 0; i < kThreads; ++i) f((first_ + i * 37) % kThreads);
  }

  void barrier() {}

  template <typename T>
  T& value(uint32_t address) {
    if (address % sizeof(T) != 0) throw std::logic_error("a number is not aligned");
    if (address + sizeof(T) > memory_.size()) throw std::logic_error("an address is outside of shared memory");
    return *reinterpret_cast<T*>(memory_.data() + address);
  }

  // An aligned target is unusable from now on, and holds the rows when its group has been waited for; others are
  // written at once.
  template <typename Number>
  void copy(uint32_t target, uint32_t pitch, const Rows<Number>& from, const Extent& extent) {
    for (int row = 0; row < extent.rows; ++row) {
      for (int chunk = 0; chunk < 1 << extent.chunk_bits; ++chunk) {
        const int column = chunk * kChunk<Number>;
        const uint32_t to = target + static_cast<uint32_t>(row) * pitch + static_cast<uint32_t>(chunk * 16);
        if (to % 16 != 0) throw std::logic_error("a copy needs targets at multiples of 16");
        unsigned char* place = &value<unsigned char>(to);
        value<unsigned char>(to + 15);
        const Number* source = from.values + row * from.columns + column;
        if (from.aligned) {
          if (reinterpret_cast<uintptr_t>(from.values) % 16 != 0 || from.columns % kChunk<Number> != 0) {
            throw std::logic_error("a copy needs sources at multiples of 16");
          }
          std::memset(place, 0xff, 16);
          const bool valid = row < extent.valid_rows && column < extent.valid_columns;
          if (valid && column + kChunk<Number> > extent.valid_columns) throw std::logic_error("a chunk is cut");
          if (valid) check_source(source, source + kChunk<Number>);
          group_.push_back({to, valid ? source : nullptr});
        } else {
          for (int i = 0; i < kChunk<Number>; ++i) {
            const bool inside = row < extent.valid_rows && column + i < extent.valid_columns;
            if (inside) check_source(source + i, source + i + 1);
            reinterpret_cast<Number*>(place)[i] = inside ? source[i] : narrow<Number>(0.0F);
          }
        }
      }
    }
  }

  void commit() {
    groups_.push_back(group_);
    group_.clear();
  }

  void wait(int pending) {
    while (static_cast<int>(groups_.size()) > pending) {
      for (const Copy& copy : groups_.front()) {
        if (copy.source == nullptr) {
          std::memset(&memory_.at(copy.target), 0, 16);
        } else {
          std::memcpy(&memory_.at(copy.target), copy.source, 16);
        }
      }
      groups_.pop_front();
    }
  }

  // A hint that nobody can see here, but it may not point outside.
  void prefetch(const void* begin, int64_t bytes) const {
    if (bytes > 0) check_source(begin, static_cast<const unsigned char*>(begin) + bytes);
  }

  template <bool kTransposed, typename Address, typename Target>
  void load_matrices(const Address& address, const Target& target) {
    for (int warp = 0; warp < kThreads; warp += 32) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        std::array<std::array<uint16_t, 8>, 8> numbers{};
        for (int row = 0; row < 8; ++row) {
          const uint32_t from = address(warp + matrix * 8 + row);
          if (from % 16 != 0) throw std::logic_error("ldmatrix needs 16-byte rows");
          value<unsigned char>(from + 15);
          std::memcpy(numbers[static_cast<size_t>(row)].data(), &value<unsigned char>(from), 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
          const auto across = static_cast<size_t>(lane / 4);
          const auto along = static_cast<size_t>(lane % 4 * 2);
          const uint32_t low = kTransposed ? numbers[along][across] : numbers[across][along];
          const uint32_t high = kTransposed ? numbers[along + 1][across] : numbers[across][along + 1];
          target(warp + lane)[matrix] = high << 16 | low;
        }
      }
    }
  }

  template <typename Number, typename Source, typename Target>
  void load_left(const Source& source, int pitch, const Target& target) {
    for (int thread = 0; thread < kThreads; ++thread) {
      const Number* from = source(thread);
      const int lane = thread % 32;
      for (int part = 0; part < 4; ++part) {
        const Number* pair = from + int64_t{lane / 4 + part % 2 * 8} * pitch + lane % 4 * 2 + part / 2 * 8;
        target(thread)[part] = static_cast<uint32_t>(pair[1].bits) << 16 | pair[0].bits;
      }
    }
  }

  template <typename Number, typename Sum, typename Left, typename Right>
  void multiply(const Sum& sum, const Left& left, const Right& right) {
    for (int warp = 0; warp < kThreads; warp += 32) {
      float a[16][16];
      float b[8][16];
      for (int lane = 0; lane < 32; ++lane) {
        for (int part = 0; part < 8; ++part) {  // two numbers in each of four registers
          const uint32_t word = left(warp + lane)[part / 2];
          a[lane / 4 + part / 2 % 2 * 8][lane % 4 * 2 + part % 2 + part / 4 * 8] = half_of<Number>(word, part % 2);
        }
        for (int part = 0; part < 4; ++part) {
          b[lane / 4][lane % 4 * 2 + part % 2 + part / 2 * 8] = half_of<Number>(right(warp + lane)[part / 2], part % 2);
        }
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int c = 0; c < 4; ++c) {
          float& value = sum(warp + lane)[c];
          for (int k = 0; k < 16; ++k) value += a[lane / 4 + c / 2 * 8][k] * b[lane % 4 * 2 + c % 2][k];
        }
      }
    }
  }

  template <typename From>
  void shuffle(PerThread<float>& values, const From& from) {
    const PerThread<float> before = values;
    for (int thread = 0; thread < kThreads; ++thread) {
      const int lane = from(thread);
      if (lane < 0 || lane > 31) throw std::logic_error("no such lane");
      values[static_cast<size_t>(thread)] = before[static_cast<size_t>(thread / 32 * 32 + lane)];
    }
  }

 private:
  struct Copy {
    uint32_t target;
    const void* source;
  };

  template <typename Number>
  static float half_of(uint32_t word, int which) {
    return widen(Number{static_cast<uint16_t>(which == 0 ? word & 0xffffU : word >> 16)});
  }

  void check_source(const void* begin, const void* end) const {
    if (readable_ == nullptr || readable_->empty()) return;
    for (const Range& range : *readable_) {
      if (!std::less<>()(begin, range.first) && !std::less<>()(range.second, end)) return;
    }
    throw std::logic_error("a copy reads outside of the tensors");
  }

  std::vector<unsigned char> memory_;
  const std::vector<Range>* readable_;
  std::vector<Copy> group_;
  std::deque<std::vector<Copy>> groups_;
  int first_;
};

// Runs the programs of a plan (dependency_attention/cuda_plan.hpp) one block after another.
template <typename Number>
class HostLauncher {
 public:
  explicit HostLauncher(const Limits& limits) : limits_(limits) {}

  // From now on copies may read these alone.
  void allow(std::vector<Range> readable) { readable_ = std::move(readable); }

  const Limits& limits() const { return limits_; }

  void pack(const PackTask<Number>& first, const PackTask<Number>& second) const {
    for (const PackTask<Number>* task : {&first, &second}) {
      for (int64_t i = 0; i < task->size(); ++i) pack_one(*task, i);
    }
  }

  void merge(const MergeTask<Number>& task) const {
    for (int64_t i = 0; i < task.size; ++i) merge_one(task, i);
  }

  void softmax(const SoftmaxTask<Number>& task, int64_t blocks) {
    play(0, blocks, [&](HostBlock& block, int64_t index) { take_softmax(block, task, index); });
  }

  void softmax_gradient(const SoftmaxGradientTask<Number>& task, int64_t blocks) {
    play(0, blocks, [&](HostBlock& block, int64_t index) { take_softmax_gradient(block, task, index); });
  }

  void logits(const LogitsTask<Number>& task, int64_t blocks) {
    note(task.product.memory);
    play(task.product.memory.bytes, blocks, [&](HostBlock& block, int64_t index) { sum_logits(block, task, index); });
  }

  void statistics(const StatisticsTask<Number>& task) {
    play(task.kBytes, task.blocks(), [&](HostBlock& block, int64_t index) { take_statistics(block, task, index); });
  }

  template <bool kBackward, bool kStatistics>
  void values(const ValuesTask<Number>& task, int64_t blocks) {
    note(task.product.memory);
    play(task.product.memory.bytes, blocks,
         [&](HostBlock& block, int64_t index) { mix_values<kBackward, kStatistics>(block, task, index); });
  }

  void embedding(const EmbeddingTask<Number>& task, int64_t blocks) {
    play(task.product.memory.bytes, blocks,
         [&](HostBlock& block, int64_t index) { mix_embedding(block, task, index); });
  }

  void value_weight(const ValueWeightTask<Number>& task, int64_t blocks) {
    play(task.memory.bytes, blocks, [&](HostBlock& block, int64_t index) { sum_value_weight(block, task, index); });
  }

  bool saw_stationary = false;
  bool saw_streamed = false;

 private:
  void note(const Memory& memory) {
    if (memory.stages < 2) throw std::logic_error("the tiles do not fit");
    saw_stationary = saw_stationary || memory.stationary != 0;
    saw_streamed = saw_streamed || memory.stationary == 0;
  }

  // From the last block to the first: none may count on another.
  template <typename Program>
  void play(int64_t bytes, int64_t blocks, const Program& program) {
    if (bytes > limits_.per_block) throw std::logic_error("a block has too much shared memory");
    for (int64_t index = blocks - 1; index >= 0; --index) {
      HostBlock block(bytes, static_cast<unsigned>(index) * 7 + 1, &readable_);
      program(block, index);
    }
  }

  Limits limits_;
  std::vector<Range> readable_;
};

}  // namespace tmor::dependency_attention
