#include "common/simd_avx512.hpp"
#include "dependency_attention/kernel_body.hpp"

namespace tmor::dependency_attention {

Kernel Kernel::avx512() { return kernel_of<Avx512>(); }

}  // namespace tmor::dependency_attention
