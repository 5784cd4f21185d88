// What every CUDA host function needs: errors as exceptions, and the caller's device put back.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tmor {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  // Clears the error, so that it is not reported again by an innocent later call.
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int device_attribute(int device, cudaDeviceAttr which) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

// Lets `kernel` have all the shared memory that a block of the current device may have, and as much of the cache as
// there is for more blocks. Never the size of one launch: another thread could set a smaller one before that launch.
template <typename Kernel>
inline void allow_shared(Kernel kernel, const char* what) {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  cudaFuncAttributes kernels{};
  check_cuda(cudaFuncGetAttributes(&kernels, kernel), what);
  const int most =
      device_attribute(device, cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_cast<int>(kernels.sharedSizeBytes);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), what);
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
      what);
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace tmor
