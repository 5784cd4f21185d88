#include "batch_norm_relu/kernel_body.hpp"
#include "common/simd_avx512.hpp"

namespace tmor::batch_norm_relu {

Kernel Kernel::avx512() { return kernel_of<Avx512>(); }

}  // namespace tmor::batch_norm_relu
