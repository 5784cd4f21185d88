// The CUDA tile programs of dependency_attention on a host that plays the blocks (host_attention_block.hpp), against
// the equations in float64: tiling, packing, ring, fragments, padding, workspace, forward and backward.
// For .ci/check_sanitizers.sh; needs no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "attention_truth.hpp"
#include "dependency_attention/cuda_naive.hpp"
#include "dependency_attention/cuda_plan.hpp"
#include "host_attention_block.hpp"

namespace {

using namespace tmor::dependency_attention;
using tmor::BFloat16;
using tmor::Float16;

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

// Numbers that start `shift` numbers behind a multiple of 256 bytes, with guards on either side.
template <typename Number>
class Guarded {
 public:
  explicit Guarded(int64_t size, int64_t shift = 0) : size_(size), storage_(at(size + 1024 / kBytes)) {
    for (Number& value : storage_) value = narrow<Number>(-77.0F);
    const auto start = reinterpret_cast<uintptr_t>(storage_.data() + 8);
    data_ = reinterpret_cast<Number*>((start + 255) / 256 * 256) + shift;
  }
  Guarded(const std::vector<double>& values, int64_t shift) : Guarded(static_cast<int64_t>(values.size()), shift) {
    for (size_t i = 0; i < values.size(); ++i) data_[i] = narrow<Number>(static_cast<float>(values[i]));
  }
  Number* get() { return data_; }
  void check(const std::vector<double>& want, double tolerance, const std::string& what) const {
    double square = 1e-30;
    for (const double value : want) square += value * value;
    const double size = std::sqrt(square / static_cast<double>(want.size()));
    for (size_t i = 0; i < want.size(); ++i) {
      const double got = static_cast<double>(widen(data_[i]));
      const double error = std::fabs(got - want[i]);
      require(error <= tolerance * (size + std::fabs(want[i])),
              what + "[" + std::to_string(i) + "]: " + std::to_string(got) + ", not " + std::to_string(want[i]));
    }
    for (int64_t i = -8; i < 0; ++i) {
      require(widen(data_[i]) == -77.0F && widen(data_[size_ - 1 - i]) == -77.0F, what + ": written outside");
    }
  }

 private:
  static constexpr int64_t kBytes = sizeof(Number);
  int64_t size_;
  std::vector<Number> storage_;
  Number* data_;
};

template <typename Number>
constexpr double kTolerance = std::is_same<Number, float>::value     ? 2e-5
                              : std::is_same<Number, Float16>::value ? 6e-3
                                                                     : 5e-2;

CudaParams sizes_of(const Case& c) {
  CudaParams params;
  params.clips = c.clips;
  params.frames = c.frames;
  params.joints = c.joints;
  params.channels_in = c.inputs;
  params.channels_out = c.outputs;
  params.heads = c.heads;
  params.embedding = c.embedding;
  params.scale = std::exp2(-std::nearbyint(std::log2(static_cast<double>(c.embedding * c.frames)) / 2));
  return params;
}

// A workspace full of ones.
class Workspace {
 public:
  void give(CudaParams* params, int64_t bytes) {
    memory_.assign(at(bytes) + 256, 0xff);
    params->workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_.data()) + 255) / 256 * 256);
    params->workspace_bytes = bytes;
  }

 private:
  std::vector<unsigned char> memory_;
};

// All tensors of a call, and the call's parameters that point to them.
template <typename Number>
struct Call {
  Call(const Case& c, const Tensors& t, int64_t shift)
      : x(t.x, shift),
        qk_weight(t.qk_weight, 0),
        qk_bias(t.qk_bias, 0),
        dependency(t.dependency, 0),
        value_weight(t.value_weight, 0),
        value_bias(t.value_bias, 0),
        shortcut(t.shortcut, 0),
        grad(t.grad, shift),
        z(c.rows() * c.outputs),
        grad_x(c.rows() * c.inputs),
        grad_dependency(c.heads * c.joints * c.joints),
        grad_value(c.outputs * c.heads * c.inputs),
        params(sizes_of(c)) {
    params.dtype = std::is_same<Number, float>::value     ? tmor::DType::float32
                   : std::is_same<Number, Float16>::value ? tmor::DType::float16
                                                          : tmor::DType::bfloat16;
    params.x = x.get();
    params.query_key_weight = qk_weight.get();
    params.query_key_bias = qk_bias.get();
    params.dependency = dependency.get();
    params.value_weight = value_weight.get();
    params.value_bias = value_bias.get();
    params.shortcut = c.shortcut ? shortcut.get() : nullptr;
    params.relu = c.relu;
    params.z = z.get();
    params.grad_z = grad.get();
    params.grad_x = grad_x.get();
    params.grad_dependency = grad_dependency.get();
    params.grad_value_weight = grad_value.get();
    params.wants_attention = true;
  }

  Guarded<Number> x, qk_weight, qk_bias, dependency, value_weight, value_bias, shortcut, grad;
  Guarded<Number> z, grad_x, grad_dependency, grad_value;
  CudaParams params;
  Workspace workspace;
};

template <typename Number>
void check(const Case& c, unsigned seed, int64_t shift = 0) {
  const Tensors t = make_tensors<Number>(c, seed);
  const Truth truth(c, t);
  Call<Number> call(c, t, shift);
  CudaParams& params = call.params;
  const std::string name = c.name + ", dtype " + std::to_string(static_cast<int>(params.dtype)) + ": ";
  HostLauncher<Number> launcher(c.limits);
  call.workspace.give(&params, Plan<Number>(params, false).bytes());
  const Plan<Number> forward(params, false);
  require(forward.refusal(c.limits) == nullptr, name + "refused");
  forward.forward(launcher);
  call.z.check(truth.z, kTolerance<Number>, name + "z");

  params.workspace = nullptr;
  call.workspace.give(&params, Plan<Number>(params, true).bytes());
  const Plan<Number> backward(params, true);
  require(backward.refusal(c.limits) == nullptr, name + "refused backward");
  backward.backward(launcher);
  call.grad_x.check(truth.grad_x, kTolerance<Number>, name + "grad_x");
  call.grad_dependency.check(truth.grad_dependency, kTolerance<Number>, name + "grad_dependency");
  call.grad_value.check(truth.grad_value, kTolerance<Number>, name + "grad_value_weight");
  // Of all clips, then of the last one alone.
  for (const int64_t first : {int64_t{0}, c.clips - 1}) {
    const int64_t skipped = first * c.frames * c.joints * c.wide();
    Guarded<Number> grad_embedding(c.rows() * c.wide() - skipped);
    params.first_clip = first;
    params.last_clip = c.clips;
    params.grad_embedding = grad_embedding.get();
    backward.embedding_gradient(launcher);
    const std::vector<double> want(truth.grad_embedding.begin() + skipped, truth.grad_embedding.end());
    grad_embedding.check(want, 2 * kTolerance<Number>, name + "grad_embedding");
  }
  if (c.name == "streamed") require(launcher.saw_streamed, name + "nothing was streamed");
  if (c.name == "stationary") require(launcher.saw_stationary && !launcher.saw_streamed, name + "not stationary");
}

// The naive backend, whose gradients are complete.
template <typename Number>
void check_naive(const Case& c, unsigned seed) {
  const Tensors t = make_tensors<Number>(c, seed);
  const Truth truth(c, t);
  std::vector<double> grad_x = truth.grad_x;
  std::vector<double> qk_weight(at(c.wide() * c.inputs), 0.0);
  std::vector<double> qk_bias(at(c.wide()), 0.0);
  std::vector<double> value_bias(at(c.outputs), 0.0);
  for (int64_t row = 0; row < c.rows(); ++row) {
    for (int64_t j = 0; j < c.wide(); ++j) {
      const double pull = truth.grad_embedding[at(row * c.wide() + j)];
      qk_bias[at(j)] += pull;
      for (int64_t k = 0; k < c.inputs; ++k) {
        grad_x[at(row * c.inputs + k)] += pull * t.qk_weight[at(j * c.inputs + k)];
        qk_weight[at(j * c.inputs + k)] += pull * t.x[at(row * c.inputs + k)];
      }
    }
    for (int64_t o = 0; o < c.outputs; ++o) value_bias[at(o)] += t.grad[at(row * c.outputs + o)];
  }
  Call<Number> call(c, t, 0);
  CudaParams& params = call.params;
  Guarded<Number> got_weight(c.wide() * c.inputs), got_bias(c.wide()), got_value_bias(c.outputs);
  params.grad_query_key_weight = got_weight.get();
  params.grad_query_key_bias = got_bias.get();
  params.grad_value_bias = got_value_bias.get();
  for (const bool backward : {false, true}) {
    params.workspace = nullptr;
    call.workspace.give(&params, Naive(params, backward).bytes());
    const Naive naive(params, backward);
    const auto run = [&naive](NaiveStep step, int64_t count) {
      for (int64_t i = count - 1; i >= 0; --i) naive.one(step, i);
    };
    backward ? naive.backward(run) : naive.forward(run);
  }
  const double tolerance = kTolerance<Number> / 5;
  const std::string name = "naive, " + c.name + ": ";
  call.z.check(truth.z, tolerance, name + "z");
  call.grad_x.check(grad_x, tolerance, name + "grad_x");
  call.grad_dependency.check(truth.grad_dependency, tolerance, name + "grad_dependency");
  call.grad_value.check(truth.grad_value, tolerance, name + "grad_value_weight");
  got_weight.check(qk_weight, tolerance, name + "grad_query_key_weight");
  got_bias.check(qk_bias, tolerance, name + "grad_query_key_bias");
  got_value_bias.check(value_bias, tolerance, name + "grad_value_bias");
}

void test_numbers() {
  for (uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = widen(Float16{half});
    if (std::isfinite(wide)) require(narrow<Float16>(wide).bits == half, "float16 round trip");
    const float brain = widen(BFloat16{half});
    if (std::isfinite(brain)) require(narrow<BFloat16>(brain).bits == half, "bfloat16 round trip");
  }
  require(narrow<Float16>(1.00048828125F).bits == 0x3c00 && narrow<Float16>(1.00146484375F).bits == 0x3c02, "ties");
  require(narrow<Float16>(65519.0F).bits == 0x7bff && narrow<Float16>(65520.0F).bits == 0x7c00, "overflow");
  require(narrow<BFloat16>(1.00390625F).bits == 0x3f80 && narrow<BFloat16>(1.01171875F).bits == 0x3f82, "ties");
}

void test_tiling() {
  for (const int32_t joints : {1, 2, 5, 13, 17, 25, 31, 51, 64, 65, 128, 129, 153, 300}) {
    for (const int64_t frames : {1, 2, 7, 37, 150, 301}) {
      for (const int64_t clips : {1, 3, 64, 1000}) {
        Shape shape;
        shape.clips = clips;
        shape.frames = frames;
        shape.joints = joints;
        const Tiling tiling = make_tiling(shape);
        require(tiling.frames * joints <= tiling.rows() && tiling.tiles * tiling.frames >= frames, "tiles hold a clip");
        require(tiling.groups == 1 || tiling.frames == 1, "several groups of one frame");
        int64_t next = 0;
        for (int64_t block = 0; block < clips * tiling.splits; ++block) {
          const Share share = share_of(tiling, block);
          require(share.clip == block / tiling.splits && share.first < share.last, "a share of one clip");
          require(share.clip * tiling.tiles + share.first == next, "shares follow one another");
          next = share.clip * tiling.tiles + share.last;
        }
        require(next == clips * tiling.tiles, "shares are all");
      }
    }
  }
}

void test_memory() {
  Shape shape;
  shape.clips = 64;
  shape.frames = 150;
  shape.joints = 17;
  shape.heads = 3;
  for (const Limits& limits : {kHopper, Limits{166912, 167936}, kAda}) {
    for (const int32_t channels : {64, 128, 256}) {
      for (const Packing packing : {Packing::embedding, Packing::value, Packing::value_gradient}) {
        for (const int32_t size : {2, 4}) {
          shape.channels_in = shape.channels_out = channels;
          shape.embedding = channels / 4;
          const Tiling tiling = make_tiling(shape);
          const Pieces pieces = make_pieces(shape, packing, kSliceBytes / size);
          const Memory memory = plan_memory(tiling, pieces, 64, size, packing == Packing::value_gradient, limits);
          require(memory.stages >= 2 && memory.stages <= 4 && memory.bytes <= limits.per_block, "a block fits");
          require(memory.blocks * (memory.bytes + 1024) <= limits.per_multiprocessor, "and so do its neighbours");
          if (limits.per_block == kHopper.per_block && size == 2) require(memory.blocks == 2, "two blocks");
        }
      }
    }
  }
}

// Every weight is in one place, and all else is zero.
void test_packing() {
  for (const int32_t heads : {1, 3, 5, 12, 16}) {
    for (const int32_t channels : {1, 3, 16, 40}) {
      Shape shape;
      shape.heads = heads;
      shape.channels_in = channels;
      shape.channels_out = channels + 7;
      shape.embedding = channels;
      for (const Packing packing : {Packing::embedding, Packing::value, Packing::value_gradient}) {
        const Pieces pieces = make_pieces(shape, packing, 64);
        require(pieces.width % 32 == 0 && pieces.width <= kMostColumns, "width");
        const int64_t rows = packing == Packing::embedding ? 2 * heads * channels
                             : packing == Packing::value   ? shape.channels_out
                                                           : shape.channels_in;
        const int64_t kinds = packing == Packing::embedding ? 1 : heads;
        std::vector<int> seen(at(rows * kinds), 0);
        for (int64_t i = 0; i < int64_t{pieces.count} * pieces.columns(); ++i) {
          const Origin from = origin_of(shape, packing, pieces, i);
          if (from.channel >= 0) ++seen.at(at(from.channel * kinds + (kinds == 1 ? 0 : from.head)));
        }
        for (const int count : seen) require(count == 1, "each column once");
      }
    }
  }
}

void test_shapes() {
  const std::vector<Case> cases = {
      {"one number", 1, 1, 1, 1, 1, 1, 1},
      {"first layer", 2, 9, 17, 2, 64, 3, 16},
      {"stationary", 2, 16, 17, 64, 64, 3, 16},
      {"three slices", 1, 8, 17, 136, 40, 3, 32, true, true},
      {"heads cut by pieces", 1, 5, 13, 24, 33, 2, 64, true},
      {"ragged", 2, 31, 5, 129, 31, 3, 7, true, true},
      {"odd everywhere", 2, 3, 25, 3, 5, 2, 3, false, true},
      {"four heads", 1, 3, 20, 16, 24, 4, 16},
      {"twelve heads", 1, 3, 25, 8, 16, 12, 5},
      {"sixteen heads, two products a piece", 1, 2, 9, 8, 16, 16, 2},
      {"one joint", 2, 200, 1, 16, 16, 2, 8},
      {"64 joints", 1, 3, 64, 16, 16, 3, 16, true},
      {"65 joints", 1, 2, 65, 8, 9, 1, 20},
      {"153 joints", 1, 2, 153, 16, 8, 2, 16},
      {"streamed", 1, 9, 17, 256, 32, 3, 16, false, false, kAda},
  };
  unsigned seed = 0;
  for (const Case& c : cases) {
    ++seed;
    check<float>(c, seed);
    check<BFloat16>(c, seed);
    // Half precision differs in its numbers alone.
    if (c.rows() < 200) check<Float16>(c, seed);
  }
  // Tensors that start anywhere.
  check<BFloat16>(cases[6], 30, 1);
  check<float>(cases[1], 31, 2);
  for (const size_t i : {0, 6, 9}) {
    check_naive<float>(cases[i], 40);
    check_naive<BFloat16>(cases[i], 41);
    check_naive<Float16>(cases[i], 42);
  }
}

}  // namespace

int main() {
  test_numbers();
  test_tiling();
  test_memory();
  test_packing();
  test_shapes();
  std::puts("test_attention_tile_loop: ok");
  return 0;
}
