// A block of 256 threads on the device: the operations that cuda_block.hpp lists. Needs compute capability 8.0.
#pragma once

#include <cstdint>

#include "common/cuda_instructions.cuh"
#include "common/device_threads.cuh"
#include "dependency_attention/cuda_block.hpp"

namespace tmor::dependency_attention {

class DeviceBlock : public DeviceThreads {
 public:
  __device__ explicit DeviceBlock(unsigned char* shared)
      : shared_(shared), base_(static_cast<uint32_t>(__cvta_generic_to_shared(shared))) {}

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
        copy_async_16(base_ + to, valid ? source : from.values, valid ? 16 : 0);
      } else {
        for (int i = 0; i < kChunk<Number>; ++i) {
          const bool inside = row < extent.valid_rows && column + i < extent.valid_columns;
          value<Number>(to + static_cast<uint32_t>(i * static_cast<int>(sizeof(Number)))) =
              inside ? source[i] : narrow<Number>(0.0F);
        }
      }
    }
  }

  __device__ __forceinline__ void commit() const { commit_copies(); }

  __device__ __forceinline__ void wait(int pending) const { wait_copies(pending); }

  __device__ __forceinline__ void prefetch(const void* begin, int64_t bytes) const {
    constexpr int kLine = 128;
    for (int64_t at = int64_t{threadIdx.x} * kLine; at < bytes; at += kThreads * kLine) {
      prefetch_line(static_cast<const unsigned char*>(begin) + at);
    }
  }

  template <bool kTransposed, typename Address, typename Target>
  __device__ __forceinline__ void load_matrices(const Address& address, const Target& target) const {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (kTransposed) {
      load_four_transposed(base_ + address(thread), target(thread));
    } else {
      load_four_matrices(base_ + address(thread), target(thread));
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
    if constexpr (std::is_same<Number, BFloat16>::value) {
      multiply_bfloat16(sum(thread), left(thread), right(thread));
    } else {
      multiply_float16(sum(thread), left(thread), right(thread));
    }
  }

  template <typename From>
  __device__ __forceinline__ void shuffle(PerThread<float>& values, const From& from) const {
    const int thread = static_cast<int>(threadIdx.x);
    values[thread] = __shfl_sync(0xffffffffU, values[thread], from(thread));
  }

 private:
  unsigned char* shared_;
  uint32_t base_;
};

}  // namespace tmor::dependency_attention
