#include "batch_norm_relu/kernel_body.hpp"
#include "common/simd_portable.hpp"

namespace tmor::batch_norm_relu {

Kernel Kernel::portable() { return kernel_of<Portable>(); }

}  // namespace tmor::batch_norm_relu
