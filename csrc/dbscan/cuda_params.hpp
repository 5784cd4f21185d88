// What the CUDA backends of dbscan are given. The definition of the result is in params.hpp.
#pragma once

#include <cstdint>

#include "common/dtype.hpp"

namespace tmor::dbscan {

// What a run reports in `status`, besides its result.
enum Status : int {
  kStatusBadRow = 0,     // the first row that is not finite, n if there is none; labels are then undefined
  kStatusTiles = 1,      // tiles of 128 x 128 pairs that were computed
  kStatusRechecked = 2,  // pairs that were decided in float64
  kStatusPanels = 3,     // panels of 128 points
  kStatusWords = 4
};

// All pointers are of the device. Nothing is allocated, nothing waits for the device: everything is enqueued on
// `stream`, so a call can be captured in a CUDA graph.
struct CudaParams {
  const void* points = nullptr;         // (n, dimensions) row-major
  DType dtype = DType::float32;         // float32, float64, float16 or bfloat16
  int64_t n = 0;                        // 1 .. 2^31 - 1
  int64_t dimensions = 0;               // 1 .. 2^24
  double threshold = 0.0;               // largest squared distance of a neighbour
  int64_t min_samples = 1;              // >= 1
  const double* weight = nullptr;       // (n,) or null
  const double* largest = nullptr;      // (n,) or null: row x then stands for (x / largest) / length, in float64
  const double* length = nullptr;       // (n,), with `largest`
  const uint8_t* orthogonal = nullptr;  // (n,) or null, as in Params; not null with `largest`
  int64_t* labels = nullptr;            // out, (n,)
  uint8_t* core = nullptr;              // out, (n,)
  int64_t* status = nullptr;            // out, (kStatusWords,)
  void* workspace = nullptr;            // cuda_workspace(...) bytes, aligned to 256
  int64_t workspace_bytes = 0;
  int device = 0;
  uintptr_t stream = 0;
  int reorder = -1;  // 1 or 0: whether points are first sorted by place, so that tiles can be skipped; -1: n decides
};

// The workspace of either backend, in bytes.
int64_t cuda_workspace(int64_t n, int64_t dimensions, int64_t min_samples, bool weighted);

// One pass over the upper half of the distance matrix on the matrix units (cuda_sweep.hpp).
void run_cuda(const CudaParams& params);

// The same by plain loops in float64, one thread a point: O(n^2 d) on the general cores, for finding bugs.
void run_cuda_naive(const CudaParams& params);

}  // namespace tmor::dbscan
