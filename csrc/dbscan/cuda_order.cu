// Points by cells: a counting sort. Where in its cell a point goes depends on timing; labels do not.
#include <cub/block/block_scan.cuh>

#include "common/cuda_launch.hpp"
#include "dbscan/cuda_kernels.hpp"

namespace tmor::dbscan {
namespace {

constexpr int kScanThreads = 1024;

// The lanes of a warp that add to the same counter do so at once. Returns each lane's place. All lanes of the warp
// call.
__device__ __forceinline__ uint32_t add_one(uint32_t* counters, uint32_t which, bool active) {
  const unsigned lane = threadIdx.x % 32;
  const uint32_t key = active ? which : kNobody;
  const unsigned same = __match_any_sync(0xffffffffU, key);
  const int leader = __ffs(static_cast<int>(same)) - 1;
  uint32_t place = 0;
  if (active && static_cast<int>(lane) == leader) {
    place = atomicAdd(counters + which, static_cast<uint32_t>(__popc(same)));
  }
  place = __shfl_sync(0xffffffffU, place, leader);
  return place + static_cast<uint32_t>(__popc(same & ((1U << lane) - 1U)));
}

__global__ void __launch_bounds__(256)
    count_kernel(const Frame* frame, int64_t n, const __grid_constant__ Cells cells) {
  if (frame->valid == 0) return;
  const int64_t point = int64_t{blockIdx.x} * 256 + threadIdx.x;
  const bool active = point < n;
  add_one(cells.size, active ? cells.of_point[point] : 0, active);
}

// One block: first positions of the cells, those with panels of their own first.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const Frame* frame, const __grid_constant__ Cells cells, int64_t* panel_count) {
  using Scan = cub::BlockScan<uint32_t, kScanThreads>;
  __shared__ typename Scan::TempStorage storage;
  if (frame->valid == 0) {
    if (threadIdx.x == 0) *panel_count = 0;
    return;
  }
  uint32_t base = 0;
  for (int own = 1; own >= 0; --own) {
    for (int64_t first = 0; first < cells.cells; first += kScanThreads) {
      const int64_t cell = first + threadIdx.x;
      const uint32_t size = cell < cells.cells ? cells.size[cell] : 0;
      const uint32_t padded = own_positions(size);
      const bool mine = (padded != 0) == (own != 0);
      const uint32_t amount = !mine ? 0 : own != 0 ? padded : size;
      uint32_t before = 0;
      uint32_t total = 0;
      Scan(storage).ExclusiveSum(amount, before, total);
      if (mine && cell < cells.cells) cells.next[cell] = base + before;
      base += total;
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) *panel_count = (int64_t{base} + kPanel - 1) / kPanel;
}

__global__ void __launch_bounds__(256) clear_kernel(uint32_t* order, int64_t positions) {
  const int64_t position = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (position < positions) order[position] = kNobody;
}

__global__ void __launch_bounds__(256)
    place_kernel(const Frame* frame, int64_t n, const __grid_constant__ Cells cells, uint32_t* order) {
  if (frame->valid == 0) return;
  const int64_t point = int64_t{blockIdx.x} * 256 + threadIdx.x;
  const bool active = point < n;
  const uint32_t place = add_one(cells.next, active ? cells.of_point[point] : 0, active);
  if (active) order[place] = static_cast<uint32_t>(point);
}

unsigned blocks_of(int64_t work) { return static_cast<unsigned>((work + 255) / 256); }

}  // namespace

void order_by_cells(const Device& device, const Frame* frame, int64_t n, const Cells& cells, uint32_t* order,
                    int64_t positions, int64_t* panel_count) {
  count_kernel<<<blocks_of(n), 256, 0, device.stream>>>(frame, n, cells);
  check_cuda(cudaGetLastError(), "launching the dbscan cell sizes");
  scan_kernel<<<1, kScanThreads, 0, device.stream>>>(frame, cells, panel_count);
  check_cuda(cudaGetLastError(), "launching the dbscan cell places");
  clear_kernel<<<blocks_of(positions), 256, 0, device.stream>>>(order, positions);
  check_cuda(cudaGetLastError(), "launching the dbscan holes");
  place_kernel<<<blocks_of(n), 256, 0, device.stream>>>(frame, n, cells, order);
  check_cuda(cudaGetLastError(), "launching the dbscan places");
}

}  // namespace tmor::dbscan
