#include "common/simd_avx2.hpp"
#include "dependency_attention/kernel_body.hpp"

namespace tmor::dependency_attention {

Kernel Kernel::avx2() { return kernel_of<Avx2>(); }

}  // namespace tmor::dependency_attention
