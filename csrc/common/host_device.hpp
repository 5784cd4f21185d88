// Marks functions that host and device code share.
#pragma once

#if defined(__CUDACC__)
#define TMOR_HOST_DEVICE __host__ __device__ inline
#else
#define TMOR_HOST_DEVICE inline
#endif
