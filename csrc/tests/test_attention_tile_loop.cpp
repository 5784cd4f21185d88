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

#include "dependency_attention/cuda_naive.hpp"
#include "host_attention_call.hpp"

namespace {

using namespace tmor::dependency_attention;
using tmor::BFloat16;
using tmor::Float16;

template <typename Number>
void check(const Case& c, unsigned seed, int64_t shift = 0) {
  const Tensors t = make_tensors<Number>(c, seed);
  const Truth truth(c, t);
  Call<Number> call(c, t, shift);
  CudaParams& params = call.params;
  const std::string name = c.name + ", dtype " + std::to_string(static_cast<int>(params.dtype)) + ": ";
  HostLauncher<Number> launcher(c.limits);
  call.workspace.give(&params, Plan<Number>(params, false).bytes());
  launcher.allow({call.x.range(), call.workspace.range()});
  const Plan<Number> forward(params, false);
  require(forward.refusal(c.limits) == nullptr, name + "refused");
  forward.forward(launcher);
  call.z.check(truth.z, kTolerance<Number>, name + "z");

  params.workspace = nullptr;
  call.workspace.give(&params, Plan<Number>(params, true).bytes());
  const Plan<Number> backward(params, true);
  require(backward.refusal(c.limits) == nullptr, name + "refused backward");
  launcher.allow({call.x.range(), call.grad.range(), call.workspace.range()});
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
      {"two blocks of the value weight either way", 1, 2, 5, 70, 136, 1, 4},
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
  // Rows of a frame that is not there would lie behind the shared memory.
  check<BFloat16>({"120 joints of 32 heads", 1, 1, 120, 8, 8, 32, 1, false, false, Limits{166912, 167936}}, 29);
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
