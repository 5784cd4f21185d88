// The loops of a CPU backend that are compiled once per instruction set, of the best that this build and the caller
// allow.
#pragma once

#include "common/isa.hpp"

namespace tmor {

// `Kernel` has a maker for each instruction set: portable(), avx2(), avx512().
template <typename Kernel>
Kernel kernel_for(Isa isa) {
#if defined(TMOR_HAVE_AVX512)
  if (isa >= Isa::avx512) return Kernel::avx512();
#endif
#if defined(TMOR_HAVE_AVX2)
  if (isa >= Isa::avx2) return Kernel::avx2();
#endif
  (void)isa;
  return Kernel::portable();
}

}  // namespace tmor
