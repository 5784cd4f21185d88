// The entries of temporal_convolution in the Python module; csrc/bindings.cpp alone includes it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "temporal_convolution/params.hpp"

namespace tmor::temporal_convolution {

namespace detail {

inline void weight_gradient(const pybind11::dict& sizes, std::uintptr_t x, std::uintptr_t grad,
                            std::uintptr_t grad_weight, std::uintptr_t grad_bias, int threads, const std::string& isa) {
  Params params;
  const auto size = [&sizes](const char* name, int64_t least) {
    const auto value = sizes[name].cast<int64_t>();
    if (value < least) throw pybind11::value_error(std::string("temporal_convolution: ") + name + " is too small");
    return value;
  };
  params.clips = size("clips", 1);
  params.frames = size("frames", 1);
  params.output_frames = size("output_frames", 1);
  params.joints = size("joints", 1);
  params.in_channels = size("in_channels", 1);
  params.out_channels = size("out_channels", 1);
  params.kernel = size("kernel", 1);
  params.stride = size("stride", 1);
  params.dilation = size("dilation", 1);
  params.padding = size("padding", 0);
  params.x = reinterpret_cast<const float*>(x);
  params.grad = reinterpret_cast<const float*>(grad);
  params.grad_weight = reinterpret_cast<float*>(grad_weight);
  params.grad_bias = reinterpret_cast<float*>(grad_bias);
  params.threads = threads;
  params.isa = select_isa(isa);
  const pybind11::gil_scoped_release release;
  weight_gradient_cpu(params);
}

}  // namespace detail

inline void bind(pybind11::module_* module) {
  namespace py = pybind11;
  module->def("temporal_convolution_weight_gradient_cpu", &detail::weight_gradient, py::arg("sizes"), py::arg("x"),
              py::arg("grad"), py::arg("grad_weight"), py::arg("grad_bias"), py::arg("threads"), py::arg("isa"));
}

}  // namespace tmor::temporal_convolution
