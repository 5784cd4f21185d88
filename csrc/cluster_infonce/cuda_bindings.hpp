// The CUDA entries of cluster_infonce in the Python module; csrc/bindings.cpp alone includes it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "cluster_infonce/cuda_params.hpp"

namespace tmor::cluster_infonce {

namespace detail {

template <typename T>
T* address_of(const pybind11::dict& given, const char* name) {
  return reinterpret_cast<T*>(given[name].cast<std::uintptr_t>());
}

// Bank types that the kernels know.
inline DType key_dtype_of(int64_t code) {
  const auto dtype = static_cast<DType>(code);
  if (dtype != DType::float32 && dtype != DType::float16 && dtype != DType::bfloat16) {
    throw pybind11::type_error("cluster_infonce takes float32, float16 or bfloat16 keys");
  }
  return dtype;
}

inline void fill(const pybind11::dict& given, CudaParams* params) {
  const auto integer = [&given](const char* name) { return given[name].cast<int64_t>(); };
  params->key_dtype = key_dtype_of(integer("key_dtype"));
  params->batch = integer("batch");
  params->bank = integer("bank");
  params->dimensions = integer("dimensions");
  params->key_stride = integer("key_stride");
  params->chosen_count = integer("chosen_count");
  params->has_chosen = given["has_chosen"].cast<bool>();
  params->form = static_cast<Form>(integer("form"));
  params->denominator = static_cast<Denominator>(integer("denominator"));
  params->query = address_of<const float>(given, "query");
  params->keys = address_of<const void>(given, "keys");
  params->positive = address_of<const float>(given, "positive");
  params->temperature = address_of<const float>(given, "temperature");
  params->query_id = address_of<const int64_t>(given, "query_id");
  params->key_id = address_of<const int64_t>(given, "key_id");
  params->query_cluster = address_of<const int64_t>(given, "query_cluster");
  params->key_cluster = address_of<const int64_t>(given, "key_cluster");
  params->query_caption = address_of<const int64_t>(given, "query_caption");
  params->key_caption = address_of<const int64_t>(given, "key_caption");
  params->key_log_weight = address_of<const float>(given, "key_log_weight");
  params->chosen = address_of<const int64_t>(given, "chosen");
  params->workspace = address_of<void>(given, "workspace");
  params->workspace_bytes = integer("workspace_bytes");
  params->device = static_cast<int>(integer("device"));
  params->stream = given["stream"].cast<std::uintptr_t>();
}

inline void forward(const pybind11::dict& given, bool naive, std::uintptr_t loss, std::uintptr_t gradient,
                    std::uintptr_t own_gradient, std::uintptr_t statistics) {
  CudaForward params;
  fill(given, &params);
  params.loss = reinterpret_cast<float*>(loss);
  params.gradient = reinterpret_cast<float*>(gradient);
  params.own_gradient = reinterpret_cast<float*>(own_gradient);
  params.statistics = reinterpret_cast<float*>(statistics);
  const pybind11::gil_scoped_release release;
  naive ? forward_cuda_naive(params) : forward_cuda(params);
}

inline void keys(const pybind11::dict& given, bool naive, std::uintptr_t upstream, std::uintptr_t statistics,
                 std::uintptr_t key_gradient) {
  CudaKeyGradient params;
  fill(given, &params);
  params.upstream = reinterpret_cast<const float*>(upstream);
  params.statistics = reinterpret_cast<const float*>(statistics);
  params.key_gradient = reinterpret_cast<float*>(key_gradient);
  const pybind11::gil_scoped_release release;
  naive ? key_gradient_cuda_naive(params) : key_gradient_cuda(params);
}

// Bytes of the forward pass's workspace on a device with these limits.
inline int64_t workspace(int key_dtype, int64_t batch, int64_t bank, int64_t dimensions, int64_t chosen_count,
                         bool gradient, bool wants_aligned, int64_t multiprocessors, int64_t shared_per_block,
                         int64_t shared_per_multiprocessor) {
  const Limits limits{multiprocessors, shared_per_block, shared_per_multiprocessor};
  return cuda_forward_workspace(key_dtype_of(key_dtype), batch, bank, dimensions, chosen_count, gradient, wants_aligned,
                                limits);
}

}  // namespace detail

inline void bind_cuda(pybind11::module_* module) {
  using pybind11::arg;
  module->def("cluster_infonce_cuda", &detail::forward, arg("given"), arg("naive"), arg("loss"), arg("gradient"),
              arg("own_gradient"), arg("statistics"));
  module->def("cluster_infonce_keys_cuda", &detail::keys, arg("given"), arg("naive"), arg("upstream"),
              arg("statistics"), arg("key_gradient"));
  module->def(
      "cluster_infonce_cuda_limits",
      [](int device) {
        const Limits limits = cuda_limits(device);
        return pybind11::make_tuple(limits.multiprocessors, limits.shared_per_block, limits.shared_per_multiprocessor);
      },
      arg("device"));
  module->def("cluster_infonce_cuda_workspace", &detail::workspace, arg("key_dtype"), arg("batch"), arg("bank"),
              arg("dimensions"), arg("chosen_count"), arg("gradient"), arg("wants_aligned"), arg("multiprocessors"),
              arg("shared_per_block"), arg("shared_per_multiprocessor"));
  module->def(
      "cluster_infonce_keys_cuda_workspace",
      [](int key_dtype, int64_t batch, int64_t dimensions) {
        return cuda_keys_workspace(detail::key_dtype_of(key_dtype), batch, dimensions);
      },
      arg("key_dtype"), arg("batch"), arg("dimensions"));
  module->def("cluster_infonce_naive_cuda_workspace", &cuda_naive_workspace, arg("batch"), arg("dimensions"));
}

}  // namespace tmor::cluster_infonce
