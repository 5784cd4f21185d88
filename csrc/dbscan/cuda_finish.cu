// What comes before the first sweep and after the last.
#include <cub/block/block_scan.cuh>

#include "common/cuda_launch.hpp"
#include "dbscan/cuda_kernels.hpp"
#include "dbscan/cuda_labels.hpp"

namespace tmor::dbscan {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 1024;  // points whose clusters one block numbers

__global__ void __launch_bounds__(kThreads) start_kernel(int64_t n, const __grid_constant__ NeighbourLists lists,
                                                         const __grid_constant__ UnionFind sets, int64_t* status) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread < kStatusWords) status[thread] = thread == kStatusBadRow ? n : 0;
  for (int64_t point = thread; point < n; point += step) {
    lists.count[point] = 0;
    sets.parent[point] = static_cast<uint32_t>(point);
  }
  if (lists.slots == nullptr) return;
  for (int64_t slot = thread; slot < n * lists.capacity; slot += step) lists.slots[slot] = kNobody;
}

__global__ void __launch_bounds__(kPanel) kinds_kernel(const __grid_constant__ Field field, uint32_t* kinds) {
  if (field.frame->valid == 0) return;
  for (int64_t panel = blockIdx.x; panel < *field.panel_count; panel += gridDim.x) {
    const uint32_t kind = kind_of(field, panel * kPanel + threadIdx.x);
    const int core = __syncthreads_or(static_cast<int>(kind & kHasCore));
    const int other = __syncthreads_or(static_cast<int>(kind & kHasOther));
    if (threadIdx.x == 0) kinds[panel] = (core != 0 ? kHasCore : 0U) | (other != 0 ? kHasOther : 0U);
  }
}

__global__ void __launch_bounds__(kThreads) unite_kernel(const __grid_constant__ Field field) {
  if (field.frame->valid == 0) return;
  const int64_t point = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (point < field.input.n) unite_list(field.lists, field.sets, static_cast<uint32_t>(point));
}

// Clusters that start in each chunk of points.
__global__ void __launch_bounds__(kChunk) starts_kernel(const __grid_constant__ Field field, int32_t* of_chunk) {
  const int64_t point = int64_t{blockIdx.x} * kChunk + threadIdx.x;
  const bool start = point < field.input.n && starts_cluster(field, static_cast<uint32_t>(point));
  const int count = __syncthreads_count(start ? 1 : 0);
  if (threadIdx.x == 0) of_chunk[blockIdx.x] = count;
}

// One block: of_chunk becomes the clusters that start before the chunk.
__global__ void __launch_bounds__(kChunk) chunks_kernel(int32_t* of_chunk, int64_t chunks) {
  using Scan = cub::BlockScan<int32_t, kChunk>;
  __shared__ typename Scan::TempStorage storage;
  int32_t base = 0;
  for (int64_t first = 0; first < chunks; first += kChunk) {
    const int64_t chunk = first + threadIdx.x;
    int32_t before = 0;
    int32_t total = 0;
    Scan(storage).ExclusiveSum(chunk < chunks ? of_chunk[chunk] : 0, before, total);
    if (chunk < chunks) of_chunk[chunk] = base + before;
    base += total;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kChunk)
    number_kernel(const __grid_constant__ Field field, const __grid_constant__ Numbering numbering) {
  using Scan = cub::BlockScan<int32_t, kChunk>;
  __shared__ typename Scan::TempStorage storage;
  const int64_t point = int64_t{blockIdx.x} * kChunk + threadIdx.x;
  const bool start = point < field.input.n && starts_cluster(field, static_cast<uint32_t>(point));
  int32_t before = 0;
  Scan(storage).ExclusiveSum(start ? 1 : 0, before);
  if (point < field.input.n) numbering.number[point] = start ? numbering.of_chunk[blockIdx.x] + before : -1;
}

__global__ void __launch_bounds__(kThreads) label_kernel(const __grid_constant__ Field field, const int32_t* number,
                                                         int64_t* labels, uint8_t* core, int64_t* status) {
  const int64_t point = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (point == 0) status[kStatusPanels] = *field.panel_count;
  if (point >= field.input.n) return;
  const bool valid = field.frame->valid != 0;
  const uint32_t vertex = static_cast<uint32_t>(point);
  labels[point] = valid ? label_of(field, number, vertex) : -1;
  core[point] = valid && field.lists.core(vertex) ? 1 : 0;
}

unsigned blocks_of(int64_t work, int threads) { return static_cast<unsigned>((work + threads - 1) / threads); }

}  // namespace

void start(const Device& device, int64_t n, const NeighbourLists& lists, const UnionFind& sets, int64_t* status) {
  start_kernel<<<grid_for(device, blocks_of(n, kThreads), 8), kThreads, 0, device.stream>>>(n, lists, sets, status);
  check_cuda(cudaGetLastError(), "launching the dbscan start");
}

void find_kinds(const Device& device, const Field& field, uint32_t* kinds, int64_t most) {
  kinds_kernel<<<grid_for(device, most, 16), kPanel, 0, device.stream>>>(field, kinds);
  check_cuda(cudaGetLastError(), "launching the dbscan panel kinds");
}

void unite_lists(const Device& device, const Field& field) {
  unite_kernel<<<blocks_of(field.input.n, kThreads), kThreads, 0, device.stream>>>(field);
  check_cuda(cudaGetLastError(), "launching the dbscan unions");
}

void write_labels(const Device& device, const Field& field, const Numbering& numbering, int64_t* labels, uint8_t* core,
                  int64_t* status) {
  const int64_t n = field.input.n;
  const int64_t chunks = Numbering::chunks(n);
  starts_kernel<<<static_cast<unsigned>(chunks), kChunk, 0, device.stream>>>(field, numbering.of_chunk);
  check_cuda(cudaGetLastError(), "launching the dbscan cluster count");
  chunks_kernel<<<1, kChunk, 0, device.stream>>>(numbering.of_chunk, chunks);
  check_cuda(cudaGetLastError(), "launching the dbscan cluster scan");
  number_kernel<<<static_cast<unsigned>(chunks), kChunk, 0, device.stream>>>(field, numbering);
  check_cuda(cudaGetLastError(), "launching the dbscan cluster numbers");
  label_kernel<<<blocks_of(n, kThreads), kThreads, 0, device.stream>>>(field, numbering.number, labels, core, status);
  check_cuda(cudaGetLastError(), "launching the dbscan labels");
}

}  // namespace tmor::dbscan
