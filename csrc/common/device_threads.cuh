// The threads of a block on the device, each running its part of a step: what the blocks of every op have in common.
#pragma once

namespace tmor {

class DeviceThreads {
 public:
  // What each thread keeps from one step to the next, in registers.
  template <typename T>
  struct PerThread {
    T value;
    __device__ __forceinline__ T& operator[](int) { return value; }
    __device__ __forceinline__ const T& operator[](int) const { return value; }
  };

  template <typename F>
  __device__ __forceinline__ void each(const F& f) const {
    f(static_cast<int>(threadIdx.x));
  }

  __device__ __forceinline__ void barrier() const { __syncthreads(); }
};

}  // namespace tmor
