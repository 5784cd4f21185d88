#include "cluster_infonce/kernel_body.hpp"
#include "common/simd_avx512.hpp"

namespace tmor::cluster_infonce {

Kernel Kernel::avx512() { return kernel_of<Avx512>(); }

}  // namespace tmor::cluster_infonce
