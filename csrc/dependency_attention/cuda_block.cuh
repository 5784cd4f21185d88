// A block of 256 threads on the device: the operations that cuda_block.hpp lists. Needs compute capability 8.0.
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_block.hpp"

namespace tmor::dependency_attention {

class DeviceBlock {
 public:
  template <typename T>
  struct PerThread {
    T value;
    __device__ __forceinline__ T& operator[](int) { return value; }
    __device__ __forceinline__ const T& operator[](int) const { return value; }
  };

  __device__ explicit DeviceBlock(unsigned char* shared)
      : shared_(shared), base_(static_cast<uint32_t>(__cvta_generic_to_shared(shared))) {}

  template <typename F>
  __device__ __forceinline__ void each(const F& f) const {
    f(static_cast<int>(threadIdx.x));
  }

  __device__ __forceinline__ void barrier() const { __syncthreads(); }

  template <typename T>
  __device__ __forceinline__ T& value(uint32_t address) const {
    return *reinterpret_cast<T*>(shared_ + address);
  }

  template <typename Number>
  __device__ __forceinline__ void copy(uint32_t target, uint32_t pitch, const Rows<Number>& from,
                                       const Extent& extent) const {
    for (int index = static_cast<int>(threadIdx.x); index < extent.rows << extent.chunk_bits; index += kThreads) {
      const int row = index >> extent.chunk_bits;
      const int chunk = index & ((1 << extent.chunk_bits) - 1);
      const int column = chunk * kChunk<Number>;
      const Number* source = from.values + row * from.columns + column;
      const uint32_t to = target + static_cast<uint32_t>(row) * pitch + static_cast<uint32_t>(chunk * 16);
      const bool valid = row < extent.valid_rows && column < extent.valid_columns;
      if (from.aligned) {
        // Of zero bytes nothing is read, but the address must be one.
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(base_ + to),
                     "l"(__cvta_generic_to_global(valid ? source : from.values)), "r"(valid ? 16 : 0)
                     : "memory");
      } else {
        for (int i = 0; i < kChunk<Number>; ++i) {
          const bool inside = row < extent.valid_rows && column + i < extent.valid_columns;
          value<Number>(to + static_cast<uint32_t>(i * static_cast<int>(sizeof(Number)))) =
              inside ? source[i] : narrow<Number>(0.0F);
        }
      }
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

  template <bool kTransposed, typename Address, typename Target>
  __device__ __forceinline__ void load_matrices(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t* to = target(thread);
    if constexpr (kTransposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(base_ + address(thread))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(base_ + address(thread))
                   : "memory");
    }
  }

  template <typename Number, typename Source, typename Target>
  __device__ __forceinline__ void load_left(const Source& source, int pitch, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t* to = target(thread);
    const Number* from = source(thread) + int64_t{fragment_row(thread, 0)} * pitch + fragment_column(thread, 0);
#pragma unroll
    for (int part = 0; part < 4; ++part) {  // rows 0-7, 8-15 of the first eight columns, then of the other eight
      to[part] = *reinterpret_cast<const uint32_t*>(from + int64_t{part & 1} * 8 * pitch + (part >> 1) * 8);
    }
  }

  template <typename Number, typename Sum, typename Left, typename Right>
  __device__ __forceinline__ void multiply(const Sum& sum, const Left& left, const Right& right) const {
    const int thread = static_cast<int>(threadIdx.x);
    float* d = sum(thread);
    const uint32_t* a = left(thread);
    const uint32_t* b = right(thread);
    if constexpr (std::is_same<Number, BFloat16>::value) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }

 private:
  unsigned char* shared_;
  uint32_t base_;
};

}  // namespace tmor::dependency_attention
