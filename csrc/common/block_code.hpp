// Marks code of a block of threads, which runs on the device alone where there is one, and on the host that plays it.
#pragma once

#if defined(__CUDACC__)
#define TMOR_BLOCK_CODE __device__ __forceinline__
#define TMOR_UNROLL _Pragma("unroll")
#else
#define TMOR_BLOCK_CODE inline
#define TMOR_UNROLL
#endif
