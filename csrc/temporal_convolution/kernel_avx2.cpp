#include "common/simd_avx2.hpp"
#include "temporal_convolution/kernel_body.hpp"

namespace tmor::temporal_convolution {

Kernel Kernel::avx2() { return kernel_of<Avx2>(); }

}  // namespace tmor::temporal_convolution
