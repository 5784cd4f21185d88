// A block of threads on the device: the operations that cuda_tile.hpp lists. Needs compute capability 8.0.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cluster_infonce/cuda_stream.hpp"
#include "common/cuda_instructions.cuh"
#include "common/device_threads.cuh"

namespace tmor::cluster_infonce {

class DeviceBlock : public DeviceThreads {
 public:
  // `shared` is the block's dynamic memory.
  __device__ __forceinline__ explicit DeviceBlock(unsigned char* shared)
      : shared_(shared), start_(static_cast<uint32_t>(__cvta_generic_to_shared(shared))) {}

  __device__ __forceinline__ uint32_t start() const { return start_; }

  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }

  template <typename F>
  __device__ __forceinline__ void where(const PerThread<uint32_t>& flag, const F& f) const {
    if (flag.value != 0) f();
  }

  __device__ __forceinline__ void any(const PerThread<uint32_t>& bits, PerThread<uint32_t>& some) const {
    some.value = __any_sync(kAll, static_cast<int>(bits.value)) != 0 ? 1U : 0U;
  }

  __device__ __forceinline__ void exchange(const PerThread<float>& from, PerThread<float>& to, int distance) const {
    to.value = __shfl_xor_sync(kAll, from.value, distance);
  }

  __device__ __forceinline__ void offsets(const PerThread<uint32_t>& count, PerThread<uint32_t>& before,
                                          PerThread<uint32_t>& total) const {
    uint32_t sum = count.value;
#pragma unroll
    for (unsigned distance = 1; distance < 32; distance *= 2) {
      const uint32_t lower = __shfl_up_sync(kAll, sum, distance);
      if ((threadIdx.x & 31U) >= distance) sum += lower;
    }
    before.value = sum - count.value;
    total.value = __shfl_sync(kAll, sum, 31);
  }

  __device__ __forceinline__ void copy_chunk(uint32_t target, const void* source, int valid) const {
    copy_async_16(target, source, valid);
  }

  template <int kBytes>
  __device__ __forceinline__ void copy_word(void* target, const void* source, int valid) const {
    copy_async_word<kBytes>(static_cast<uint32_t>(__cvta_generic_to_shared(target)), source, valid);
  }

  __device__ __forceinline__ void commit() const { commit_copies(); }
  __device__ __forceinline__ void wait(int pending) const { wait_copies(pending); }

  __device__ __forceinline__ void store_chunk(uint32_t target, const uint32_t* words) const {
    *reinterpret_cast<uint4*>(shared_ + (target - start_)) = make_uint4(words[0], words[1], words[2], words[3]);
  }

  __device__ __forceinline__ uint32_t word(uint32_t address) const {
    return *reinterpret_cast<const uint32_t*>(shared_ + (address - start_));
  }

  template <typename Address, typename Target>
  __device__ __forceinline__ void load(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    load_four_matrices(address(thread), target(thread));
  }

  template <typename Address, typename Target>
  __device__ __forceinline__ void load_transposed(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    load_four_transposed(address(thread), target(thread));
  }

  template <typename Number, typename Sum, typename Left, typename Right>
  __device__ __forceinline__ void multiply(const Sum& sum, const Left& left, const Right& right) const {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (std::is_same<Number, Float16>::value) {
      multiply_float16(sum(thread), left(thread), right(thread));
    } else if constexpr (std::is_same<Number, BFloat16>::value) {
      multiply_bfloat16(sum(thread), left(thread), right(thread));
    } else {
      multiply_tf32(sum(thread), left(thread), right(thread));
    }
  }

  template <typename Number>
  __device__ static __forceinline__ uint32_t pack(float first, float second) {
    uint32_t result;
    if constexpr (std::is_same<Number, Float16>::value) {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    } else {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
    }
    return result;
  }

  // Off by at most 2 units in the last place; what would be subnormal is 0.
  __device__ static __forceinline__ float exp2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }

  // What is read after it is not read before: fewer registers.
  __device__ static __forceinline__ void fence() { asm volatile("" ::: "memory"); }

  __device__ static __forceinline__ int bit_count(uint32_t bits) { return __popc(bits); }

 private:
  static constexpr unsigned kAll = 0xffffffffU;
  unsigned char* shared_;
  uint32_t start_;
};

// The ring of a plan, whose addresses count from the end of the fixed part.
__device__ __forceinline__ Ring placed(Ring ring, const DeviceBlock& block, int64_t fixed_bytes) {
  ring.rows_at += block.start() + static_cast<uint32_t>(fixed_bytes);
  ring.stage_at += block.start() + static_cast<uint32_t>(fixed_bytes);
  return ring;
}

}  // namespace tmor::cluster_infonce
