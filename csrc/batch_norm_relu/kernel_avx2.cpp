#include "batch_norm_relu/kernel_body.hpp"
#include "common/simd_avx2.hpp"

namespace tmor::batch_norm_relu {

Kernel Kernel::avx2() { return kernel_of<Avx2>(); }

}  // namespace tmor::batch_norm_relu
