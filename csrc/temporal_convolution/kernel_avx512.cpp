#include "common/simd_avx512.hpp"
#include "temporal_convolution/kernel_body.hpp"

namespace tmor::temporal_convolution {

Kernel Kernel::avx512() { return kernel_of<Avx512>(); }

}  // namespace tmor::temporal_convolution
