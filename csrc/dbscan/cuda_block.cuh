// A block of 128 threads on the device: the operations that cuda_block.hpp lists. Needs compute capability 8.0.
#pragma once

#include <cstdint>

#include "common/cuda_instructions.cuh"
#include "common/device_threads.cuh"
#include "dbscan/cuda_block.hpp"

namespace tmor::dbscan {

class DeviceBlock : public DeviceThreads {
 public:
  // `counter` is shared by all blocks of the grid, `unit` by the threads of this one.
  __device__ DeviceBlock(unsigned long long* counter, unsigned long long* unit) : counter_(counter), unit_(unit) {}

  __device__ __forceinline__ bool any(const PerThread<uint32_t>& flags) const {
    return __syncthreads_or(static_cast<int>(flags.value)) != 0;
  }

  __device__ __forceinline__ void warp_sum(PerThread<float>& terms) const {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      terms.value += __shfl_xor_sync(0xffffffffU, terms.value, distance);
    }
  }

  // The barrier before lets slower threads finish with the unit before.
  __device__ int64_t next_unit() const {
    __syncthreads();
    if (threadIdx.x == 0) *unit_ = atomicAdd(counter_, 1ULL);
    __syncthreads();
    return static_cast<int64_t>(*unit_);
  }

  // 128 rows of 128 bytes: eight chunks of 16 bytes a thread, eight threads a row.
  __device__ __forceinline__ void copy_slice(uint32_t target, const uint16_t* source, int64_t stride) const {
    const int first = static_cast<int>(threadIdx.x) / 8;
    const int chunk = static_cast<int>(threadIdx.x) % 8;
    const uint16_t* from = source + first * stride + chunk * 8;
    const uint32_t to = target + slice_offset(first, chunk);
#pragma unroll
    for (int i = 0; i < kPanel / 16; ++i) {  // rows 16 apart share the last three bits
      copy_async_16(to + static_cast<uint32_t>(i * 16 * 128), from + i * 16 * stride);
    }
  }

  __device__ __forceinline__ void commit() const { commit_copies(); }
  __device__ __forceinline__ void wait(int pending) const { wait_copies(pending); }

  template <typename Address, typename Target>
  __device__ __forceinline__ void load_matrices(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    load_four_matrices(address(thread), target(thread));
  }

  template <typename Sum, typename Left, typename Right>
  __device__ __forceinline__ void multiply(const Sum& sum, const Left& left, const Right& right) const {
    const int thread = static_cast<int>(threadIdx.x);
    multiply_bfloat16(sum(thread), left(thread), right(thread));
  }

  __device__ __forceinline__ void shared_or(uint32_t* word, uint32_t bits) const { atomicOr(word, bits); }
  __device__ __forceinline__ void smallest(uint32_t* word, uint32_t value) const { atomicMin(word, value); }
  __device__ __forceinline__ void smallest(unsigned long long* word, unsigned long long value) const {
    atomicMin(word, value);
  }
  __device__ __forceinline__ void add(uint64_t* word, uint64_t amount) const {
    if (amount != 0) atomicAdd(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(amount));
  }
  __device__ static __forceinline__ int bit_count(uint32_t bits) { return __popc(bits); }

 private:
  unsigned long long* counter_;
  unsigned long long* unit_;
};

// Shared memory of a kernel: `Fixed`, then the ring, whose slices start at multiples of 1024 bytes.
template <typename Fixed>
constexpr int64_t kFixedBytes = (static_cast<int64_t>(sizeof(Fixed)) + 16 + 1023) / 1024 * 1024;

template <typename Fixed>
__device__ __forceinline__ Ring make_ring(const RingPlan& plan, int64_t padded, unsigned char* shared) {
  Ring ring;
  ring.plan = plan;
  ring.padded = padded;
  ring.slices = static_cast<int32_t>(padded / kSlice);
  ring.left = static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + static_cast<uint32_t>(kFixedBytes<Fixed>);
  ring.stage = ring.left + static_cast<uint32_t>(plan.left_bytes(ring.slices));
  return ring;
}

}  // namespace tmor::dbscan
