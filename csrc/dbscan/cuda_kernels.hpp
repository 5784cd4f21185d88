// The steps of a CUDA run, each of which enqueues one or a few kernels. Host functions; csrc/dbscan/cuda.cu calls them
// in order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

#include "dbscan/cuda_assign.hpp"
#include "dbscan/cuda_params.hpp"
#include "dbscan/cuda_sweep.hpp"

namespace tmor::dbscan {

// What the launches need to know of the device.
struct Device {
  int multiprocessors = 1;
  int64_t shared_per_block = 0;
  int64_t shared_per_multiprocessor = 0;
  cudaStream_t stream = nullptr;
};

// What a run is given, as its kernels read it.
inline Input as_input(const CudaParams& params) {
  if (params.n < 1 || params.n > 0x7fffffff || params.dimensions < 1 || params.dimensions > int64_t{1} << 24) {
    throw std::invalid_argument("dbscan: sizes out of range");
  }
  const bool weighted = params.weight != nullptr;
  if (params.workspace_bytes < cuda_workspace(params.n, params.dimensions, params.min_samples, weighted)) {
    throw std::invalid_argument("dbscan: the workspace is too small");
  }
  Input input;
  input.points = params.points;
  input.dtype = params.dtype;
  input.n = params.n;
  input.dimensions = params.dimensions;
  input.threshold = params.threshold;
  input.weight = params.weight;
  input.largest = params.largest;
  input.length = params.length;
  input.orthogonal = params.orthogonal;
  return input;
}

// cuda_sweep.cu. `counter` is a zero that no other launch uses.
void sweep(const Device& device, Field field, unsigned long long* counter);
void assign(const Device& device, const AssignTask& task, unsigned long long* counter);

// cuda_prepare.cu
struct Centring {
  double* centre = nullptr;               // (dimensions,)
  unsigned long long* longest = nullptr;  // bits of the largest squared length; a zero before
  unsigned long long* bad_row = nullptr;  // n before
  Frame* frame = nullptr;
};
void centre_points(const Device& device, const Input& input, const Centring& centring);
void order_as_given(const Device& device, const Input& input, uint32_t* order, int64_t positions, int64_t* panel_count,
                    int64_t panels);
void choose_pivots(const Device& device, const Input& input, uint32_t* order, int64_t pivots, int64_t* panel_count);
// `panel_count` of the device bounds the work, `most` the grid.
void pack_panels(const Device& device, const Input& input, const Centring& centring, const Panels& panels,
                 const int64_t* panel_count, int64_t most);

// cuda_order.cu
struct Cells {
  uint32_t* of_point = nullptr;  // (n,)
  uint32_t* size = nullptr;      // (cells,) zeros before
  uint32_t* next = nullptr;      // (cells,)
  int64_t cells = 0;
};
// `positions` is most_positions(n).
void order_by_cells(const Device& device, const Frame* frame, int64_t n, const Cells& cells, uint32_t* order,
                    int64_t positions, int64_t* panel_count);

// cuda_finish.cu
void start(const Device& device, int64_t n, const NeighbourLists& lists, const UnionFind& sets, int64_t* status);
void find_kinds(const Device& device, const Field& field, uint32_t* kinds, int64_t most);
void unite_lists(const Device& device, const Field& field);
struct Numbering {
  int32_t* number = nullptr;    // (n,)
  int32_t* of_chunk = nullptr;  // (chunks(n),)
  TMOR_HOST_DEVICE static int64_t chunks(int64_t n) { return (n + 1023) / 1024; }
};
void write_labels(const Device& device, const Field& field, const Numbering& numbering, int64_t* labels, uint8_t* core,
                  int64_t* status);

inline unsigned grid_for(const Device& device, int64_t wanted, int64_t per_multiprocessor) {
  const int64_t most = device.multiprocessors * per_multiprocessor;
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

}  // namespace tmor::dbscan
