// DBSCAN by the obvious loops, one thread a point, all in float64: slow, and the first thing to compare with when the
// tile kernels are suspected.
#include "common/cuda_launch.hpp"
#include "dbscan/cuda_kernels.hpp"

namespace tmor::dbscan {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    naive_start(const __grid_constant__ Input input, uint32_t* parent, int64_t* status) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < kStatusWords) status[i] = i == kStatusBadRow ? input.n : 0;
  if (i < input.n) parent[i] = static_cast<uint32_t>(i);
}

struct FiniteRow {
  int64_t row;
  int64_t dimensions;
  template <typename Scalar>
  __device__ bool operator()(const Scalar* points) const {
    for (int64_t k = 0; k < dimensions; ++k) {
      if (!isfinite(static_cast<double>(points[row * dimensions + k]))) return false;
    }
    return true;
  }
};

__global__ void __launch_bounds__(kThreads)
    naive_core(const __grid_constant__ Input input, int64_t min_samples, uint8_t* core, int64_t* status) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;  // at most 2^31 + 127
  if (i >= input.n) return;
  if (!with_points(input, FiniteRow{int64_t{i}, input.dimensions})) {
    atomicMin(reinterpret_cast<unsigned long long*>(status + kStatusBadRow), static_cast<unsigned long long>(i));
  }
  if (input.weight == nullptr) {
    uint32_t count = 0;
    for (uint32_t j = 0; j < input.n; ++j) count += are_neighbours(input, i, j) ? 1 : 0;
    core[i] = count >= min_samples ? 1 : 0;
    return;
  }
  double amount = 0.0;
  for (uint32_t j = 0; j < input.n; ++j) {
    if (are_neighbours(input, i, j)) amount += input.weight[j];
  }
  core[i] = amount >= static_cast<double>(min_samples) ? 1 : 0;
}

__global__ void __launch_bounds__(kThreads)
    naive_unite(const __grid_constant__ Input input, const uint8_t* core, const __grid_constant__ UnionFind sets) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;  // at most 2^31 + 127
  if (i >= input.n || core[i] == 0) return;
  for (uint32_t j = 0; j < i; ++j) {
    if (core[j] == 0 || !are_neighbours(input, i, j)) continue;
    sets.unite(i, j);
  }
}

// One thread walks all points: the smallest of each set comes first, so its number is known when the others need it.
__global__ void naive_number(int64_t n, const uint8_t* core, const __grid_constant__ UnionFind sets, int64_t* labels) {
  int64_t clusters = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (core[i] == 0) continue;
    const uint32_t root = sets.find(static_cast<uint32_t>(i));
    labels[i] = root == i ? clusters++ : labels[root];
  }
}

__global__ void __launch_bounds__(kThreads)
    naive_borders(const __grid_constant__ Input input, const uint8_t* core, int64_t* labels) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= input.n || core[i] != 0) return;
  int64_t best = -1;
  for (int64_t j = 0; j < input.n; ++j) {
    if (core[j] == 0 || !are_neighbours(input, static_cast<uint32_t>(i), static_cast<uint32_t>(j))) continue;
    if (best < 0 || labels[j] < best) best = labels[j];
  }
  labels[i] = best;
}

}  // namespace

void run_cuda_naive(const CudaParams& params) {
  const auto stream = reinterpret_cast<cudaStream_t>(params.stream);
  const Input input = as_input(params);
  const DeviceGuard guard(params.device);
  UnionFind sets;
  sets.parent = static_cast<uint32_t*>(params.workspace);
  const unsigned grid = static_cast<unsigned>((params.n + kThreads - 1) / kThreads);
  naive_start<<<grid, kThreads, 0, stream>>>(input, sets.parent, params.status);
  check_cuda(cudaGetLastError(), "launching the naive dbscan start");
  naive_core<<<grid, kThreads, 0, stream>>>(input, params.min_samples, params.core, params.status);
  check_cuda(cudaGetLastError(), "launching the naive dbscan count");
  naive_unite<<<grid, kThreads, 0, stream>>>(input, params.core, sets);
  check_cuda(cudaGetLastError(), "launching the naive dbscan unions");
  naive_number<<<1, 1, 0, stream>>>(params.n, params.core, sets, params.labels);
  check_cuda(cudaGetLastError(), "launching the naive dbscan numbers");
  naive_borders<<<grid, kThreads, 0, stream>>>(input, params.core, params.labels);
  check_cuda(cudaGetLastError(), "launching the naive dbscan borders");
}

}  // namespace tmor::dbscan
