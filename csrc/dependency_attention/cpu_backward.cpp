// The backward pass. The attention is computed again; with M = D + A as (V, V H), y = M^T x the mixed values and
// G = grad Wv their gradient:
//   dWv = grad^T y, dM = sum_t x G^T, dx = M G, dD = sum_n dM, dlogits = A (dM - sum_v A dM) / (Ce T),
//   dtheta = dlogits phi, dphi = dlogits^T theta, and from there as in a linear layer.
//
// A slot holds what is kept of one clip: its embeddings, its attention and, unless it can be written in place, dx.
// Where there are clips enough every thread has one slot and takes its share of the clips one after another; else every
// clip has one, and the threads share its blocks of frames. Gradients of weights are added up by each thread.
#include <algorithm>
#include <vector>

#include "dependency_attention/cpu_problem.hpp"

namespace tmor::dependency_attention {
namespace {

using Doubles = RawBuffer<double>;

struct Needed {
  explicit Needed(const CpuBackwardParams& params)
      : x(params.grad_x != nullptr),
        embedding_weight(params.grad_query_key_weight != nullptr),
        embedding_bias(params.grad_query_key_bias != nullptr),
        dependency(params.grad_dependency != nullptr),
        value_weight(params.grad_value_weight != nullptr),
        value_bias(params.grad_value_bias != nullptr) {}
  bool embedding() const { return x || embedding_weight || embedding_bias; }
  bool mixing() const { return embedding() || dependency; }
  const bool x, embedding_weight, embedding_bias, dependency, value_weight, value_bias;
};

// What is kept of one clip between the steps.
struct Slot {
  Slot(const Problem& problem, bool keep_embeddings, bool keep_x, int64_t parts)
      : embedding(keep_embeddings ? problem.params.frames * problem.joints * problem.embeddings : 0),
        x(keep_x ? problem.params.frames * problem.joints * problem.in : 0),
        attention(problem.pairs),
        mixing(problem.pairs),
        logits(problem.pairs),
        parts(parts * problem.pairs) {}
  Floats embedding;  // (T, V, 2 H Ce)
  Floats x;          // its gradient, (T, V, Cin)
  Floats attention;  // (H, V, V)
  Floats mixing;     // (V, V H)
  Floats logits;     // their gradient, (H, V, V)
  Floats parts;      // (blocks, H V V): products of each block
};

// What a thread works with, and its sums.
struct Thread {
  Thread(const Problem& problem, const Needed& needed)
      : x(rows(problem) * problem.in),
        grad(problem.value_blocks.longest() * problem.joints * problem.params.channels_out),
        mixed(problem.value_blocks.longest() * problem.joints * problem.mixed),
        embedding(problem.embed_blocks.longest() * problem.joints * problem.embeddings),
        panel(rows(problem) * problem.kernel.lanes * problem.kernel.vectors),
        columns(2 * problem.joints + std::max(problem.embeddings, problem.params.channels_out)),
        embedding_weight(needed.embedding_weight ? problem.embeddings * problem.in : 0),
        value_weight(needed.value_weight ? problem.params.channels_out * problem.mixed : 0),
        embedding_bias(problem.embeddings),
        dependency(needed.dependency ? problem.pairs : 0),
        value_bias(problem.params.channels_out) {
    if (needed.embedding_weight) std::fill_n(embedding_weight.data(), problem.embeddings * problem.in, 0.0F);
    if (needed.value_weight) std::fill_n(value_weight.data(), problem.params.channels_out * problem.mixed, 0.0F);
    if (needed.dependency) std::fill_n(dependency.data(), problem.pairs, 0.0);
    std::fill_n(embedding_bias.data(), problem.embeddings, 0.0);
    std::fill_n(value_bias.data(), problem.params.channels_out, 0.0);
  }
  static int64_t rows(const Problem& problem) {
    return std::max(problem.embed_blocks.longest(), problem.value_blocks.longest()) * problem.joints;
  }
  Floats x, grad, mixed, embedding, panel, columns;
  Floats embedding_weight;  // (2 H Ce, Cin), padded
  Floats value_weight;      // (Cout, H Cin), padded
  Doubles embedding_bias, dependency, value_bias;
};

class Backward {
 public:
  explicit Backward(const CpuBackwardParams& params)
      : params_(params),
        needed_(params),
        problem_(params),
        embed_(problem_.kernel, problem_.input_groups(), problem_.embedding_groups()),
        embed_back_(problem_.kernel, problem_.embedding_groups(), problem_.input_groups()),
        value_back_(problem_.kernel, {1, params.channels_out, params.channels_out}, problem_.mixed_groups()),
        embed_bias_(problem_.padded_bias()),
        by_clip_(params.clips >= 2 * problem_.threads || problem_.threads == 1),
        x_in_place_(problem_.in_place(params.channels_in, problem_.in)),
        watch_(params.interrupted) {}

  void run();

 private:
  void pack();
  void clip_by_clip();
  void block_by_block();
  void embed(int64_t clip, int64_t block, Slot* slot, Thread* thread, float* products) const;
  void attend(Slot* slot, const float* parts, int64_t blocks, Thread* thread) const;
  void value(int64_t clip, int64_t block, Slot* slot, Thread* thread, float* products) const;
  void value_weight(const float* x, const float* grad, int64_t frames, const Slot& slot, Thread* thread) const;
  void logits(Slot* slot, const float* parts, int64_t blocks, Thread* thread) const;
  void softmax_gradient(const float* attention, float* gradient) const;
  void embedding(int64_t clip, int64_t block, Slot* slot, Thread* thread) const;
  void add_outer(const float* a, int64_t channels, const float* b, int64_t width, int64_t rows, float* panel,
                 float* sum) const;
  float* gradient_of_x(int64_t clip, int64_t first, Slot* slot) const;
  void write();

  const CpuBackwardParams& params_;
  const Needed needed_;
  const Problem problem_;
  Panels embed_;       // (Cin, 2 H Ce)
  Panels embed_back_;  // (2 H Ce, Cin)
  Panels value_back_;  // (Cout, H Cin)
  Floats embed_bias_;
  const bool by_clip_;
  const bool x_in_place_;
  Watch watch_;
  std::vector<Slot> slots_;
  std::vector<Thread> threads_;
};

void Backward::pack() {
  const int64_t row = params_.heads * params_.channels_in;
  const int64_t first = embed_.panels();
  const int64_t second = first + embed_back_.panels();
  for_each(problem_, second + value_back_.panels(), false, &watch_, [&](int64_t panel, int) {
    if (panel < first) {
      embed_.fill(panel, params_.query_key_weight, 1, params_.channels_in);
    } else if (panel < second) {
      embed_back_.fill(panel - first, params_.query_key_weight, params_.channels_in, 1);
    } else {
      value_back_.fill(panel - second, params_.value_weight, row, 1);
    }
  });
}

void Backward::run() {
  pack();
  for (int i = 0; i < problem_.threads; ++i) threads_.emplace_back(problem_, needed_);
  const int64_t slots = by_clip_ ? problem_.threads : params_.clips;
  const int64_t parts = std::max(problem_.embed_blocks.count, problem_.value_blocks.count);
  const bool attends = needed_.mixing() || needed_.value_weight;
  for (int64_t i = 0; i < slots; ++i) {
    slots_.emplace_back(problem_, attends, needed_.x && !x_in_place_, parts);
  }
  if (by_clip_) {
    clip_by_clip();
  } else {
    block_by_block();
  }
  write();
}

void Backward::clip_by_clip() {
  for_each(problem_, params_.clips, true, &watch_, [&](int64_t clip, int number) {
    Slot* slot = &slots_[static_cast<size_t>(number)];
    Thread* thread = &threads_[static_cast<size_t>(number)];
    float* parts = slot->parts.data();
    const auto part = [&](int64_t block) { return parts + block * problem_.pairs; };
    const int64_t embeds = problem_.embed_blocks.count;
    const int64_t values = problem_.value_blocks.count;
    for (int64_t block = 0; block < embeds; ++block) embed(clip, block, slot, thread, part(block));
    attend(slot, parts, embeds, thread);
    for (int64_t block = 0; block < values; ++block) value(clip, block, slot, thread, part(block));
    logits(slot, parts, values, thread);
    for (int64_t block = 0; block < embeds; ++block) embedding(clip, block, slot, thread);
  });
}

void Backward::block_by_block() {
  const int64_t embeds = problem_.embed_blocks.count;
  const int64_t values = problem_.value_blocks.count;
  const auto slot_of = [&](int64_t clip) { return &slots_[static_cast<size_t>(clip)]; };
  const auto thread_of = [&](int number) { return &threads_[static_cast<size_t>(number)]; };
  for_each(problem_, params_.clips * embeds, false, &watch_, [&](int64_t item, int number) {
    Slot* slot = slot_of(item / embeds);
    const int64_t block = item % embeds;
    embed(item / embeds, block, slot, thread_of(number), slot->parts.data() + block * problem_.pairs);
  });
  for_each(problem_, params_.clips, false, &watch_, [&](int64_t clip, int number) {
    attend(slot_of(clip), slot_of(clip)->parts.data(), embeds, thread_of(number));
  });
  for_each(problem_, params_.clips * values, true, &watch_, [&](int64_t item, int number) {
    Slot* slot = slot_of(item / values);
    const int64_t block = item % values;
    value(item / values, block, slot, thread_of(number), slot->parts.data() + block * problem_.pairs);
  });
  for_each(problem_, params_.clips, true, &watch_, [&](int64_t clip, int number) {
    logits(slot_of(clip), slot_of(clip)->parts.data(), values, thread_of(number));
  });
  for_each(problem_, params_.clips * embeds, true, &watch_, [&](int64_t item, int number) {
    embedding(item / embeds, item % embeds, slot_of(item / embeds), thread_of(number));
  });
}

void Backward::embed(int64_t clip, int64_t block, Slot* slot, Thread* thread, float* products) const {
  if (!needed_.mixing() && !needed_.value_weight) return;
  const int64_t first = problem_.embed_blocks.first(block);
  const int64_t frames = problem_.embed_blocks.first(block + 1) - first;
  const float* x = problem_.load(params_.x, clip, first, frames, params_.channels_in, problem_.in, thread->x.data());
  float* result = slot->embedding.data() + first * problem_.joints * problem_.embeddings;
  problem_.embed(x, frames, embed_, embed_bias_, result, products);
}

void Backward::attend(Slot* slot, const float* parts, int64_t blocks, Thread* thread) const {
  if (!needed_.mixing() && !needed_.value_weight) return;
  std::fill_n(slot->attention.data(), problem_.pairs, 0.0F);
  for (int64_t block = 0; block < blocks; ++block, parts += problem_.pairs) {
    for (int64_t i = 0; i < problem_.pairs; ++i) slot->attention[i] += parts[i];
  }
  problem_.softmax(slot->attention.data(), thread->columns.data());
  problem_.add_dependency(slot->attention.data(), slot->mixing.data());
}

float* Backward::gradient_of_x(int64_t clip, int64_t first, Slot* slot) const {
  const int64_t row = problem_.joints * problem_.in;
  return x_in_place_ ? static_cast<float*>(params_.grad_x) + (clip * params_.frames + first) * row
                     : slot->x.data() + first * row;
}

void Backward::value(int64_t clip, int64_t block, Slot* slot, Thread* thread, float* products) const {
  const int64_t first = problem_.value_blocks.first(block);
  const int64_t frames = problem_.value_blocks.first(block + 1) - first;
  const int64_t rows = frames * problem_.joints;
  const int64_t channels = params_.channels_out;
  const float* grad = problem_.load(params_.grad, clip, first, frames, channels, channels, thread->grad.data());
  if (needed_.value_bias) {
    problem_.kernel.add_rows(grad, channels, rows, channels, thread->columns.data(), thread->value_bias.data());
  }
  if (!needed_.mixing() && !needed_.value_weight) return;
  const float* x = problem_.load(params_.x, clip, first, frames, params_.channels_in, problem_.in, thread->x.data());
  if (needed_.value_weight) value_weight(x, grad, frames, *slot, thread);
  if (!needed_.mixing()) return;

  float* mixed = thread->mixed.data();
  value_back_.multiply(grad, channels, rows, mixed, problem_.mixed, false, nullptr);
  Dots dots;
  dots.a = mixed;
  dots.a_row = dots.b_row = dots.width = problem_.in;
  dots.a_outer = problem_.mixed_rows * problem_.in;
  dots.a_rows = dots.c_row = problem_.mixed_rows;
  dots.b = x;
  dots.b_outer = problem_.joints * problem_.in;
  dots.b_rows = problem_.joints;
  dots.outer = frames;
  dots.c = products;
  dots.c_row = problem_.joints;
  problem_.kernel.row_products(dots);
  if (!needed_.x) return;
  float* dx = gradient_of_x(clip, first, slot);
  for (int64_t t = 0; t < frames; ++t) {
    problem_.kernel.multiply(slot->mixing.data(), problem_.mixed_rows, 1, mixed + t * dots.a_outer, problem_.in,
                             problem_.mixed_rows, dx + t * dots.b_outer, problem_.in, problem_.joints, problem_.in,
                             false);
  }
}

void Backward::value_weight(const float* x, const float* grad, int64_t frames, const Slot& slot, Thread* thread) const {
  problem_.mix(x, frames, slot.mixing.data(), thread->mixed.data());
  add_outer(grad, params_.channels_out, thread->mixed.data(), problem_.mixed, frames * problem_.joints,
            thread->panel.data(), thread->value_weight.data());
}

// sum(i, j) += sum over the rows of a(row, i) b(row, j), with i < channels and j < width; b panel by panel in `panel`.
void Backward::add_outer(const float* a, int64_t channels, const float* b, int64_t width, int64_t rows, float* panel,
                         float* sum) const {
  const int64_t most = int64_t{problem_.kernel.lanes} * problem_.kernel.vectors;
  for (int64_t first = 0; first < width; first += most) {
    const int64_t here = std::min(most, width - first);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(b + row * width + first, here, panel + row * here);
    problem_.kernel.multiply(a, 1, channels, panel, here, rows, sum + first, width, channels, here, true);
  }
}

void Backward::logits(Slot* slot, const float* parts, int64_t blocks, Thread* thread) const {
  if (!needed_.mixing()) return;
  const int64_t joints = problem_.joints;
  const int64_t heads = params_.heads;
  float* gradient = slot->logits.data();
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t v = 0; v < joints; ++v) {
      for (int64_t w = 0; w < joints; ++w) {
        float sum = 0.0F;
        for (int64_t block = 0; block < blocks; ++block) {
          sum += parts[block * problem_.pairs + (w * heads + h) * joints + v];
        }
        gradient[(h * joints + v) * joints + w] = sum;
      }
    }
  }
  if (needed_.dependency) {
    for (int64_t i = 0; i < problem_.pairs; ++i) thread->dependency[i] += static_cast<double>(gradient[i]);
  }
  softmax_gradient(slot->attention.data(), gradient);
}

// In place, A (dA - sum_v A dA) / (Ce T). Where nearly all attention goes to one joint, the difference is tiny: it is
// taken in float64, and what A sums to after rounding is divided out.
void Backward::softmax_gradient(const float* attention, float* gradient) const {
  const int64_t joints = problem_.joints;
  const double scale = 1.0 / (static_cast<double>(params_.embedding) * static_cast<double>(params_.frames));
  for (int64_t h = 0; h < params_.heads; ++h, attention += joints * joints, gradient += joints * joints) {
    for (int64_t w = 0; w < joints; ++w) {
      double total = 0.0;
      double weighted = 0.0;
      for (int64_t v = 0; v < joints; ++v) {
        const double share = static_cast<double>(attention[v * joints + w]);
        total += share;
        weighted += share * static_cast<double>(gradient[v * joints + w]);
      }
      const double mean = weighted / total;
      for (int64_t v = 0; v < joints; ++v) {
        float& place = gradient[v * joints + w];
        const double share = static_cast<double>(attention[v * joints + w]);
        place = static_cast<float>(share * (static_cast<double>(place) - mean) * scale);
      }
    }
  }
}

void Backward::embedding(int64_t clip, int64_t block, Slot* slot, Thread* thread) const {
  if (!needed_.embedding()) return;
  const Kernel& kernel = problem_.kernel;
  const int64_t first = problem_.embed_blocks.first(block);
  const int64_t frames = problem_.embed_blocks.first(block + 1) - first;
  const int64_t joints = problem_.joints;
  const int64_t width = problem_.embeddings;
  const int64_t half = params_.heads * problem_.embedding;
  const int64_t rows = frames * joints;
  const float* kept = slot->embedding.data() + first * joints * width;
  float* gradient = thread->embedding.data();
  for (int64_t t = 0; t < frames; ++t) {
    for (int64_t h = 0; h < params_.heads; ++h) {
      const float* logits = slot->logits.data() + h * joints * joints;
      const float* theta = kept + t * joints * width + h * problem_.embedding;
      float* target = gradient + t * joints * width + h * problem_.embedding;
      kernel.multiply(logits, joints, 1, theta + half, width, joints, target, width, joints, problem_.embedding, false);
      kernel.multiply(logits, 1, joints, theta, width, joints, target + half, width, joints, problem_.embedding, false);
    }
  }
  if (needed_.embedding_bias) {
    kernel.add_rows(gradient, width, rows, width, thread->columns.data(), thread->embedding_bias.data());
  }
  if (needed_.embedding_weight) {
    const float* x = problem_.load(params_.x, clip, first, frames, params_.channels_in, problem_.in, thread->x.data());
    add_outer(gradient, width, x, problem_.in, rows, thread->panel.data(), thread->embedding_weight.data());
  }
  if (!needed_.x) return;
  float* dx = gradient_of_x(clip, first, slot);
  embed_back_.multiply(gradient, width, rows, dx, problem_.in, true, nullptr);
  if (!x_in_place_) problem_.store(dx, params_.grad_x, clip, first, frames, params_.channels_in, problem_.in);
}

// The threads' sums, in the order of the threads, without padding.
void Backward::write() {
  const Groups embeddings = problem_.embedding_groups();
  const Groups mixed = problem_.mixed_groups();
  const auto sum = [&](auto member, int64_t place) {
    auto total = (threads_[0].*member)[place];
    for (size_t i = 1; i < threads_.size(); ++i) total += (threads_[i].*member)[place];
    return static_cast<float>(total);
  };
  for (int64_t i = 0; i < problem_.embeddings; ++i) {
    const int64_t row = embeddings.real(i);
    if (row < 0) continue;
    if (needed_.embedding_bias) params_.grad_query_key_bias[row] = sum(&Thread::embedding_bias, i);
    for (int64_t c = 0; c < params_.channels_in && needed_.embedding_weight; ++c) {
      params_.grad_query_key_weight[row * params_.channels_in + c] =
          sum(&Thread::embedding_weight, i * problem_.in + c);
    }
  }
  for (int64_t i = 0; i < problem_.pairs && needed_.dependency; ++i) {
    params_.grad_dependency[i] = sum(&Thread::dependency, i);
  }
  for (int64_t o = 0; o < params_.channels_out; ++o) {
    if (needed_.value_bias) params_.grad_value_bias[o] = sum(&Thread::value_bias, o);
    for (int64_t k = 0; k < problem_.mixed && needed_.value_weight; ++k) {
      const int64_t column = mixed.real(k);
      if (column < 0) continue;
      params_.grad_value_weight[o * params_.heads * params_.channels_in + column] =
          sum(&Thread::value_weight, o * problem_.mixed + k);
    }
  }
}

}  // namespace

void backward_cpu(const CpuBackwardParams& params) { Backward(params).run(); }

}  // namespace tmor::dependency_attention
