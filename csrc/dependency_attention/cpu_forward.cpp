// The forward pass. Where there are clips enough, a thread takes one clip after another; else threads share the blocks
// of frames of a clip. The blocks and the order in which their products are added up depend on the sizes alone.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "common/merge_moments.hpp"
#include "dependency_attention/cpu_problem.hpp"

namespace tmor::dependency_attention {
namespace {

// What a thread works with.
struct Scratch {
  explicit Scratch(const Problem& problem)
      : x(problem.in_place(problem.params.channels_in, problem.in) ? 0 : longest(problem) * problem.in),
        embedding(problem.embed_blocks.longest() * problem.joints * problem.embeddings),
        products(problem.pairs),
        mixed(problem.value_blocks.longest() * problem.joints * problem.mixed),
        z(problem.in_place(problem.params.channels_out, problem.out)
              ? 0
              : problem.value_blocks.longest() * problem.joints * problem.out),
        shortcut(problem.joints * problem.out),
        columns(2 * problem.joints),
        moments(3 * problem.params.channels_out) {}

  static int64_t longest(const Problem& problem) {
    return std::max(problem.embed_blocks.longest(), problem.value_blocks.longest()) * problem.joints;
  }
  Floats x;
  Floats embedding;
  Floats products;
  Floats mixed;
  Floats z;
  Floats shortcut;
  Floats columns;
  Floats moments;
};

class Forward {
 public:
  explicit Forward(const CpuForwardParams& params)
      : params_(params),
        problem_(params),
        embed_(problem_.kernel, problem_.input_groups(), problem_.embedding_groups()),
        value_(problem_.kernel, problem_.mixed_groups(), {1, params.channels_out, problem_.out}),
        embed_bias_(problem_.padded_bias()),
        value_bias_(problem_.out),
        moments_(params.statistics == nullptr ? 0 : params.clips * problem_.value_blocks.count, params.channels_out),
        watch_(params.interrupted) {
    std::fill_n(value_bias_.data(), problem_.out, 0.0F);
    std::copy_n(params.value_bias, params.channels_out, value_bias_.data());
  }

  void run() {
    pack();
    for (int i = 0; i < problem_.threads; ++i) scratch_.emplace_back(problem_);
    if (params_.clips >= 2 * problem_.threads || problem_.threads == 1) {
      clip_by_clip();
    } else {
      block_by_block();
    }
    if (params_.statistics != nullptr) moments_.write(params_.statistics);
  }

 private:
  void pack() {
    const int64_t first = embed_.panels();
    const int64_t row = params_.heads * params_.channels_in;
    for_each(problem_, first + value_.panels(), false, &watch_, [&](int64_t panel, int) {
      if (panel < first) {
        embed_.fill(panel, params_.query_key_weight, 1, params_.channels_in);
      } else {
        value_.fill(panel - first, params_.value_weight, 1, row);
      }
    });
  }

  void clip_by_clip() {
    std::vector<Floats> logits;
    std::vector<Floats> mixing;
    for (int i = 0; i < problem_.threads; ++i) {
      logits.emplace_back(problem_.pairs);
      mixing.emplace_back(problem_.pairs);
    }
    for_each(problem_, params_.clips, false, &watch_, [&](int64_t clip, int thread) {
      Scratch* scratch = &scratch_[static_cast<size_t>(thread)];
      Floats& sums = logits[static_cast<size_t>(thread)];
      float* mixed = mixing[static_cast<size_t>(thread)].data();
      std::fill_n(sums.data(), problem_.pairs, 0.0F);
      for (int64_t block = 0; block < problem_.embed_blocks.count; ++block) {
        embed(clip, block, scratch, scratch->products.data());
        for (int64_t i = 0; i < problem_.pairs; ++i) sums[i] += scratch->products[i];
      }
      problem_.softmax(sums.data(), scratch->columns.data());
      problem_.add_dependency(sums.data(), mixed);
      for (int64_t block = 0; block < problem_.value_blocks.count; ++block) value(clip, block, mixed, scratch);
    });
  }

  void block_by_block() {
    const int64_t embeds = problem_.embed_blocks.count;
    const int64_t values = problem_.value_blocks.count;
    Floats products(params_.clips * embeds * problem_.pairs);
    Floats mixing(params_.clips * problem_.pairs);
    for_each(problem_, params_.clips * embeds, false, &watch_, [&](int64_t item, int thread) {
      embed(item / embeds, item % embeds, &scratch_[static_cast<size_t>(thread)],
            products.data() + item * problem_.pairs);
    });
    for_each(problem_, params_.clips, false, &watch_, [&](int64_t clip, int thread) {
      Scratch& scratch = scratch_[static_cast<size_t>(thread)];
      std::fill_n(scratch.products.data(), problem_.pairs, 0.0F);
      for (int64_t block = 0; block < embeds; ++block) {
        const float* part = products.data() + (clip * embeds + block) * problem_.pairs;
        for (int64_t i = 0; i < problem_.pairs; ++i) scratch.products[i] += part[i];
      }
      problem_.softmax(scratch.products.data(), scratch.columns.data());
      problem_.add_dependency(scratch.products.data(), mixing.data() + clip * problem_.pairs);
    });
    for_each(problem_, params_.clips * values, false, &watch_, [&](int64_t item, int thread) {
      value(item / values, item % values, mixing.data() + item / values * problem_.pairs,
            &scratch_[static_cast<size_t>(thread)]);
    });
  }

  void embed(int64_t clip, int64_t block, Scratch* scratch, float* products) const {
    const int64_t first = problem_.embed_blocks.first(block);
    const int64_t frames = problem_.embed_blocks.first(block + 1) - first;
    const float* x = problem_.load(params_.x, clip, first, frames, params_.channels_in, problem_.in, scratch->x.data());
    problem_.embed(x, frames, embed_, embed_bias_, scratch->embedding.data(), products);
  }

  void value(int64_t clip, int64_t block, const float* mixing, Scratch* scratch) {
    const int64_t first = problem_.value_blocks.first(block);
    const int64_t frames = problem_.value_blocks.first(block + 1) - first;
    const float* x = problem_.load(params_.x, clip, first, frames, params_.channels_in, problem_.in, scratch->x.data());
    float* mixed = scratch->mixed.data();
    problem_.mix(x, frames, mixing, mixed);
    const int64_t rows = frames * problem_.joints;
    const int64_t channels = params_.channels_out;
    Finish finish;
    finish.bias = value_bias_.data();
    if (problem_.in_place(channels, problem_.out)) {
      const int64_t offset = (clip * params_.frames + first) * problem_.joints * channels;
      finish.relu = params_.relu;
      finish.shortcut_row = channels;
      if (params_.shortcut != nullptr) finish.shortcut = static_cast<const float*>(params_.shortcut) + offset;
      float* z = static_cast<float*>(params_.z) + offset;
      value_.multiply(mixed, problem_.mixed, rows, z, channels, false, &finish);
      add_moments(clip, block, z, channels, rows, scratch);
      return;
    }
    value_.multiply(mixed, problem_.mixed, rows, scratch->z.data(), problem_.out, false, &finish);
    add_moments(clip, block, scratch->z.data(), problem_.out, rows, scratch);
    finish_block(clip, first, frames, scratch);
  }

  // The statistics of a block of z, while it is in the cache.
  void add_moments(int64_t clip, int64_t block, const float* z, int64_t row, int64_t rows, Scratch* scratch) {
    if (params_.statistics == nullptr) return;
    const int64_t part = clip * problem_.value_blocks.count + block;
    moments_.set_rows(part, rows);
    problem_.kernel.moments(z, row, rows, params_.channels_out, scratch->moments.data(), moments_.mean(part),
                            moments_.squares(part));
  }

  // Shortcut and ReLU of a block that is not written in place.
  void finish_block(int64_t clip, int64_t first, int64_t frames, Scratch* scratch) const {
    const int64_t channels = params_.channels_out;
    const int64_t size = problem_.joints * problem_.out;
    for (int64_t t = 0; t < frames && (params_.relu || params_.shortcut != nullptr); ++t) {
      const float* shortcut = nullptr;
      if (params_.shortcut != nullptr) {
        shortcut =
            problem_.load(params_.shortcut, clip, first + t, 1, channels, problem_.out, scratch->shortcut.data());
      }
      problem_.kernel.finish_row(scratch->z.data() + t * size, shortcut, params_.relu, size);
    }
    problem_.store(scratch->z.data(), params_.z, clip, first, frames, channels, problem_.out);
  }

  const CpuForwardParams& params_;
  const Problem problem_;
  Panels embed_;
  Panels value_;
  Floats embed_bias_;
  Floats value_bias_;
  PartMoments moments_;
  Watch watch_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void forward_cpu(const CpuForwardParams& params) {
  if (params.statistics != nullptr && (params.shortcut != nullptr || params.relu || params.clips < 1)) {
    throw std::invalid_argument("dependency_attention: statistics are of z of some clips, without shortcut and relu");
  }
  Forward(params).run();
}

}  // namespace tmor::dependency_attention
