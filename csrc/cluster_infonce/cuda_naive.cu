// cluster_infonce by the obvious loops, a thread a query or a key, all in float64: slow, and the first thing to compare
// with when the tile kernels are suspected.
#include <stdexcept>

#include "cluster_infonce/cuda_params.hpp"
#include "cluster_infonce/cuda_stream.hpp"
#include "common/cuda_launch.hpp"

namespace tmor::cluster_infonce {
namespace {

constexpr int kThreads = 64;

__device__ double key_at(const CudaParams& params, int64_t key, int64_t k) {
  const int64_t at = key * params.key_stride + k;
  if (params.key_dtype == DType::float32) return static_cast<double>(static_cast<const float*>(params.keys)[at]);
  const uint16_t bits = static_cast<const uint16_t*>(params.keys)[at];
  return static_cast<double>(params.key_dtype == DType::float16 ? Float16::widen(bits) : BFloat16::widen(bits));
}

__device__ double logit_of(const CudaParams& params, int64_t query, int64_t key) {
  double sum = 0.0;
  for (int64_t k = 0; k < params.dimensions; ++k) {
    sum += static_cast<double>(params.query[query * params.dimensions + k]) * key_at(params, key, k);
  }
  const double weight = params.key_log_weight != nullptr ? static_cast<double>(params.key_log_weight[key]) : 0.0;
  return sum / static_cast<double>(*params.temperature) + weight;
}

__device__ double own_logit(const CudaParams& params, int64_t query) {
  double sum = 0.0;
  for (int64_t k = 0; k < params.dimensions; ++k) {
    const int64_t at = query * params.dimensions + k;
    sum += static_cast<double>(params.query[at]) * static_cast<double>(params.positive[at]);
  }
  return sum / static_cast<double>(*params.temperature);
}

enum class Pair { none, positive, negative };

__device__ Pair pair_of(const CudaParams& params, int64_t query, int64_t key) {
  if (params.query_id[query] == params.key_id[key]) return Pair::none;
  if (params.query_cluster[query] >= 0 && params.query_cluster[query] == params.key_cluster[key]) {
    if (!params.has_chosen) return Pair::positive;
    for (int64_t c = 0; c < params.chosen_count; ++c) {
      if (params.chosen[query * params.chosen_count + c] == key) return Pair::positive;
    }
    return Pair::none;
  }
  const bool described = params.query_caption != nullptr && params.query_caption[query] >= 0 &&
                         params.query_caption[query] == params.key_caption[key];
  return described ? Pair::none : Pair::negative;
}

// By a logit of P or of N.
__device__ double derivative(const Finished& done, Pair pair, double logit) {
  if (pair == Pair::negative) return exp(logit - done.denominator);
  return done.softmax_share * exp(logit - done.positive) - done.plain_share;
}

__global__ void __launch_bounds__(kThreads, 4) naive_forward(const __grid_constant__ CudaForward params) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= params.batch) return;
  double negative = -INFINITY;
  double positive = -INFINITY;
  double count = 0.0;
  double logit_sum = 0.0;
  bool finite = true;
  const double own = params.positive != nullptr ? own_logit(params, i) : 0.0;
  for (int64_t j = params.positive != nullptr ? -1 : 0; j < params.bank; ++j) {
    const Pair pair = j < 0 ? Pair::positive : pair_of(params, i, j);
    if (pair == Pair::none) continue;
    const double logit = j < 0 ? own : logit_of(params, i, j);
    finite = finite && isfinite(logit);
    if (pair == Pair::negative) {
      negative = log_add(negative, logit);
      continue;
    }
    positive = log_add(positive, logit);
    logit_sum += logit;
    count += 1.0;
  }
  const Finished done =
      finish(params.form, params.denominator, negative, positive, count, logit_sum, negative > -INFINITY);
  params.loss[i] = finite ? static_cast<float>(done.loss) : NAN;
  const double own_derivative = derivative(done, Pair::positive, own);
  params.own_gradient[i] = static_cast<float>(own_derivative);
  const double statistics[4] = {done.denominator, done.positive, done.softmax_share, done.plain_share};
  for (int64_t k = 0; k < 4; ++k) params.statistics[k * params.batch + i] = static_cast<float>(statistics[k]);
  if (params.gradient == nullptr) return;
  double* sums = static_cast<double*>(params.workspace) + i * params.dimensions;
  for (int64_t k = 0; k < params.dimensions; ++k) {
    const double vector = params.positive != nullptr ? params.positive[i * params.dimensions + k] : 0.0F;
    sums[k] = own_derivative * vector;
  }
  for (int64_t j = 0; j < params.bank; ++j) {
    const Pair pair = pair_of(params, i, j);
    if (pair == Pair::none) continue;
    const double value = derivative(done, pair, logit_of(params, i, j));
    for (int64_t k = 0; k < params.dimensions; ++k) sums[k] += value * key_at(params, j, k);
  }
  for (int64_t k = 0; k < params.dimensions; ++k) {
    const double gradient = sums[k] / static_cast<double>(*params.temperature);
    params.gradient[i * params.dimensions + k] = finite ? static_cast<float>(gradient) : NAN;
  }
}

__global__ void __launch_bounds__(kThreads, 4) naive_keys(const __grid_constant__ CudaKeyGradient params) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= params.bank) return;
  float* row = params.key_gradient + j * params.dimensions;
  for (int64_t k = 0; k < params.dimensions; ++k) row[k] = 0.0F;
  for (int64_t i = 0; i < params.batch; ++i) {
    const Pair pair = pair_of(params, i, j);
    if (pair == Pair::none) continue;
    const auto statistic = [&](int64_t k) { return static_cast<double>(params.statistics[k * params.batch + i]); };
    Finished done;
    done.denominator = statistic(0);
    done.positive = statistic(1);
    done.softmax_share = statistic(2);
    done.plain_share = statistic(3);
    const double upstream = static_cast<double>(params.upstream[i]) / static_cast<double>(*params.temperature);
    const double value = upstream * derivative(done, pair, logit_of(params, i, j));
    for (int64_t k = 0; k < params.dimensions; ++k) {
      row[k] += static_cast<float>(value * static_cast<double>(params.query[i * params.dimensions + k]));
    }
  }
}

unsigned blocks_for(const CudaParams& params, int64_t threads, int64_t workspace) {
  if (params.batch < 1 || params.bank < 1 || params.dimensions < 1 || threads > int64_t{0x7fffffff} * kThreads) {
    throw std::invalid_argument("cluster_infonce: sizes out of range");
  }
  if (params.workspace_bytes < workspace) throw std::invalid_argument("cluster_infonce: the workspace is too small");
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

int64_t cuda_naive_workspace(int64_t batch, int64_t dimensions) {
  return batch * dimensions * static_cast<int64_t>(sizeof(double));
}

void forward_cuda_naive(const CudaForward& params) {
  const unsigned blocks = blocks_for(params, params.batch, cuda_naive_workspace(params.batch, params.dimensions));
  const DeviceGuard guard(params.device);
  naive_forward<<<blocks, kThreads, 0, reinterpret_cast<cudaStream_t>(params.stream)>>>(params);
  check_cuda(cudaGetLastError(), "launching the naive cluster_infonce");
}

void key_gradient_cuda_naive(const CudaKeyGradient& params) {
  const unsigned blocks = blocks_for(params, params.bank, 0);
  const DeviceGuard guard(params.device);
  naive_keys<<<blocks, kThreads, 0, reinterpret_cast<cudaStream_t>(params.stream)>>>(params);
  check_cuda(cudaGetLastError(), "launching the naive key gradient of cluster_infonce");
}

}  // namespace tmor::cluster_infonce
