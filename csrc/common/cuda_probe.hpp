// Proves that kernels of this build launch on a device, on a given stream: what `tmor doctor` and the launch tests run.
#pragma once

#include <cstdint>

namespace tmor {

// How many CUDA devices the driver offers; 0 without a driver or a device.
int cuda_device_count();

// values[i] = (7 i + 1) mod 2^31 for i < n, enqueued on `stream` of `device`. Throws std::runtime_error with CUDA's
// message.
void cuda_probe(int device, std::uintptr_t stream, std::int32_t* values, std::int64_t n);

}  // namespace tmor
