// The gradients of the weight and the bias on the CPU. With rows (frame, joint) and one tap k at a time the gradient of
// the weight is a product of matrices, grad^T x, with x some frames further on:
//
//   grad_weight(o, i, k) = sum over clips, frames f and joints v of grad(f, v, o) * x(f * stride + k * dilation -
//                          padding, v, i)
//
// One panel of input channels of some clips is a unit of work with sums of its own, added up in the units' order: units
// depend on the sizes alone, so results do not depend on the threads. A unit copies its panel of a block of frames,
// zero frames around it, once for all taps; a stride splits the frames by their remainder, so that the rows a tap wants
// always lie one after the other. Then short runs of rows go through all taps.
#include <algorithm>
#include <vector>

#include "common/buffer.hpp"
#include "common/kernel_for.hpp"
#include "common/round_up.hpp"
#include "common/threads.hpp"
#include "temporal_convolution/kernel.hpp"
#include "temporal_convolution/params.hpp"

namespace tmor::temporal_convolution {
namespace {

constexpr int64_t kUnits = 32;        // at least, where there are clips enough: work for that many cores
constexpr int64_t kBlockRows = 1024;  // of the result, whose panel of x is copied at a time
constexpr int64_t kRunRows = 256;     // of the result, which go through all taps at a time

// Where a tap finds its frames: output frame f wants number f + shift of those with one remainder by the stride.
struct Tap {
  int64_t place;  // of the remainder among those that taps want
  int64_t shift;
};

class WeightGradient {
 public:
  explicit WeightGradient(const Params& params)
      : params_(params),
        kernel_(kernel_for<Kernel>(params.isa)),
        panels_(round_up(params.in_channels, kernel_.width) / kernel_.width),
        parts_(std::min(params.clips, round_up(kUnits, panels_) / panels_)),
        block_frames_(std::max<int64_t>(1, std::min(params.output_frames, kBlockRows / params.joints))) {
    for (int64_t k = 0; k < params.kernel; ++k) {
      const int64_t offset = k * params.dilation - params.padding;
      const int64_t remainder = (offset % params.stride + params.stride) % params.stride;
      const auto known = std::find(remainders_.begin(), remainders_.end(), remainder);
      taps_.push_back({known - remainders_.begin(), (offset - remainder) / params.stride});
      if (known == remainders_.end()) remainders_.push_back(remainder);
    }
    first_shift_ = last_shift_ = taps_.front().shift;
    for (const Tap& tap : taps_) {
      first_shift_ = std::min(first_shift_, tap.shift);
      last_shift_ = std::max(last_shift_, tap.shift);
    }
  }

  void run() {
    const int64_t units = parts_ * panels_;
    const int threads = static_cast<int>(std::min<int64_t>(std::max(1, params_.threads), units));
    sums_ = RawBuffer<float>(units * unit_floats());
    bias_ = Buffer<double>(params_.grad_bias == nullptr ? 0 : parts_ * params_.out_channels);
    std::vector<Room> room;
    for (int i = 0; i < threads; ++i) room.emplace_back(*this);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      add_unit(unit / panels_, unit % panels_, &room[static_cast<size_t>(this_thread())]);
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < params_.out_channels; ++o) merge(o);
  }

 private:
  // What a thread copies into.
  struct Room {
    explicit Room(const WeightGradient& of)
        : inputs(of.remainders() * of.packed_frames(of.block_frames_) * of.params_.joints * of.kernel_.width),
          outputs(kRunRows * round_up(of.params_.out_channels, of.kernel_.height)),
          columns(of.params_.out_channels) {}
    RawBuffer<float> inputs;   // (remainders, packed_frames, V, width)
    RawBuffer<float> outputs;  // (panels, rows of a run, height)
    RawBuffer<float> columns;  // (Cout,)
  };

  int64_t tap_floats() const { return params_.out_channels * kernel_.width; }
  int64_t unit_floats() const { return params_.kernel * tap_floats(); }
  int64_t remainders() const { return static_cast<int64_t>(remainders_.size()); }
  // Frames of one remainder that so many output frames want.
  int64_t packed_frames(int64_t frames) const { return frames + last_shift_ - first_shift_; }

  void add_unit(int64_t part, int64_t panel, Room* room) {
    float* sums = sums_.data() + (part * panels_ + panel) * unit_floats();  // (K, Cout, width)
    std::fill(sums, sums + unit_floats(), 0.0F);
    const int64_t end = (part + 1) * params_.clips / parts_;
    for (int64_t clip = part * params_.clips / parts_; clip < end; ++clip) {
      for (int64_t frame = 0; frame < params_.output_frames; frame += block_frames_) {
        const int64_t frames = std::min(block_frames_, params_.output_frames - frame);
        pack_block(clip, frame, frames, panel, room->inputs.data());
        for (int64_t row = 0; row < frames * params_.joints; row += kRunRows) {
          const int64_t rows = std::min(kRunRows, frames * params_.joints - row);
          const int64_t at = (clip * params_.output_frames + frame) * params_.joints + row;
          const float* grad = params_.grad + at * params_.out_channels;
          add_run(grad, frames, row, rows, room, sums);
          if (panel == 0 && params_.grad_bias != nullptr) add_bias(grad, rows, part, room);
        }
      }
    }
  }

  void add_bias(const float* grad, int64_t rows, int64_t part, Room* room) {
    const int64_t outputs = params_.out_channels;
    kernel_.add_rows(grad, outputs, rows, outputs, room->columns.data(), bias_.data() + part * outputs);
  }

  // Copies the panel of x that these output frames want, ordered by remainder.
  void pack_block(int64_t clip, int64_t frame, int64_t frames, int64_t panel, float* to) const {
    const int64_t joints = params_.joints;
    const int64_t columns = std::min(kernel_.width, params_.in_channels - panel * kernel_.width);
    for (const int64_t remainder : remainders_) {
      for (int64_t i = 0; i < packed_frames(frames); ++i, to += joints * kernel_.width) {
        const int64_t source = (frame + first_shift_ + i) * params_.stride + remainder;
        if (source < 0 || source >= params_.frames) {
          std::fill(to, to + joints * kernel_.width, 0.0F);
          continue;
        }
        const float* x = params_.x + (clip * params_.frames + source) * joints * params_.in_channels;
        kernel_.pack_inputs(x + panel * kernel_.width, params_.in_channels, joints, columns, to);
      }
    }
  }

  // Adds the products of some rows of `grad`, `row` rows after the beginning of the block, to the sums of all taps.
  void add_run(const float* grad, int64_t frames, int64_t row, int64_t rows, Room* room, float* sums) const {
    const int64_t outputs = params_.out_channels;
    const int64_t height = kernel_.height;
    for (int64_t o = 0; o < outputs; o += height) {
      kernel_.pack_outputs(grad + o, outputs, rows, std::min(height, outputs - o), room->outputs.data() + o * rows);
    }
    for (const Tap& tap : taps_) {
      const int64_t first = (tap.place * packed_frames(frames) + tap.shift - first_shift_) * params_.joints + row;
      const float* x = room->inputs.data() + first * kernel_.width;
      for (int64_t o = 0; o < outputs; o += height) {
        kernel_.add_products(room->outputs.data() + o * rows, x, rows, std::min(height, outputs - o),
                             sums + o * kernel_.width);
      }
      sums += tap_floats();
    }
  }

  // Adds up what the parts found for output channel `o`.
  void merge(int64_t o) {
    for (int64_t panel = 0; panel < panels_; ++panel) {
      for (int64_t k = 0; k < params_.kernel; ++k) merge_columns(o, panel, k);
    }
    if (params_.grad_bias == nullptr) return;
    double total = 0.0;
    for (int64_t part = 0; part < parts_; ++part) total += bias_[part * params_.out_channels + o];
    params_.grad_bias[o] = static_cast<float>(total);
  }

  void merge_columns(int64_t o, int64_t panel, int64_t k) {
    const int64_t width = kernel_.width;
    const int64_t columns = std::min(width, params_.in_channels - panel * width);
    float* sum = sums_.data() + panel * unit_floats() + k * tap_floats() + o * width;
    for (int64_t part = 1; part < parts_; ++part) {
      const float* next = sum + part * panels_ * unit_floats();
      for (int64_t j = 0; j < columns; ++j) sum[j] += next[j];
    }
    float* to = params_.grad_weight + (o * params_.in_channels + panel * width) * params_.kernel + k;
    for (int64_t j = 0; j < columns; ++j) to[j * params_.kernel] = sum[j];
  }

  const Params& params_;
  const Kernel kernel_;
  const int64_t panels_;        // of input channels
  const int64_t parts_;         // of the clips
  const int64_t block_frames_;  // output frames in a block
  std::vector<int64_t> remainders_;
  std::vector<Tap> taps_;
  int64_t first_shift_ = 0;
  int64_t last_shift_ = 0;
  RawBuffer<float> sums_;  // (parts, panels, K, Cout, width)
  Buffer<double> bias_;    // (parts, Cout)
};

}  // namespace

void weight_gradient_cpu(const Params& params) { WeightGradient(params).run(); }

}  // namespace tmor::temporal_convolution
