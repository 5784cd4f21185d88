// The one Python module, tmor_fast._C. Thin: pointers as integers, sizes, type codes and streams in; results go into
// memory that the caller owns. tmor_fast/ops/launch.py is the only caller and has checked everything.
#include "batch_norm_relu/bindings.hpp"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "build_info.hpp"
#include "cluster_infonce/params.hpp"
#include "common/dtype.hpp"
#include "common/isa.hpp"
#include "dbscan/params.hpp"
#include "dependency_attention/cpu_params.hpp"
#include "temporal_convolution/bindings.hpp"

#if defined(TMOR_HAVE_CUDA)
#include "cluster_infonce/cuda_bindings.hpp"
#include "common/cuda_probe.hpp"
#include "dbscan/cuda_params.hpp"
#include "dependency_attention/cuda_params.hpp"
#endif

namespace py = pybind11;

namespace {

using Pointer = std::uintptr_t;

template <typename T>
T* as(Pointer address) {
  return reinterpret_cast<T*>(address);
}

// Called without the GIL. True if a signal handler raised (Ctrl-C) or the progress callback did; the exception is then
// set in the interpreter.
bool python_poll(void* progress, double done) {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) return true;
  if (progress == nullptr) return false;
  PyObject* result = PyObject_CallFunction(static_cast<PyObject*>(progress), "d", done);
  Py_XDECREF(result);
  return result == nullptr;
}

bool python_interrupted() { return python_poll(nullptr, 0.0); }

tmor::dbscan::Arithmetic arithmetic_named(const std::string& name) {
  if (name.empty() || name == "auto") return tmor::dbscan::Arithmetic::automatic;
  if (name == "float32") return tmor::dbscan::Arithmetic::float32;
  if (name == "bfloat16") return tmor::dbscan::Arithmetic::bfloat16;
  if (name == "int8") return tmor::dbscan::Arithmetic::int8;
  throw py::value_error("arithmetic '" + name + "' is unknown; accepted: auto, float32, bfloat16, int8");
}

py::dict as_dict(const tmor::dbscan::Stats& stats) {
  static const char* const kNames[] = {"auto", "float32", "bfloat16", "int8"};
  py::dict result;
  result["pairs"] = stats.pairs;
  result["compared"] = stats.compared;
  result["inside"] = stats.inside;
  result["rechecked"] = stats.rechecked;
  result["arithmetic"] = kNames[static_cast<int>(stats.arithmetic)];
  result["reordered"] = stats.reordered;
  result["order"] = stats.order;
  return result;
}

py::dict dbscan_cpu(Pointer points, int dtype, int64_t n, int64_t dimensions, double threshold, int64_t min_samples,
                    Pointer weight, Pointer largest, Pointer length, Pointer orthogonal, Pointer labels, Pointer core,
                    int64_t share, int64_t shares, Pointer lists, Pointer parents, int threads, const std::string& isa,
                    const std::string& arithmetic, int reorder, const py::object& progress) {
  tmor::dbscan::Params params;
  tmor::dbscan::Stats stats;
  params.points = as<const void>(points);
  params.dtype = static_cast<tmor::DType>(dtype);
  if (params.dtype != tmor::DType::float32 && params.dtype != tmor::DType::float64 &&
      params.dtype != tmor::DType::float16 && params.dtype != tmor::DType::bfloat16) {
    throw py::type_error("dbscan_cpu takes float32, float64, float16 or bfloat16 points");
  }
  params.n = n;
  params.dimensions = dimensions;
  params.threshold = threshold;
  params.min_samples = min_samples;
  params.weight = as<const double>(weight);
  params.largest = as<const double>(largest);
  params.length = as<const double>(length);
  params.orthogonal = as<const uint8_t>(orthogonal);
  params.labels = as<int64_t>(labels);
  params.core = as<uint8_t>(core);
  params.stats = &stats;
  params.share = share;
  params.shares = shares;
  params.lists = as<int32_t>(lists);
  params.parents = as<int32_t>(parents);
  params.threads = threads;
  params.isa = tmor::select_isa(isa);
  params.arithmetic = arithmetic_named(arithmetic);
  params.reorder = reorder;
  params.poll = python_poll;
  params.context = progress.is_none() ? nullptr : progress.ptr();
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
  return as_dict(stats);
}

// What the forward and the backward pass of cluster_infonce take alike.
void fill_infonce(const py::dict& given, tmor::cluster_infonce::Params* params) {
  using namespace tmor::cluster_infonce;
  const auto integer = [&given](const char* name) { return given[name].cast<int64_t>(); };
  const auto address = [&given](const char* name) { return given[name].cast<Pointer>(); };
  params->key_dtype = static_cast<tmor::DType>(integer("key_dtype"));
  if (params->key_dtype != tmor::DType::float32 && params->key_dtype != tmor::DType::float16 &&
      params->key_dtype != tmor::DType::bfloat16) {
    throw py::type_error("cluster_infonce takes float32, float16 or bfloat16 keys");
  }
  params->batch = integer("batch");
  params->bank = integer("bank");
  params->dimensions = integer("dimensions");
  params->key_stride = integer("key_stride");
  params->chosen_count = integer("chosen_count");
  params->has_chosen = given["has_chosen"].cast<bool>();
  params->form = static_cast<Form>(integer("form"));
  params->denominator = static_cast<Denominator>(integer("denominator"));
  params->temperature = given["temperature"].cast<double>();
  params->query = as<const float>(address("query"));
  params->keys = as<const void>(address("keys"));
  params->positive = as<const float>(address("positive"));
  params->query_id = as<const int64_t>(address("query_id"));
  params->key_id = as<const int64_t>(address("key_id"));
  params->query_cluster = as<const int64_t>(address("query_cluster"));
  params->key_cluster = as<const int64_t>(address("key_cluster"));
  params->query_caption = as<const int64_t>(address("query_caption"));
  params->key_caption = as<const int64_t>(address("key_caption"));
  params->key_log_weight = as<const float>(address("key_log_weight"));
  params->chosen = as<const int64_t>(address("chosen"));
  params->threads = static_cast<int>(integer("threads"));
  params->isa = tmor::select_isa(given["isa"].cast<std::string>());
}

// Runs `work` without the GIL; what a signal handler raised meanwhile ends the call.
template <typename Interrupted, typename Work>
void run_interruptible(const Work& work) {
  bool interrupted = false;
  {
    const py::gil_scoped_release release;
    try {
      work();
    } catch (const Interrupted&) {
      interrupted = true;
    }
  }
  if (interrupted) throw py::error_already_set();
}

void cluster_infonce_cpu(const py::dict& given, Pointer loss, Pointer gradient, Pointer own_gradient,
                         Pointer statistics) {
  tmor::cluster_infonce::ForwardParams params;
  fill_infonce(given, &params);
  params.loss = as<float>(loss);
  params.gradient = as<float>(gradient);
  params.own_gradient = as<float>(own_gradient);
  params.statistics = as<float>(statistics);
  params.interrupted = python_interrupted;
  run_interruptible<tmor::cluster_infonce::Interrupted>([&params] { tmor::cluster_infonce::forward_cpu(params); });
}

void cluster_infonce_keys_cpu(const py::dict& given, Pointer upstream, Pointer statistics, Pointer pair_key,
                              Pointer pair_query, Pointer pair_value, int64_t pairs, Pointer key_gradient) {
  tmor::cluster_infonce::KeyGradientParams params;
  fill_infonce(given, &params);
  params.upstream = as<const float>(upstream);
  params.statistics = as<const float>(statistics);
  params.pair_key = as<const int64_t>(pair_key);
  params.pair_query = as<const int64_t>(pair_query);
  params.pair_value = as<const float>(pair_value);
  params.pairs = pairs;
  params.key_gradient = as<float>(key_gradient);
  params.interrupted = python_interrupted;
  run_interruptible<tmor::cluster_infonce::Interrupted>([&params] { tmor::cluster_infonce::key_gradient_cpu(params); });
}

// What the forward and the backward pass of dependency_attention take alike.
void fill_attention(const py::dict& given, tmor::dependency_attention::CpuParams* params) {
  const auto integer = [&given](const char* name) { return given[name].cast<int64_t>(); };
  const auto address = [&given](const char* name) { return given[name].cast<Pointer>(); };
  params->dtype = static_cast<tmor::DType>(integer("dtype"));
  if (params->dtype != tmor::DType::float32 && params->dtype != tmor::DType::float16 &&
      params->dtype != tmor::DType::bfloat16) {
    throw py::type_error("dependency_attention takes float32, float16 or bfloat16 on the CPU");
  }
  params->clips = integer("clips");
  params->frames = integer("frames");
  params->joints = integer("joints");
  params->channels_in = integer("channels_in");
  params->channels_out = integer("channels_out");
  params->heads = integer("heads");
  params->embedding = integer("embedding");
  params->x = as<const void>(address("x"));
  params->query_key_weight = as<const float>(address("query_key_weight"));
  params->query_key_bias = as<const float>(address("query_key_bias"));
  params->dependency = as<const float>(address("dependency"));
  params->value_weight = as<const float>(address("value_weight"));
  params->threads = static_cast<int>(integer("threads"));
  params->isa = tmor::select_isa(given["isa"].cast<std::string>());
  params->interrupted = python_interrupted;
}

void dependency_attention_cpu(const py::dict& given, Pointer value_bias, Pointer shortcut, bool relu, Pointer z,
                              Pointer statistics) {
  tmor::dependency_attention::CpuForwardParams params;
  fill_attention(given, &params);
  params.value_bias = as<const float>(value_bias);
  params.shortcut = as<const void>(shortcut);
  params.relu = relu;
  params.z = as<void>(z);
  params.statistics = as<float>(statistics);
  run_interruptible<tmor::dependency_attention::CpuInterrupted>(
      [&params] { tmor::dependency_attention::forward_cpu(params); });
}

void dependency_attention_backward_cpu(const py::dict& given, Pointer grad, Pointer grad_x,
                                       Pointer grad_query_key_weight, Pointer grad_query_key_bias,
                                       Pointer grad_dependency, Pointer grad_value_weight, Pointer grad_value_bias) {
  tmor::dependency_attention::CpuBackwardParams params;
  fill_attention(given, &params);
  params.grad = as<const void>(grad);
  params.grad_x = as<void>(grad_x);
  params.grad_query_key_weight = as<float>(grad_query_key_weight);
  params.grad_query_key_bias = as<float>(grad_query_key_bias);
  params.grad_dependency = as<float>(grad_dependency);
  params.grad_value_weight = as<float>(grad_value_weight);
  params.grad_value_bias = as<float>(grad_value_bias);
  run_interruptible<tmor::dependency_attention::CpuInterrupted>(
      [&params] { tmor::dependency_attention::backward_cpu(params); });
}

#if defined(TMOR_HAVE_CUDA)
void dbscan_cuda(bool naive, Pointer points, int dtype, int64_t n, int64_t dimensions, double threshold,
                 int64_t min_samples, Pointer weight, Pointer largest, Pointer length, Pointer orthogonal,
                 Pointer labels, Pointer core, Pointer status, Pointer workspace, int64_t workspace_bytes, int device,
                 Pointer stream, int reorder) {
  tmor::dbscan::CudaParams params;
  params.points = as<const void>(points);
  params.dtype = static_cast<tmor::DType>(dtype);
  if (dtype < 0 || dtype > static_cast<int>(tmor::DType::bfloat16)) {
    throw py::type_error("dbscan_cuda takes float32, float64, float16 or bfloat16 points");
  }
  params.n = n;
  params.dimensions = dimensions;
  params.threshold = threshold;
  params.min_samples = min_samples;
  params.weight = as<const double>(weight);
  params.largest = as<const double>(largest);
  params.length = as<const double>(length);
  params.orthogonal = as<const uint8_t>(orthogonal);
  params.labels = as<int64_t>(labels);
  params.core = as<uint8_t>(core);
  params.status = as<int64_t>(status);
  params.workspace = as<void>(workspace);
  params.workspace_bytes = workspace_bytes;
  params.device = device;
  params.stream = stream;
  params.reorder = reorder;
  const py::gil_scoped_release release;
  if (naive) {
    tmor::dbscan::run_cuda_naive(params);
  } else {
    tmor::dbscan::run_cuda(params);
  }
}

// Sizes and pointers of dependency_attention; what is not given keeps its default.
tmor::dependency_attention::CudaParams attention_params(const py::dict& given) {
  tmor::dependency_attention::CudaParams params;
  const auto integer = [&given](const char* name) {
    return given.contains(name) ? given[name].cast<int64_t>() : int64_t{0};
  };
  const auto in = [&given](const char* name) {
    return as<const void>(given.contains(name) ? given[name].cast<Pointer>() : 0);
  };
  const auto out = [&given](const char* name) {
    return as<void>(given.contains(name) ? given[name].cast<Pointer>() : 0);
  };
  params.dtype = static_cast<tmor::DType>(integer("dtype"));
  if (params.dtype != tmor::DType::float32 && params.dtype != tmor::DType::float16 &&
      params.dtype != tmor::DType::bfloat16) {
    throw py::type_error("dependency_attention_cuda takes float32, float16 or bfloat16");
  }
  params.clips = integer("clips");
  params.frames = integer("frames");
  params.joints = integer("joints");
  params.channels_in = integer("channels_in");
  params.channels_out = integer("channels_out");
  params.heads = integer("heads");
  params.embedding = integer("embedding");
  if (given.contains("scale")) params.scale = given["scale"].cast<double>();
  params.x = in("x");
  params.query_key_weight = in("query_key_weight");
  params.query_key_bias = in("query_key_bias");
  params.dependency = in("dependency");
  params.value_weight = in("value_weight");
  params.value_bias = in("value_bias");
  params.shortcut = in("shortcut");
  params.relu = integer("relu") != 0;
  params.z = out("z");
  params.statistics = static_cast<float*>(out("statistics"));
  params.grad_z = in("grad_z");
  params.grad_x = out("grad_x");
  params.grad_dependency = out("grad_dependency");
  params.grad_value_weight = out("grad_value_weight");
  params.grad_embedding = out("grad_embedding");
  params.first_clip = integer("first_clip");
  params.last_clip = integer("last_clip");
  params.wants_attention = integer("wants_attention") != 0;
  params.grad_query_key_weight = out("grad_query_key_weight");
  params.grad_query_key_bias = out("grad_query_key_bias");
  params.grad_value_bias = out("grad_value_bias");
  params.workspace = out("workspace");
  params.workspace_bytes = integer("workspace_bytes");
  params.device = static_cast<int>(integer("device"));
  if (given.contains("stream")) params.stream = given["stream"].cast<Pointer>();
  return params;
}

void dependency_attention_cuda(const py::dict& given, bool naive, const std::string& which) {
  using namespace tmor::dependency_attention;
  const CudaParams params = attention_params(given);
  if (params.workspace == nullptr) throw py::value_error("dependency_attention_cuda needs a workspace");
  const py::gil_scoped_release release;
  if (which == "forward") {
    naive ? run_cuda_naive_forward(params) : run_cuda_forward(params);
  } else if (which == "backward") {
    naive ? run_cuda_naive_backward(params) : run_cuda_backward(params);
  } else {
    run_cuda_embedding_gradient(params);
  }
}

int64_t dependency_attention_cuda_workspace(const py::dict& given, bool naive, bool backward) {
  using namespace tmor::dependency_attention;
  const CudaParams params = attention_params(given);
  return naive ? cuda_naive_workspace(params, backward) : cuda_workspace(params, backward);
}
#endif

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
  backends["batch_norm_relu"] = py::make_tuple("cpu");
  backends["temporal_convolution"] = py::make_tuple("cpu");
#if defined(TMOR_HAVE_CUDA)
  backends["cluster_infonce"] = py::make_tuple("cpu", "cuda", "cuda_naive");
  backends["dbscan"] = py::make_tuple("cpu", "cuda", "cuda_naive");
  backends["dependency_attention"] = py::make_tuple("cpu", "cuda", "cuda_naive");
#else
  backends["cluster_infonce"] = py::make_tuple("cpu");
  backends["dependency_attention"] = py::make_tuple("cpu");
  backends["dbscan"] = py::make_tuple("cpu");
#endif
  info["backends"] = backends;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of tmor_fast; use tmor_fast.ops, which checks what it passes here.";
  module.def("build_info", &build_info);
  module.def("select_isa", [](const std::string& requested) { return tmor::isa_name(tmor::select_isa(requested)); });
  module.def("dbscan_cpu", &dbscan_cpu, py::arg("points"), py::arg("dtype"), py::arg("n"), py::arg("dimensions"),
             py::arg("threshold"), py::arg("min_samples"), py::arg("weight"), py::arg("largest"), py::arg("length"),
             py::arg("orthogonal"), py::arg("labels"), py::arg("core"), py::arg("share"), py::arg("shares"),
             py::arg("lists"), py::arg("parents"), py::arg("threads"), py::arg("isa"), py::arg("arithmetic"),
             py::arg("reorder"), py::arg("progress"));
  module.def("cluster_infonce_cpu", &cluster_infonce_cpu, py::arg("given"), py::arg("loss"), py::arg("gradient"),
             py::arg("own_gradient"), py::arg("statistics"));
  module.def("cluster_infonce_keys_cpu", &cluster_infonce_keys_cpu, py::arg("given"), py::arg("upstream"),
             py::arg("statistics"), py::arg("pair_key"), py::arg("pair_query"), py::arg("pair_value"), py::arg("pairs"),
             py::arg("key_gradient"));
  module.def("dependency_attention_cpu", &dependency_attention_cpu, py::arg("given"), py::arg("value_bias"),
             py::arg("shortcut"), py::arg("relu"), py::arg("z"), py::arg("statistics"));
  module.def("dependency_attention_backward_cpu", &dependency_attention_backward_cpu, py::arg("given"), py::arg("grad"),
             py::arg("x"), py::arg("query_key_weight"), py::arg("query_key_bias"), py::arg("dependency"),
             py::arg("value_weight"), py::arg("value_bias"));
  tmor::batch_norm_relu::bind(&module);
  tmor::temporal_convolution::bind(&module);
  module.def(
      "cluster_infonce_exp2_cpu",
      [](Pointer x, Pointer result, int64_t n, const std::string& isa) {
        tmor::cluster_infonce::exp2_cpu(as<const float>(x), as<float>(result), n, tmor::select_isa(isa));
      },
      py::arg("x"), py::arg("result"), py::arg("n"), py::arg("isa"));
#if defined(TMOR_HAVE_CUDA)
  tmor::cluster_infonce::bind_cuda(&module);
  module.def("dbscan_cuda", &dbscan_cuda, py::arg("naive"), py::arg("points"), py::arg("dtype"), py::arg("n"),
             py::arg("dimensions"), py::arg("threshold"), py::arg("min_samples"), py::arg("weight"), py::arg("largest"),
             py::arg("length"), py::arg("orthogonal"), py::arg("labels"), py::arg("core"), py::arg("status"),
             py::arg("workspace"), py::arg("workspace_bytes"), py::arg("device"), py::arg("stream"),
             py::arg("reorder"));
  module.def("dbscan_cuda_workspace", &tmor::dbscan::cuda_workspace, py::arg("n"), py::arg("dimensions"),
             py::arg("min_samples"), py::arg("weighted"));
  module.def("dependency_attention_cuda", &dependency_attention_cuda, py::arg("given"), py::arg("naive"),
             py::arg("which"));
  module.def("dependency_attention_cuda_workspace", &dependency_attention_cuda_workspace, py::arg("given"),
             py::arg("naive"), py::arg("backward"));
  module.def(
      "dependency_attention_cuda_refusal",
      [](const py::dict& given) { return tmor::dependency_attention::cuda_refusal(attention_params(given)); },
      py::arg("given"));
  module.def("cuda_device_count", &tmor::cuda_device_count, py::call_guard<py::gil_scoped_release>());
  module.def(
      "cuda_probe",
      [](int device, Pointer stream, Pointer values, int64_t n) {
        tmor::cuda_probe(device, stream, as<int32_t>(values), n);
      },
      py::arg("device"), py::arg("stream"), py::arg("values"), py::arg("n"), py::call_guard<py::gil_scoped_release>());
#endif
}
