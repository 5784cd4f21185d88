// Centring, scaling, bfloat16 panels and what the bounds need to know of them.
#include "common/cuda_launch.hpp"
#include "dbscan/cuda_band.hpp"
#include "dbscan/cuda_kernels.hpp"

namespace tmor::dbscan {
namespace {

constexpr int64_t kSample = 4096;  // points whose mean is the centre; any centre is correct, a mean is a good one
constexpr int kWarps = 4;          // of a block where each warp takes a row

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffU, value, distance);
  return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(0xffffffffU, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// A block takes 32 coordinates; its 32 rows of threads share the sample and add up in a fixed order.
struct CentreColumns {
  int64_t n;
  int64_t dimensions;
  double* centre;
  double (*partial)[33];
  template <typename Scalar>
  __device__ void operator()(const Scalar* points) const {
    const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
    const int64_t step = n / kSample < 1 ? 1 : n / kSample;
    const int64_t used = (n + step - 1) / step;
    double sum = 0.0;
    if (column < dimensions) {
#pragma unroll 4
      for (int64_t i = threadIdx.y; i < used; i += 32) {
        sum += static_cast<double>(points[i * step * dimensions + column]) / static_cast<double>(used);
      }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= dimensions) return;
    for (int row = 1; row < 32; ++row) sum += partial[row][threadIdx.x];
    centre[column] = sum;
  }
};

__global__ void __launch_bounds__(1024) centre_kernel(const __grid_constant__ Input input, double* centre) {
  __shared__ double partial[32][33];
  if (input.orthogonal != nullptr) {
    const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
    if (threadIdx.y == 0 && column < input.dimensions) centre[column] = 0.0;
    return;
  }
  with_points(input, CentreColumns{input.n, input.dimensions, centre, partial});
}

// A warp takes a row at a time.
struct LongestRow {
  int64_t n;
  int64_t dimensions;
  const double* centre;
  unsigned long long* longest;
  unsigned long long* bad_row;
  template <typename Scalar>
  __device__ void operator()(const Scalar* points) const {
    double most = 0.0;
    const int64_t warps = int64_t{gridDim.x} * kWarps;
    for (int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < n; row += warps) {
      double total = 0.0;
      bool finite = true;
#pragma unroll 4
      for (int64_t k = threadIdx.x % 32; k < dimensions; k += 32) {
        const double point = static_cast<double>(points[row * dimensions + k]);
        finite = finite && isfinite(point);
        const double value = point - centre[k];
        total += value * value;
      }
      total = warp_sum(total);
      if (!__all_sync(0xffffffffU, finite) && threadIdx.x % 32 == 0) {
        atomicMin(bad_row, static_cast<unsigned long long>(row));
      }
      // Written so that an overflow to NaN counts as infinite.
      if (!(total <= most)) most = total < HUGE_VAL ? total : HUGE_VAL;
    }
    // Positive numbers are in the order of their bits.
    if (threadIdx.x % 32 == 0) {
      atomicMax(longest, static_cast<unsigned long long>(__double_as_longlong(most)));
    }
  }
};

__global__ void __launch_bounds__(kWarps * 32)
    longest_kernel(const __grid_constant__ Input input, const __grid_constant__ Centring centring) {
  with_points(input, LongestRow{input.n, input.dimensions, centring.centre, centring.longest, centring.bad_row});
}

__global__ void frame_kernel(const __grid_constant__ Input input, const __grid_constant__ Centring centring) {
  Frame frame = make_cuda_frame(__longlong_as_double(static_cast<long long>(*centring.longest)), input.dimensions,
                                input.threshold, input.orthogonal != nullptr);
  frame.valid = *centring.bad_row == static_cast<unsigned long long>(input.n) ? 1 : 0;
  *centring.frame = frame;
}

__global__ void identity_kernel(int64_t n, uint32_t* order, int64_t positions, int64_t* panel_count, int64_t panels) {
  const int64_t position = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (position == 0) *panel_count = panels;
  if (position < positions) order[position] = position < n ? static_cast<uint32_t>(position) : kNobody;
}

// Evenly spaced points; holes behind the last pivot.
__global__ void pivots_kernel(int64_t n, uint32_t* order, int64_t pivots, int64_t positions, int64_t* panel_count) {
  const int64_t position = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (position == 0) *panel_count = positions / kPanel;
  if (position < positions)
    order[position] = position < pivots ? static_cast<uint32_t>(position * n / pivots) : kNobody;
}

struct PackPosition {
  const Input& input;
  const double* centre;
  const Frame& frame;
  const Panels& panels;
  int64_t position;
  int64_t point;
  template <typename Scalar>
  __device__ void operator()(const Scalar* points) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t d = input.dimensions;
    uint16_t* row = panels.values + position * panels.padded;
    RowSums sums = input.largest == nullptr
                       ? pack_row(points + point * d, centre, frame, d, panels.padded, lane, 32, row)
                       : pack_row(row_of(input, points, point), centre, frame, d, panels.padded, lane, 32, row);
    sums.squared = warp_sum(sums.squared);
    sums.residual = warp_sum(sums.residual);
    sums.length = warp_sum(sums.length);
    if (lane != 0) return;
    const bool orthogonal = input.orthogonal != nullptr && input.orthogonal[point] != 0;
    finish_row(sums, orthogonal, panels.norm + position, panels.residual + position);
  }
};

__global__ void __launch_bounds__(kWarps * 32)
    pack_kernel(const __grid_constant__ Input input, const __grid_constant__ Centring centring,
                const __grid_constant__ Panels panels, const int64_t* panel_count) {
  const Frame frame = *centring.frame;
  if (frame.valid == 0) return;
  const int64_t positions = *panel_count * kPanel;
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  for (int64_t position = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; position < positions; position += warps) {
    const uint32_t point = panels.order[position];
    if (point != kNobody) {
      with_points(input, PackPosition{input, centring.centre, frame, panels, position, int64_t{point}});
      continue;
    }
    for (int64_t k = threadIdx.x % 32; k < panels.padded; k += 32) panels.values[position * panels.padded + k] = 0;
    if (threadIdx.x % 32 == 0) {
      panels.norm[position] = kHoleNorm;
      panels.residual[position] = 0.0F;
    }
  }
}

// A block takes a panel: the mean of its rows, then the row farthest from it.
__global__ void __launch_bounds__(kWarps * 32)
    summary_kernel(const __grid_constant__ Input input, const Frame* frame, const __grid_constant__ Panels panels,
                   const int64_t* panel_count) {
  if (frame->valid == 0) return;
  __shared__ float most[3][kWarps];
  __shared__ int points;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  for (int64_t panel = blockIdx.x; panel < *panel_count; panel += gridDim.x) {
    const int64_t first = panel * kPanel;
    const int here = __syncthreads_count(panels.order[first + threadIdx.x] != kNobody ? 1 : 0);
    if (threadIdx.x == 0) points = here;
    __syncthreads();
    float* centroid = panels.centroid + panel * input.dimensions;
    for (int64_t k = threadIdx.x; k < input.dimensions; k += kPanel) {
      float sum = 0.0F;
#pragma unroll 8
      for (int row = 0; row < kPanel; ++row) sum += BFloat16::widen(panels.values[(first + row) * panels.padded + k]);
      centroid[k] = sum / static_cast<float>(points);  // rows of holes are zeros
    }
    __syncthreads();
    float length = 0.0F;
    float slack = 0.0F;
    float radius = frame->bounded != 0 ? 0.0F : HUGE_VALF;
    for (int64_t position = first + warp; position < first + kPanel; position += kWarps) {
      const uint32_t point = panels.order[position];
      if (point == kNobody) continue;
      float squared = 0.0F;
      for (int64_t k = lane; k < input.dimensions; k += 32) {
        const float difference = BFloat16::widen(panels.values[position * panels.padded + k]) - centroid[k];
        squared += difference * difference;
      }
      squared = warp_sum(squared);
      const bool orthogonal = input.orthogonal != nullptr && input.orthogonal[point] != 0;
      const float residual = panels.residual[position];
      length = fmaxf(length, row_length(panels.norm[position]));
      slack = fmaxf(slack, residual);
      radius = fmaxf(radius, reach_from_centroid(squared, orthogonal, residual, input.dimensions));
    }
    if (lane == 0) {
      most[0][warp] = length;
      most[1][warp] = slack;
      most[2][warp] = radius;
    }
    __syncthreads();
    if (threadIdx.x < 3) {
      float value = most[threadIdx.x][0];
      for (int w = 1; w < kWarps; ++w) value = fmaxf(value, most[threadIdx.x][w]);
      float* target = threadIdx.x == 0 ? panels.length : threadIdx.x == 1 ? panels.slack : panels.radius;
      target[panel] = value;
    }
    __syncthreads();
  }
}

unsigned blocks_of(int64_t work, int threads) { return static_cast<unsigned>((work + threads - 1) / threads); }

}  // namespace

void centre_points(const Device& device, const Input& input, const Centring& centring) {
  centre_kernel<<<blocks_of(input.dimensions, 32), dim3(32, 32), 0, device.stream>>>(input, centring.centre);
  check_cuda(cudaGetLastError(), "launching the dbscan centre");
  longest_kernel<<<grid_for(device, (input.n + kWarps - 1) / kWarps, 16), kWarps * 32, 0, device.stream>>>(input,
                                                                                                           centring);
  check_cuda(cudaGetLastError(), "launching the dbscan lengths");
  frame_kernel<<<1, 1, 0, device.stream>>>(input, centring);
  check_cuda(cudaGetLastError(), "launching the dbscan frame");
}

void order_as_given(const Device& device, const Input& input, uint32_t* order, int64_t positions, int64_t* panel_count,
                    int64_t panels) {
  identity_kernel<<<blocks_of(positions, 256), 256, 0, device.stream>>>(input.n, order, positions, panel_count, panels);
  check_cuda(cudaGetLastError(), "launching the dbscan order");
}

void choose_pivots(const Device& device, const Input& input, uint32_t* order, int64_t pivots, int64_t* panel_count) {
  const int64_t positions = (pivots + kPanel - 1) / kPanel * kPanel;
  pivots_kernel<<<blocks_of(positions, 256), 256, 0, device.stream>>>(input.n, order, pivots, positions, panel_count);
  check_cuda(cudaGetLastError(), "launching the dbscan pivots");
}

void pack_panels(const Device& device, const Input& input, const Centring& centring, const Panels& panels,
                 const int64_t* panel_count, int64_t most) {
  pack_kernel<<<grid_for(device, most * kPanel / kWarps, 16), kWarps * 32, 0, device.stream>>>(input, centring, panels,
                                                                                               panel_count);
  check_cuda(cudaGetLastError(), "launching the dbscan panels");
  if (panels.centroid == nullptr) return;
  summary_kernel<<<grid_for(device, most, 16), kWarps * 32, 0, device.stream>>>(input, centring.frame, panels,
                                                                                panel_count);
  check_cuda(cudaGetLastError(), "launching the dbscan panel bounds");
}

}  // namespace tmor::dbscan
