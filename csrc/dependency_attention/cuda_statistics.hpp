// Mean and variance of every channel of z, from the sums that z is rounded from: z is not read for them.
//
// A warp adds up 32 rows of a unit (MixUnit) as distances from the first of them. However far their mean is from zero,
// nothing cancels: the square of one number's distance from the mean of n is below n times their variance. From there
// on moments are joined (Chan, Golub and LeVeque 1983), always in the same order: over the units of a warp, over the
// warps of a block, in float64 over blocks. The bias comes last; the variance does not know it.
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_block.hpp"

namespace tmor::dependency_attention {

// Of some rows of a channel: their mean and the sum of their squared distances from it.
struct alignas(8) Moments {
  float mean;
  float squares;
};

TMOR_BLOCK_CODE Moments join(const Moments& a, float rows_a, const Moments& b, float rows_b) {
  const float share = rows_b / (rows_a + rows_b);
  const float step = b.mean - a.mean;
  return {fmaf(step, share, a.mean), fmaf(step * step, rows_a * share, a.squares + b.squares)};
}

// The rows of 16 joints from `row` on, in the tile's frame `frame` and the next one.
TMOR_BLOCK_CODE int rows_of_unit(int joints, int frames, int row, int frame) {
  return (frames - frame < 2 ? 1 : 2) * (joints - row < 16 ? joints - row : 16);
}

// Of the units that a warp has among the first `units` of a tile of so many frames.
TMOR_BLOCK_CODE int rows_of_warp(const Shape& shape, int frames, int warp, int units) {
  const int down = shape.padded_joints() / 16;
  int rows = 0;
  for (int unit = warp; unit < units; unit += kWarps) {
    rows += rows_of_unit(shape.joints, frames, unit % down * 16, unit / down * 2);
  }
  return rows;
}

TMOR_BLOCK_CODE int rows_of_warp(const Shape& shape, int frames, int warp) {
  return rows_of_warp(shape, frames, warp, (frames + 1) / 2 * (shape.padded_joints() / 16));
}

// What a thread knows of its eight channels 8 j + fragment_column(thread, e), at 2 j + e; then of four, two, one.
struct Gathered {
  float origin[8];
  float sum[8];      // of distances from the origin
  float squares[8];  // of their squares
};

// The lane on the other side of `bit` gives what it knows of half of the channels, for what this one knows of the
// others.
template <int kLeft, typename Block>
TMOR_BLOCK_CODE void halve(Block& block, typename Block::template PerThread<Gathered>& gathered, int bit) {
  TMOR_UNROLL
  for (int i = 0; i < kLeft; ++i) {
    typename Block::template PerThread<float> sum;
    typename Block::template PerThread<float> squares;
    block.each([&](int thread) {
      Gathered& mine = gathered[thread];
      const bool upper = (thread & bit) != 0;
      sum[thread] = upper ? mine.sum[i] : mine.sum[kLeft + i];
      squares[thread] = upper ? mine.squares[i] : mine.squares[kLeft + i];
      mine.origin[i] = upper ? mine.origin[kLeft + i] : mine.origin[i];
      mine.sum[i] = upper ? mine.sum[kLeft + i] : mine.sum[i];
      mine.squares[i] = upper ? mine.squares[kLeft + i] : mine.squares[i];
    });
    const auto other = [bit](int thread) { return (thread ^ bit) & 31; };
    block.shuffle(sum, other);
    block.shuffle(squares, other);
    block.each([&](int thread) {
      gathered[thread].sum[i] += sum[thread];
      gathered[thread].squares[i] += squares[thread];
    });
  }
}

// The channel of a unit that a lane knows at last.
TMOR_BLOCK_CODE int gathered_column(int thread) {
  return (thread >> 4 & 1) * 16 + (thread >> 3 & 1) * 8 + (thread & 3) * 2 + (thread >> 2 & 1);
}

// Moments of `rows` rows from distances.
TMOR_BLOCK_CODE Moments moments_of(float rows, float origin, float sum, float squares) {
  const float mean = sum / rows;
  const float rest = fmaf(-mean, sum, squares);
  return {origin + mean, rest < 0.0F ? 0.0F : rest};  // keeps NaN
}

// The moments of a piece's channels, and how much of a share is in them.
struct PieceMoments {
  Moments* moments = nullptr;  // (kWarps, channels) of all pieces
  int64_t channels = 0;
  int64_t first = 0;   // channel of the piece
  int32_t frames = 0;  // of the tile
  int32_t tiles = 0;   // before it
};

// The distances of a thread's numbers in one column from a row of the unit that exists whatever its size: the first.
template <typename Block, typename Units, typename Values>
TMOR_BLOCK_CODE void gather_column(Block& block, int joints, int frames, const Units& unit, const Values& values, int i,
                                   typename Block::template PerThread<Gathered>& gathered) {
  typename Block::template PerThread<float> origin;
  block.each([&](int thread) { origin[thread] = values[thread].value[0][i / 2][i % 2]; });
  block.shuffle(origin, [](int thread) { return thread & 3; });
  block.each([&](int thread) {
    float sum = 0.0F;
    float squares = 0.0F;
    TMOR_UNROLL
    for (int frame = 0; frame < 2; ++frame) {
      TMOR_UNROLL
      for (int c = i % 2; c < 4; c += 2) {
        const bool inside = unit[thread].row + fragment_row(thread, c) < joints && unit[thread].frame + frame < frames;
        const float step = inside ? values[thread].value[frame][i / 2][c] - origin[thread] : 0.0F;
        sum += step;
        squares = fmaf(step, step, squares);
      }
    }
    gathered[thread].origin[i] = origin[thread];
    gathered[thread].sum[i] = sum;
    gathered[thread].squares[i] = squares;
  });
}

// Joins the units of a round of mix_joints, of which `first` is the first, to what their warps have had of the piece:
// `full` rows of every tile before.
template <typename Block, typename Units, typename Values>
TMOR_BLOCK_CODE void join_units(Block& block, const Shape& shape, const PieceMoments& piece, int first,
                                const Units& unit, const Values& values,
                                const typename Block::template PerThread<int>& full) {
  typename Block::template PerThread<Gathered> gathered;
  TMOR_UNROLL
  for (int i = 0; i < 8; ++i) gather_column(block, shape.joints, piece.frames, unit, values, i, gathered);
  halve<4>(block, gathered, 16);
  halve<2>(block, gathered, 8);
  halve<1>(block, gathered, 4);
  block.each([&](int thread) {
    const int warp = warp_of(thread);
    const int column = gathered_column(thread);
    const int64_t channel = piece.first + column;
    if (column >= unit[thread].columns || channel >= piece.channels) return;  // no columns: no unit
    const Gathered& mine = gathered[thread];
    const auto rows =
        static_cast<float>(rows_of_unit(shape.joints, piece.frames, unit[thread].row, unit[thread].frame));
    const float before = static_cast<float>(piece.tiles) * static_cast<float>(full[thread]) +
                         static_cast<float>(rows_of_warp(shape, piece.frames, warp, first));
    const Moments now = moments_of(rows, mine.origin[0], mine.sum[0], mine.squares[0]);
    Moments& all = piece.moments[warp * piece.channels + channel];
    all = before == 0.0F ? now : join(all, before, now, rows);
  });
}

// The rows of a warp in a share, tiles of which only the last can be short.
TMOR_BLOCK_CODE float rows_of_share(const Shape& shape, const Tiling& tiling, const Share& share, int warp) {
  const int64_t rest = shape.frames - int64_t{share.last - 1} * tiling.frames;
  const int last = rest < tiling.frames ? static_cast<int>(rest) : tiling.frames;
  return static_cast<float>(share.last - 1 - share.first) *
             static_cast<float>(rows_of_warp(shape, tiling.frames, warp)) +
         static_cast<float>(rows_of_warp(shape, last, warp));
}

// `moments` (kWarps, channels) of a block become one, in the place of the first warp. All warps have written theirs.
template <typename Block>
TMOR_BLOCK_CODE void join_warps(Block& block, const Shape& shape, const Tiling& tiling, const Share& share,
                                Moments* moments) {
  const int channels = shape.channels_out;
  block.each([&](int thread) {
    for (int channel = thread; channel < channels; channel += kThreads) {
      Moments all = moments[channel];
      float rows = rows_of_share(shape, tiling, share, 0);
      for (int warp = 1; warp < kWarps; ++warp) {
        const float more = rows_of_share(shape, tiling, share, warp);
        if (more == 0.0F) break;  // nor have the next ones any
        all = join(all, rows, moments[int64_t{warp} * channels + channel], more);
        rows += more;
      }
      moments[channel] = all;
    }
  });
}

// The last step, from what every block of threads has left.
template <typename Number>
struct StatisticsTask {
  static constexpr int kColumns = 8;  // channels of a block
  static constexpr int kGroups = kThreads / kColumns;
  static constexpr int64_t kBytes = int64_t{2} * kThreads * sizeof(double);  // of shared memory

  Shape shape;
  Tiling tiling;
  const Moments* moments = nullptr;  // (clips * splits, kWarps, channels_out), the first warp's
  const Number* bias = nullptr;
  float* out = nullptr;  // (2, channels_out)

  TMOR_HOST_DEVICE int64_t blocks() const { return (shape.channels_out + kColumns - 1) / kColumns; }
};

// Block `index` takes channels kColumns * index and following ones. A group of threads adds up every kGroups-th block
// of those that mixed, about the mean of the first one: in float64 that needs no care.
template <typename Number, typename Block>
TMOR_BLOCK_CODE void take_statistics(Block& block, const StatisticsTask<Number>& task, int64_t index) {
  constexpr int kColumns = StatisticsTask<Number>::kColumns;
  constexpr int kGroups = StatisticsTask<Number>::kGroups;
  const Shape& shape = task.shape;
  const int64_t first = index * kColumns;
  const auto sums = [&](int thread) -> double& {
    return block.template value<double>(static_cast<uint32_t>(thread) * 8);
  };
  const auto squares = [&](int thread) -> double& { return sums(kThreads + thread); };
  block.each([&](int thread) {
    const int64_t channel = first + thread % kColumns;
    double sum = 0.0;
    double square = 0.0;
    if (channel < shape.channels_out) {
      const auto origin = static_cast<double>(task.moments[channel].mean);
      for (int64_t i = thread / kColumns; i < shape.clips * task.tiling.splits; i += kGroups) {
        const Share share = share_of(task.tiling, i);
        const int64_t end = int64_t{share.last} * task.tiling.frames;
        const int64_t frames = (end < shape.frames ? end : shape.frames) - int64_t{share.first} * task.tiling.frames;
        const Moments& moments = task.moments[i * kWarps * shape.channels_out + channel];
        const auto rows = static_cast<double>(frames * shape.joints);
        const double step = static_cast<double>(moments.mean) - origin;
        sum += rows * step;
        square += static_cast<double>(moments.squares) + rows * step * step;
      }
    }
    sums(thread) = sum;
    squares(thread) = square;
  });
  block.barrier();
  block.each([&](int thread) {
    const int64_t channel = first + thread;
    if (thread >= kColumns || channel >= shape.channels_out) return;
    double sum = 0.0;
    double square = 0.0;
    for (int group = 0; group < kGroups; ++group) {
      sum += sums(group * kColumns + thread);
      square += squares(group * kColumns + thread);
    }
    const auto rows = static_cast<double>(shape.clips * shape.frames * shape.joints);
    const double step = sum / rows;
    const double variance = square / rows - step * step;
    const double mean = static_cast<double>(task.moments[channel].mean) + step;
    task.out[channel] = static_cast<float>(mean + static_cast<double>(widen(task.bias[channel])));
    task.out[shape.channels_out + channel] = variance < 0.0 ? 0.0F : static_cast<float>(variance);  // keeps NaN
  });
}

}  // namespace tmor::dependency_attention
