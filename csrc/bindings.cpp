// The one Python module, tmor_fast._C. Thin: pointers as integers, sizes, type codes and streams in; results go into
// memory that the caller owns. tmor_fast/ops/launch.py is the only caller and has checked everything.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "build_info.hpp"
#include "common/dtype.hpp"
#include "common/isa.hpp"
#include "dbscan/params.hpp"

#if defined(TMOR_HAVE_CUDA)
#include "common/cuda_probe.hpp"
#endif

namespace py = pybind11;

namespace {

using Pointer = std::uintptr_t;

template <typename T>
T* as(Pointer address) {
  return reinterpret_cast<T*>(address);
}

// Called without the GIL. True if a signal handler raised (Ctrl-C); the exception is then set in the interpreter.
bool python_interrupted() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

void dbscan_cpu(Pointer points, int dtype, int64_t n, int64_t dimensions, double threshold, int64_t min_samples,
                Pointer weight, Pointer orthogonal, Pointer labels, Pointer core, int threads, const std::string& isa) {
  tmor::dbscan::Params params;
  params.points = as<const void>(points);
  params.dtype = static_cast<tmor::DType>(dtype);
  if (params.dtype != tmor::DType::float32 && params.dtype != tmor::DType::float64) {
    throw py::type_error("dbscan_cpu takes float32 or float64 points");
  }
  params.n = n;
  params.dimensions = dimensions;
  params.threshold = threshold;
  params.min_samples = min_samples;
  params.weight = as<const double>(weight);
  params.orthogonal = as<const uint8_t>(orthogonal);
  params.labels = as<int64_t>(labels);
  params.core = as<uint8_t>(core);
  params.threads = threads;
  params.isa = tmor::select_isa(isa);
  params.interrupted = python_interrupted;
  bool interrupted = false;
  {
    const py::gil_scoped_release release;
    try {
      tmor::dbscan::run_cpu(params);
    } catch (const tmor::dbscan::Interrupted&) {
      interrupted = true;
    }
  }
  if (interrupted) throw py::error_already_set();
}

py::list isa_names(const std::vector<tmor::Isa>& isas) {
  py::list names;
  for (const tmor::Isa isa : isas) names.append(tmor::isa_name(isa));
  return names;
}

// What the build contains; tmor_fast.build_config() adds what Python knows.
py::dict build_info() {
  py::dict info;
  info["compiler"] = TMOR_COMPILER;
#if defined(_OPENMP)
  info["openmp"] = _OPENMP;
#else
  info["openmp"] = 0;
#endif
  info["isa_compiled"] = isa_names(tmor::compiled_isas());
  info["isa_supported"] = isa_names(tmor::supported_isas());
  info["cuda"] = TMOR_CUDA_VERSION;
  info["cuda_architectures"] = TMOR_CUDA_ARCHITECTURES;
  info["cuda_reason"] = TMOR_CUDA_REASON;
  py::dict backends;
  backends["dbscan"] = py::make_tuple("cpu");
  info["backends"] = backends;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of tmor_fast; use tmor_fast.ops, which checks what it passes here.";
  module.def("build_info", &build_info);
  module.def("select_isa", [](const std::string& requested) { return tmor::isa_name(tmor::select_isa(requested)); });
  module.def("dbscan_cpu", &dbscan_cpu, py::arg("points"), py::arg("dtype"), py::arg("n"), py::arg("dimensions"),
             py::arg("threshold"), py::arg("min_samples"), py::arg("weight"), py::arg("orthogonal"), py::arg("labels"),
             py::arg("core"), py::arg("threads"), py::arg("isa"));
#if defined(TMOR_HAVE_CUDA)
  module.def("cuda_device_count", &tmor::cuda_device_count, py::call_guard<py::gil_scoped_release>());
  module.def(
      "cuda_probe",
      [](int device, Pointer stream, Pointer values, int64_t n) {
        tmor::cuda_probe(device, stream, as<int32_t>(values), n);
      },
      py::arg("device"), py::arg("stream"), py::arg("values"), py::arg("n"), py::call_guard<py::gil_scoped_release>());
#endif
}
