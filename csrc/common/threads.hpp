// Which of OpenMP's threads runs; the first where there is no OpenMP.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace tmor {

inline int this_thread() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

}  // namespace tmor
