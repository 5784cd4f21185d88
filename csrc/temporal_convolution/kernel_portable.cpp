#include "common/simd_portable.hpp"
#include "temporal_convolution/kernel_body.hpp"

namespace tmor::temporal_convolution {

Kernel Kernel::portable() { return kernel_of<Portable>(); }

}  // namespace tmor::temporal_convolution
