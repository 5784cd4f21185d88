// The tile kernels: cuda_sweep.hpp and cuda_assign.hpp on the device.
#include <stdexcept>

#include "common/cuda_launch.hpp"
#include "dbscan/cuda_block.cuh"
#include "dbscan/cuda_kernels.hpp"

namespace tmor::dbscan {
namespace {

// The alignment is that of the ring's slices, whose swizzle counts on it.
template <typename Fixed>
struct alignas(16) Layout {
  unsigned long long unit;
  Fixed fixed;
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

__global__ void __launch_bounds__(kTileThreads, 2)
    sweep_kernel(const __grid_constant__ Field field, const __grid_constant__ RingPlan plan,
                 unsigned long long* counter) {
  auto* layout = reinterpret_cast<Layout<SweepShared>*>(shared_memory);
  DeviceBlock block(counter, &layout->unit);
  const Ring ring = make_ring<SweepShared>(plan, field.panels.padded, shared_memory);
  Sweep<DeviceBlock>(block, field, ring, layout->fixed).run();
}

__global__ void __launch_bounds__(kTileThreads, 2)
    assign_kernel(const __grid_constant__ AssignTask task, const __grid_constant__ RingPlan plan,
                  unsigned long long* counter) {
  auto* layout = reinterpret_cast<Layout<AssignShared>*>(shared_memory);
  DeviceBlock block(counter, &layout->unit);
  const Ring ring = make_ring<AssignShared>(plan, task.rows.padded, shared_memory);
  assign_points(block, task, ring, layout->fixed);
}

RingPlan make_plan(const Device& device, int64_t padded, int64_t fixed) {
  const RingPlan plan = plan_ring(padded / kSlice, fixed, device.shared_per_block, device.shared_per_multiprocessor);
  if (plan.bytes == 0)
    throw std::runtime_error("dbscan: the device has too little shared memory (needs 80 KB a block)");
  return plan;
}

}  // namespace

void sweep(const Device& device, Field field, unsigned long long* counter) {
  constexpr int64_t kFixed = kFixedBytes<SweepShared>;
  const RingPlan plan = make_plan(device, field.panels.padded, kFixed);
  const int64_t bytes = kFixed + plan.bytes;
  allow_shared(sweep_kernel, "shared memory of the dbscan sweep");
  const unsigned grid = static_cast<unsigned>(device.multiprocessors * plan.blocks);
  field.blocks = grid;
  sweep_kernel<<<grid, kTileThreads, static_cast<size_t>(bytes), device.stream>>>(field, plan, counter);
  check_cuda(cudaGetLastError(), "launching the dbscan sweep");
}

void assign(const Device& device, const AssignTask& task, unsigned long long* counter) {
  constexpr int64_t kFixed = kFixedBytes<AssignShared>;
  const RingPlan plan = make_plan(device, task.rows.padded, kFixed);
  const int64_t bytes = kFixed + plan.bytes;
  allow_shared(assign_kernel, "shared memory of the dbscan pivots");
  const unsigned grid = grid_for(device, task.row_panels, plan.blocks);
  assign_kernel<<<grid, kTileThreads, static_cast<size_t>(bytes), device.stream>>>(task, plan, counter);
  check_cuda(cudaGetLastError(), "launching the dbscan pivots");
}

}  // namespace tmor::dbscan
