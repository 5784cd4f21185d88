#include "dependency_attention/cpu_problem.hpp"

#include <algorithm>
#include <cmath>

#include "common/kernel_for.hpp"
#include "common/round_up.hpp"

namespace tmor::dependency_attention {
namespace {

// As many frames as keep a tile of `frame` floats each in the second-level cache; fewer, but no less than some full
// blocks of rows, where several threads may share a clip.
Blocks blocks_of(const CpuParams& params, int64_t frame) {
  constexpr int64_t kTileFloats = 98304;
  constexpr int64_t kRows = 80;
  constexpr int64_t kShares = 8;
  const int64_t fitting = std::max<int64_t>(1, kTileFloats / frame);
  const int64_t worthwhile =
      std::max((params.frames + kShares - 1) / kShares, (kRows + params.joints - 1) / params.joints);
  const int64_t length = std::min(fitting, worthwhile);
  return {params.frames, (params.frames + length - 1) / length};
}

}  // namespace

Panels::Panels(const Kernel& kernel, Groups steps, Groups columns)
    : kernel_(kernel),
      steps_(steps),
      columns_(columns),
      panel_width_(int64_t{kernel.lanes} * kernel.vectors),
      values_(steps.total() * columns.total()) {
  constexpr int64_t kMost = 128;  // rows of a panel that stay in the first-level cache
  const bool whole = steps.size == steps.padded;
  const int64_t runs = whole ? 1 : steps.count;
  const int64_t length = whole ? steps.total() : steps.size;
  const int64_t parts = (length + kMost - 1) / kMost;
  for (int64_t run = 0; run < runs; ++run) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = part * length / parts;
      chunks_.push_back({run * steps.padded + first, (part + 1) * length / parts - first});
    }
  }
}

void Panels::fill(int64_t panel, const float* source, int64_t step_stride, int64_t column_stride) {
  constexpr int64_t kLine = 16;
  const int64_t width = width_of(panel);
  const int64_t steps = steps_.total();
  float* target = values_.data() + panel * panel_width_ * steps;
  // Without padding inside, steps are counted as they lie.
  const bool plain = steps_.size == steps_.padded;
  // Squares of whole lines of the source and of the panel, whichever way the source lies; columns are found once,
  // for that takes two divisions.
  for (int64_t first = 0; first < width; first += kLine) {
    const int64_t columns = std::min(kLine, width - first);
    const float* from[kLine];
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t column = columns_.real(panel * panel_width_ + first + c);
      from[c] = column < 0 ? nullptr : source + column * column_stride;
    }
    for (int64_t block = 0; block < steps; block += kLine) {
      const int64_t end = std::min(block + kLine, steps);
      for (int64_t c = 0; c < columns; ++c) {
        float* to = target + first + c;
        if (plain && from[c] != nullptr) {
          for (int64_t s = block; s < end; ++s) to[s * width] = from[c][s * step_stride];
          continue;
        }
        for (int64_t s = block; s < end; ++s) {
          const int64_t step = steps_.real(s);
          to[s * width] = from[c] == nullptr || step < 0 ? 0.0F : from[c][step * step_stride];
        }
      }
    }
  }
}

void Panels::multiply(const float* a, int64_t a_row, int64_t rows, float* c, int64_t c_row, bool add,
                      const Finish* finish) const {
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const Chunk& chunk = chunks_[i];
    const bool last = i + 1 == chunks_.size();
    for (int64_t panel = 0; panel < panels(); ++panel) {
      const int64_t width = width_of(panel);
      const int64_t column = panel * panel_width_;
      const float* b = values_.data() + column * steps_.total() + chunk.first * width;
      if (!last || finish == nullptr) {
        kernel_.multiply(a + chunk.first, a_row, 1, b, width, chunk.steps, c + column, c_row, rows, width,
                         add || i > 0);
        continue;
      }
      Finish here = *finish;
      if (here.bias != nullptr) here.bias += column;
      if (here.shortcut != nullptr) here.shortcut += column;
      kernel_.multiply_finish(a + chunk.first, a_row, 1, b, width, chunk.steps, c + column, c_row, rows, width,
                              add || i > 0, here);
    }
  }
}

Problem::Problem(const CpuParams& given)
    : params(given),
      kernel(kernel_for<Kernel>(given.isa)),
      joints(given.joints),
      in(round_up(given.channels_in, kernel.lanes)),
      out(round_up(given.channels_out, kernel.lanes)),
      embedding(round_up(given.embedding, kernel.lanes)),
      embeddings(2 * given.heads * embedding),
      mixed_rows(joints * given.heads),
      mixed(given.heads * in),
      pairs(given.heads * joints * joints),
      embed_blocks(blocks_of(given, joints * embeddings)),
      value_blocks(blocks_of(given, joints * mixed)),
      threads(std::max(1, given.threads)) {}

const float* Problem::load(const void* tensor, int64_t clip, int64_t first, int64_t frames, int64_t channels,
                           int64_t padded, float* room) const {
  const int64_t rows = frames * joints;
  const int64_t offset = (clip * params.frames + first) * joints * channels;
  if (params.dtype == DType::float32) {
    const float* source = static_cast<const float*>(tensor) + offset;
    if (channels == padded) return source;
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(source + row * channels, channels, room + row * padded);
      std::fill_n(room + row * padded + channels, padded - channels, 0.0F);
    }
    return room;
  }
  const uint16_t* source = static_cast<const uint16_t*>(tensor) + offset;
  const auto convert = params.dtype == DType::float16 ? kernel.from_half : kernel.from_bfloat;
  if (channels == padded) {
    convert(source, room, rows * channels);
    return room;
  }
  for (int64_t row = 0; row < rows; ++row) {
    convert(source + row * channels, room + row * padded, channels);
    std::fill_n(room + row * padded + channels, padded - channels, 0.0F);
  }
  return room;
}

void Problem::store(const float* rows, void* tensor, int64_t clip, int64_t first, int64_t frames, int64_t channels,
                    int64_t padded) const {
  const int64_t offset = (clip * params.frames + first) * joints * channels;
  for (int64_t row = 0; row < frames * joints; ++row) {
    const float* source = rows + row * padded;
    const int64_t place = offset + row * channels;
    if (params.dtype == DType::float32) {
      std::copy_n(source, channels, static_cast<float*>(tensor) + place);
    } else {
      const auto convert = params.dtype == DType::float16 ? kernel.to_half : kernel.to_bfloat;
      convert(source, static_cast<uint16_t*>(tensor) + place, channels);
    }
  }
}

void Problem::embed(const float* x, int64_t frames, const Panels& weight, const Floats& bias, float* result,
                    float* products) const {
  Finish finish;
  finish.bias = bias.data();
  weight.multiply(x, in, frames * joints, result, embeddings, false, &finish);
  Dots dots;
  dots.a_row = dots.b_row = embeddings;
  dots.a_outer = dots.b_outer = joints * embeddings;
  dots.a_rows = dots.b_rows = joints;
  dots.outer = frames;
  dots.width = embedding;
  dots.c_row = joints;
  for (int64_t h = 0; h < params.heads; ++h) {
    dots.a = result + h * embedding;
    dots.b = result + (params.heads + h) * embedding;
    dots.c = products + h * joints * joints;
    kernel.row_products(dots);
  }
}

void Problem::softmax(float* logits, float* room) const {
  const float scale = static_cast<float>(1.0 / (static_cast<double>(params.embedding) * params.frames));
  float* maximum = room;
  float* total = room + joints;
  for (int64_t h = 0; h < params.heads; ++h, logits += joints * joints) {
    std::fill_n(maximum, joints, -INFINITY);
    std::fill_n(total, joints, 0.0F);
    for (int64_t v = 0; v < joints; ++v) {
      for (int64_t w = 0; w < joints; ++w) maximum[w] = std::max(maximum[w], logits[v * joints + w]);
    }
    for (int64_t v = 0; v < joints; ++v) {
      for (int64_t w = 0; w < joints; ++w) {
        float& place = logits[v * joints + w];
        place = std::exp((place - maximum[w]) * scale);
        total[w] += place;
      }
    }
    for (int64_t v = 0; v < joints; ++v) {
      for (int64_t w = 0; w < joints; ++w) logits[v * joints + w] /= total[w];
    }
  }
}

void Problem::add_dependency(const float* attention, float* mixing) const {
  for (int64_t h = 0; h < params.heads; ++h) {
    for (int64_t v = 0; v < joints; ++v) {
      for (int64_t w = 0; w < joints; ++w) {
        const int64_t pair = (h * joints + v) * joints + w;
        mixing[v * mixed_rows + w * params.heads + h] = params.dependency[pair] + attention[pair];
      }
    }
  }
}

void Problem::mix(const float* x, int64_t frames, const float* mixing, float* result) const {
  for (int64_t t = 0; t < frames; ++t) {
    kernel.multiply(mixing, 1, mixed_rows, x + t * joints * in, in, joints, result + t * mixed_rows * in, in,
                    mixed_rows, in, false);
  }
}

Floats Problem::padded_bias() const {
  Floats result(embeddings);
  const Groups groups = embedding_groups();
  for (int64_t i = 0; i < embeddings; ++i) {
    const int64_t place = groups.real(i);
    result[i] = place < 0 ? 0.0F : params.query_key_bias[place];
  }
  return result;
}

}  // namespace tmor::dependency_attention
