// A block of 128 threads on the device: the operations that cuda_block.hpp lists. Needs compute capability 8.0.
#pragma once

#include <cstdint>

#include "dbscan/cuda_block.hpp"

namespace tmor::dbscan {

class DeviceBlock {
 public:
  template <typename T>
  struct PerThread {
    T value;
    __device__ __forceinline__ T& operator[](int) { return value; }
    __device__ __forceinline__ const T& operator[](int) const { return value; }
  };

  // `counter` is shared by all blocks of the grid, `unit` by the threads of this one.
  __device__ DeviceBlock(unsigned long long* counter, unsigned long long* unit) : counter_(counter), unit_(unit) {}

  template <typename F>
  __device__ __forceinline__ void each(const F& f) const {
    f(static_cast<int>(threadIdx.x));
  }

  __device__ __forceinline__ void barrier() const { __syncthreads(); }

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
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to + static_cast<uint32_t>(i * 16 * 128)),
                   "l"(__cvta_generic_to_global(from + i * 16 * stride))
                   : "memory");
    }
  }

  __device__ __forceinline__ void commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }

  __device__ __forceinline__ void wait(int pending) const {
    if (pending >= 2) {
      asm volatile("cp.async.wait_group 2;" ::: "memory");
    } else if (pending == 1) {
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
  }

  template <typename Address, typename Target>
  __device__ __forceinline__ void load_matrices(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t* to = target(thread);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address(thread))
                 : "memory");
  }

  template <typename Sum, typename Left, typename Right>
  __device__ __forceinline__ void multiply(const Sum& sum, const Left& left, const Right& right) const {
    const int thread = static_cast<int>(threadIdx.x);
    float* d = sum(thread);
    const uint32_t* a = left(thread);
    const uint32_t* b = right(thread);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
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
