#include "cluster_infonce/kernel_body.hpp"
#include "common/simd_avx2.hpp"

namespace tmor::cluster_infonce {

Kernel Kernel::avx2() { return kernel_of<Avx2>(); }

}  // namespace tmor::cluster_infonce
