// The entries of batch_norm_relu in the Python module; csrc/bindings.cpp alone includes it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "batch_norm_relu/params.hpp"

namespace tmor::batch_norm_relu {

namespace detail {

// What the forward and the backward pass of batch_norm_relu take alike.
inline void fill(const pybind11::dict& given, Params* params) {
  params->dtype = static_cast<DType>(given["dtype"].cast<int64_t>());
  if (params->dtype != DType::float32 && params->dtype != DType::float16 && params->dtype != DType::bfloat16) {
    throw pybind11::type_error("batch_norm_relu takes float32, float16 or bfloat16 on the CPU");
  }
  params->rows = given["rows"].cast<int64_t>();
  params->channels = given["channels"].cast<int64_t>();
  if (params->rows < 1 || params->channels < 1)
    throw pybind11::value_error("batch_norm_relu needs a row and a channel");
  params->x = reinterpret_cast<const void*>(given["x"].cast<std::uintptr_t>());
  params->weight = reinterpret_cast<const float*>(given["weight"].cast<std::uintptr_t>());
  params->eps = given["eps"].cast<double>();
  params->threads = static_cast<int>(given["threads"].cast<int64_t>());
  params->isa = select_isa(given["isa"].cast<std::string>());
}

inline void forward(const pybind11::dict& given, std::uintptr_t bias, std::uintptr_t shortcut, bool relu, bool known,
                    std::uintptr_t statistics, std::uintptr_t out) {
  ForwardParams params;
  fill(given, &params);
  params.bias = reinterpret_cast<const float*>(bias);
  params.shortcut = reinterpret_cast<const void*>(shortcut);
  params.relu = relu;
  params.given = known;
  params.statistics = reinterpret_cast<float*>(statistics);
  params.out = reinterpret_cast<void*>(out);
  const pybind11::gil_scoped_release release;
  forward_cpu(params);
}

inline void backward(const pybind11::dict& given, std::uintptr_t statistics, std::uintptr_t grad, std::uintptr_t out,
                     std::uintptr_t grad_x, std::uintptr_t grad_shortcut, std::uintptr_t grad_weight,
                     std::uintptr_t grad_bias) {
  BackwardParams params;
  fill(given, &params);
  params.statistics = reinterpret_cast<const float*>(statistics);
  params.grad = reinterpret_cast<const void*>(grad);
  params.out = reinterpret_cast<const void*>(out);
  params.grad_x = reinterpret_cast<void*>(grad_x);
  params.grad_shortcut = reinterpret_cast<void*>(grad_shortcut);
  params.grad_weight = reinterpret_cast<float*>(grad_weight);
  params.grad_bias = reinterpret_cast<float*>(grad_bias);
  const pybind11::gil_scoped_release release;
  backward_cpu(params);
}

}  // namespace detail

inline void bind(pybind11::module_* module) {
  namespace py = pybind11;
  module->def("batch_norm_relu_cpu", &detail::forward, py::arg("given"), py::arg("bias"), py::arg("shortcut"),
              py::arg("relu"), py::arg("known"), py::arg("statistics"), py::arg("out"));
  module->def("batch_norm_relu_backward_cpu", &detail::backward, py::arg("given"), py::arg("statistics"),
              py::arg("grad"), py::arg("out"), py::arg("grad_x"), py::arg("grad_shortcut"), py::arg("grad_weight"),
              py::arg("grad_bias"));
}

}  // namespace tmor::batch_norm_relu
