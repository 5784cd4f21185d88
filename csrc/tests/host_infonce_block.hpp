// A block of threads played by one, for the code in cluster_infonce/cuda_*.hpp: asynchronous copies arrive as late as
// they may, ldmatrix and mma follow the fragment layouts of the PTX manual (sections on ldmatrix, mma.m16n8k16 and
// mma.m16n8k8), and the matrix unit truncates (host_matrix_unit.hpp).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "cluster_infonce/cuda_stream.hpp"
#include "host_matrix_unit.hpp"

namespace tmor::cluster_infonce {

// To the nearest float16, ties to even.
inline uint16_t round_to_float16(float value) {
  const auto sign = static_cast<uint16_t>(bits_of_float(value) >> 16 & 0x8000U);
  const double size = std::fabs(static_cast<double>(value));
  if (std::isnan(value)) return 0x7fff;
  if (size >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00U);
  int exponent = size == 0.0 ? -14 : std::ilogb(size);
  exponent = exponent < -14 ? -14 : exponent;
  const double steps = std::nearbyint(std::ldexp(size, 10 - exponent));  // 1024 and up but for subnormals
  return static_cast<uint16_t>(sign |
                               static_cast<unsigned>(steps + std::ldexp(static_cast<double>(exponent + 14), 10)));
}

template <typename Number>
uint16_t round_to(float value) {
  if (std::is_same<Number, Float16>::value) return round_to_float16(value);
  if (std::isnan(value)) return 0x7fff;
  return round_to_bfloat16(value);
}

template <int kThreads>
class HostBlock {
 public:
  template <typename T>
  using PerThread = std::array<T, kThreads>;

  // `threads` of kThreads are there; `bytes` of dynamic shared memory, filled with NaN.
  HostBlock(int threads, int64_t bytes, unsigned seed)
      : threads_(threads),
        memory_(static_cast<size_t>(bytes), 0xff),
        first_(static_cast<int>(seed % static_cast<unsigned>(threads))) {
    running_.fill(true);
  }

  // Threads run in an order that changes from step to step.
  template <typename F>
  void each(const F& f) {
    first_ = (first_ * 5 + 3) % threads_;
    for (int i = 0; i < threads_; ++i) {
      const int thread = (first_ + i * 37) % threads_;
      if (running_[static_cast<size_t>(thread) / 32]) f(thread);
    }
  }

  void barrier() const {
    for (const bool running : running_) {
      if (!running) throw std::logic_error("a barrier that some warps never reach");
    }
  }
  void warp_barrier() const {}

  template <typename F>
  void where(const PerThread<uint32_t>& flag, const F& f) {
    const std::array<bool, kThreads / 32> before = running_;
    for_warps([&](size_t warp) {
      for (size_t lane = 0; lane < 32; ++lane) {
        if ((flag[warp * 32 + lane] != 0) != (flag[warp * 32] != 0)) throw std::logic_error("a flag that differs");
      }
      running_[warp] = flag[warp * 32] != 0;
    });
    f();
    running_ = before;
  }

  void any(const PerThread<uint32_t>& bits, PerThread<uint32_t>& some) const {
    for_warps([&](size_t warp) {
      uint32_t found = 0;
      for (size_t lane = 0; lane < 32; ++lane) found |= bits[warp * 32 + lane];
      for (size_t lane = 0; lane < 32; ++lane) some[warp * 32 + lane] = found != 0 ? 1U : 0U;
    });
  }

  void exchange(const PerThread<float>& from, PerThread<float>& to, int distance) const {
    for_warps([&](size_t warp) {
      for (size_t lane = 0; lane < 32; ++lane) {
        to[warp * 32 + lane] = from[warp * 32 + (lane ^ static_cast<size_t>(distance))];
      }
    });
  }

  void offsets(const PerThread<uint32_t>& count, PerThread<uint32_t>& before, PerThread<uint32_t>& total) const {
    for_warps([&](size_t warp) {
      uint32_t sum = 0;
      for (size_t lane = 0; lane < 32; ++lane) {
        before[warp * 32 + lane] = sum;
        sum += count[warp * 32 + lane];
      }
      for (size_t lane = 0; lane < 32; ++lane) total[warp * 32 + lane] = sum;
    });
  }

  // The target is unusable from now on, and holds the bytes when their group has been waited for.
  void copy_chunk(uint32_t target, const void* source, int valid) {
    if (target % 16 != 0 || (valid > 0 && reinterpret_cast<uintptr_t>(source) % 16 != 0)) {
      throw std::logic_error("cp.async of 16 bytes that is not aligned");
    }
    copy(&memory_.at(target), source, 16, valid);
    memory_.at(target + 15);
  }

  template <int kBytes>
  void copy_word(void* target, const void* source, int valid) {
    copy(static_cast<unsigned char*>(target), source, kBytes, valid);
  }

  void commit() {
    groups_.push_back(group_);
    group_.clear();
  }

  void wait(int pending) {
    while (static_cast<int>(groups_.size()) > pending) {
      for (const Copy& copy : groups_.front()) {
        std::memset(copy.target, 0, static_cast<size_t>(copy.bytes));
        std::memcpy(copy.target, copy.source, static_cast<size_t>(copy.valid));
      }
      groups_.pop_front();
    }
  }

  void store_chunk(uint32_t target, const uint32_t* words) {
    if (target % 16 != 0) throw std::logic_error("a chunk that is not aligned");
    memory_.at(target + 15);
    std::memcpy(&memory_[target], words, 16);
  }

  uint32_t word(uint32_t address) const {
    uint32_t result;
    memory_.at(address + 3);
    std::memcpy(&result, &memory_[address], 4);
    return result;
  }

  template <typename Address, typename Target>
  void load(const Address& address, const Target& target) {
    for_matrices(address, [&](size_t warp, int matrix, int row, const unsigned char* from) {
      for (int part = 0; part < 4; ++part) {
        std::memcpy(&target(static_cast<int>(warp * 32) + row * 4 + part)[matrix], from + part * 4, 4);
      }
    });
  }

  template <typename Address, typename Target>
  void load_transposed(const Address& address, const Target& target) {
    for_matrices(address, [&](size_t warp, int matrix, int row, const unsigned char* from) {
      for (int column = 0; column < 8; ++column) {  // row and column change places
        uint32_t& word = target(static_cast<int>(warp * 32) + column * 4 + row / 2)[matrix];
        std::memcpy(reinterpret_cast<unsigned char*>(&word) + row % 2 * 2, from + column * 2, 2);
      }
    });
  }

  template <typename Number, typename Sum, typename Left, typename Right>
  void multiply(const Sum& sum, const Left& left, const Right& right) {
    constexpr int kDepth = sizeof(Number) == 2 ? 16 : 8;
    for_warps([&](size_t warp) {
      float a[16][kDepth];
      float b[8][kDepth];
      for (int lane = 0; lane < 32; ++lane) {
        const int thread = static_cast<int>(warp * 32) + lane;
        for (int part = 0; part < 4; ++part) {
          const int row = lane / 4 + part % 2 * 8;
          unpack<Number>(left(thread)[part], &a[row][column_of<Number>(lane, part / 2)]);
          if (part < 2) unpack<Number>(right(thread)[part], &b[lane / 4][column_of<Number>(lane, part)]);
        }
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int c = 0; c < 4; ++c) {
          float& value = sum(static_cast<int>(warp * 32) + lane)[c];
          value = add_products<kDepth>(value, a[lane / 4 + c / 2 * 8], b[lane % 4 * 2 + c % 2]);
        }
      }
    });
  }

  template <typename Number>
  static uint32_t pack(float first, float second) {
    return round_to<Number>(first) | static_cast<uint32_t>(round_to<Number>(second)) << 16;
  }

  // As inexact as the device's may be; of 0 it is 1, as the manual's section on ex2 says.
  static float exp2(float x) {
    if (x == 0.0F) return 1.0F;
    const double exact = std::exp2(static_cast<double>(x)) * (1.0 + 1.5e-7);
    return exact < 1.17549435e-38 ? 0.0F : static_cast<float>(exact);
  }

  static void fence() {}

  static int bit_count(uint32_t bits) { return __builtin_popcount(bits); }

 private:
  struct Copy {
    unsigned char* target;
    const void* source;
    int bytes;
    int valid;
  };

  template <typename F>
  void for_warps(const F& f) const {
    for (size_t warp = 0; warp < static_cast<size_t>(threads_) / 32; ++warp) {
      if (running_[warp]) f(warp);
    }
  }

  void copy(unsigned char* target, const void* source, int bytes, int valid) {
    if (valid < 0 || valid > bytes) throw std::logic_error("a copy of more than there is");
    std::memset(target, 0xff, static_cast<size_t>(bytes));
    group_.push_back({target, source, bytes, valid});
  }

  template <typename Address, typename Use>
  void for_matrices(const Address& address, const Use& use) {
    for_warps([&](size_t warp) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
          const uint32_t from = address(static_cast<int>(warp * 32) + matrix * 8 + row);
          if (from % 16 != 0) throw std::logic_error("ldmatrix needs 16-byte rows");
          memory_.at(from + 15);
          use(warp, matrix, row, &memory_[from]);
        }
      }
    });
  }

  // The first column, of two or one, that half `which` of a lane's registers holds.
  template <typename Number>
  static int column_of(int lane, int which) {
    return sizeof(Number) == 2 ? lane % 4 * 2 + which * 8 : lane % 4 + which * 4;
  }

  template <typename Number>
  static void unpack(uint32_t word, float* to) {
    if constexpr (std::is_same<Number, float>::value) {
      to[0] = float_of_bits(word & 0xffffe000U);  // what TF32 reads
    } else {
      to[0] = Number::widen(static_cast<uint16_t>(word & 0xffffU));
      to[1] = Number::widen(static_cast<uint16_t>(word >> 16));
    }
  }

  int threads_;
  std::vector<unsigned char> memory_;
  std::array<bool, kThreads / 32> running_{};
  std::vector<Copy> group_;
  std::deque<std::vector<Copy>> groups_;
  int first_;
};

}  // namespace tmor::cluster_infonce
