#include "cluster_infonce/kernel_body.hpp"
#include "common/simd_portable.hpp"

namespace tmor::cluster_infonce {

Kernel Kernel::portable() { return kernel_of<Portable>(); }

}  // namespace tmor::cluster_infonce
