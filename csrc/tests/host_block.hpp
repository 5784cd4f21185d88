// A block of 128 threads played by one, for the code in dbscan/cuda_block.hpp: asynchronous copies arrive as late as
// they may, ldmatrix and mma follow the fragment layouts of the PTX manual (sections on ldmatrix and mma.m16n8k16), and
// the matrix unit is as inexact as any measured one: addends are cut to the last bit of the largest, sums are cut too.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <vector>

#include "dbscan/cuda_block.hpp"
#include "host_matrix_unit.hpp"

namespace tmor::dbscan {

class HostBlock {
 public:
  template <typename T>
  using PerThread = std::array<T, kTileThreads>;

  HostBlock(unsigned long long* counter, int64_t bytes, unsigned seed)
      : counter_(counter), memory_(static_cast<size_t>(bytes), 0xff), first_(static_cast<int>(seed % 128)) {}

  // Threads run in an order that changes from step to step.
  template <typename F>
  void each(const F& f) {
    first_ = (first_ * 5 + 3) % kTileThreads;
    for (int i = 0; i < kTileThreads; ++i) f((first_ + i * 37) % kTileThreads);
  }

  void barrier() {}

  static bool any(const PerThread<uint32_t>& flags) {
    for (const uint32_t flag : flags) {
      if (flag != 0) return true;
    }
    return false;
  }

  static void warp_sum(PerThread<float>& terms) {
    for (size_t warp = 0; warp < kTileThreads; warp += 32) {
      float sum = 0.0F;
      for (size_t lane = 0; lane < 32; ++lane) sum += terms[warp + lane];
      for (size_t lane = 0; lane < 32; ++lane) terms[warp + lane] = sum;
    }
  }

  int64_t next_unit() const { return static_cast<int64_t>(__atomic_fetch_add(counter_, 1ULL, __ATOMIC_RELAXED)); }

  // The target is unusable from now on, and holds the slice when its group has been waited for.
  void copy_slice(uint32_t target, const uint16_t* source, int64_t stride) {
    if (target % 1024 != 0) throw std::logic_error("a slice starts at no multiple of 1024");
    std::memset(&memory_.at(target), 0xff, static_cast<size_t>(kSliceBytes));
    group_.push_back({target, source, stride});
  }

  void commit() {
    groups_.push_back(group_);
    group_.clear();
  }

  void wait(int pending) {
    while (static_cast<int>(groups_.size()) > pending) {
      for (const Copy& copy : groups_.front()) {
        for (int row = 0; row < kPanel; ++row) {
          for (int chunk = 0; chunk < 8; ++chunk) {
            std::memcpy(&memory_.at(copy.target + slice_offset(row, chunk)),
                        copy.source + row * copy.stride + chunk * 8, 16);
          }
        }
      }
      groups_.pop_front();
    }
  }

  template <typename Address, typename Target>
  void load_matrices(const Address& address, const Target& target) {
    for (int warp = 0; warp < kTileThreads; warp += 32) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
          const uint32_t from = address(warp + matrix * 8 + row);
          if (from % 16 != 0) throw std::logic_error("ldmatrix needs 16-byte rows");
          for (int part = 0; part < 4; ++part) {
            std::memcpy(&target(warp + row * 4 + part)[matrix], &memory_.at(from + static_cast<uint32_t>(part * 4)), 4);
          }
        }
      }
    }
  }

  template <typename Sum, typename Left, typename Right>
  void multiply(const Sum& sum, const Left& left, const Right& right) {
    for (int warp = 0; warp < kTileThreads; warp += 32) {
      float a[16][16];
      float b[8][16];
      for (int lane = 0; lane < 32; ++lane) {
        for (int part = 0; part < 8; ++part) {  // two numbers in each of four registers
          const uint32_t word = left(warp + lane)[part / 2];
          a[lane / 4 + part / 2 % 2 * 8][lane % 4 * 2 + part % 2 + part / 4 * 8] = half_of(word, part % 2);
        }
        for (int part = 0; part < 4; ++part) {
          b[lane / 4][lane % 4 * 2 + part % 2 + part / 2 * 8] = half_of(right(warp + lane)[part / 2], part % 2);
        }
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int c = 0; c < 4; ++c) {
          float& value = sum(warp + lane)[c];
          value = add_products<16>(value, a[lane / 4 + c / 2 * 8], b[lane % 4 * 2 + c % 2]);
        }
      }
    }
  }

  static void shared_or(uint32_t* word, uint32_t bits) { *word |= bits; }
  template <typename Word>
  static void smallest(Word* word, Word value) {
    Word now = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (value < now && !__atomic_compare_exchange_n(word, &now, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }
  static void add(uint64_t* word, uint64_t amount) { __atomic_fetch_add(word, amount, __ATOMIC_RELAXED); }
  static int bit_count(uint32_t bits) { return __builtin_popcount(bits); }

 private:
  struct Copy {
    uint32_t target;
    const uint16_t* source;
    int64_t stride;
  };

  static float half_of(uint32_t word, int which) {
    return BFloat16::widen(static_cast<uint16_t>(which == 0 ? word & 0xffffU : word >> 16));
  }

  unsigned long long* counter_;
  std::vector<unsigned char> memory_;
  std::vector<Copy> group_;
  std::deque<std::vector<Copy>> groups_;
  int first_;
};

}  // namespace tmor::dbscan
