#include "common/simd_portable.hpp"
#include "dependency_attention/kernel_body.hpp"

namespace tmor::dependency_attention {

Kernel Kernel::portable() { return kernel_of<Portable>(); }

}  // namespace tmor::dependency_attention
