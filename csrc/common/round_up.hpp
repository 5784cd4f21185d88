// Sizes rounded up to whole steps, on host and device.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"

namespace tmor {

// The smallest multiple of `step` that is not below `n`; both positive, or `n` 0.
TMOR_HOST_DEVICE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

}  // namespace tmor
