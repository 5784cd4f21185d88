// The four tile programs of one block. Each runs over the tiles of one share and is the same text on either side.
//
//   sum_logits       theta and phi of a tile, then theta phi^T of its frames, summed over the share
//   mix_values       a tile times the value weights of all heads, then mixed over joints: z, with or without its
//                    statistics (cuda_statistics.hpp); for the backward pass the same of grad_z with transposed
//                    matrices: grad_x, and the gradient of the mixing matrices
//   mix_embedding    theta and phi of a tile again, then mixed by the gradient of the logits: grad_embedding
//   sum_value_weight a tile of x mixed over joints, then grad_z^T times it, summed over the share: grad_value_weight
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_block.hpp"
#include "dependency_attention/cuda_statistics.hpp"

namespace tmor::dependency_attention {

// Zeros, and table[k] = offset(k) for k < depth.
template <typename Block, typename Offset>
TMOR_BLOCK_CODE void start_block(Block& block, const Memory& memory, int depth, const Offset& offset) {
  block.each([&](int thread) {
    if (thread < 4) block.template value<uint32_t>(memory.zero + static_cast<uint32_t>(thread) * 4) = 0;
    for (int k = thread; k < depth; k += kThreads) {
      block.template value<int32_t>(memory.table + static_cast<uint32_t>(k) * 4) = offset(k);
    }
  });
  block.barrier();
}

// Frames of a tile and where its rows begin.
struct TileRows {
  int64_t first;
  int32_t frames;
};

TMOR_BLOCK_CODE TileRows rows_of(const Shape& shape, const Tiling& tiling, int64_t clip, int64_t tile) {
  const int64_t frame = tile * tiling.frames;
  const int64_t rest = shape.frames - frame;
  return {(clip * shape.frames + frame) * shape.joints,
          rest < tiling.frames ? static_cast<int32_t>(rest) : tiling.frames};
}

// Rows of the share's tile after this one, which lie behind it.
TMOR_BLOCK_CODE int32_t rows_ahead(const Shape& shape, const Tiling& tiling, const Share& share, int tile) {
  return tile + 1 < share.last ? rows_of(shape, tiling, share.clip, tile + 1).frames * shape.joints : 0;
}

// Neighbours of a row of a result; `inside` of them exist.
template <typename Number>
TMOR_BLOCK_CODE void write_pair(Number* target, bool paired, int64_t inside, float low, float high) {
  if (paired && inside >= 2) {
    store_pair<Number>(target, low, high);
    return;
  }
  if (inside >= 1) target[0] = narrow<Number>(low);
  if (inside >= 2) target[1] = narrow<Number>(high);
}

template <typename Number>
struct LogitsTask {
  Shape shape;
  Tiling tiling;
  TileProduct<Number> product;  // with the embedding weights
  float* partial = nullptr;     // (clips * splits, heads, V, V)
};

template <typename Number, typename Block>
TMOR_BLOCK_CODE void sum_logits(Block& block, const LogitsTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const Memory& memory = task.product.memory;
  const Share share = share_of(task.tiling, index);
  float* partial = task.partial + index * shape.heads * shape.square();
  block.each([&](int thread) {
    for (int64_t i = thread; i < shape.heads * shape.square(); i += kThreads) partial[i] = 0.0F;
  });
  start_block(block, memory, 0, [](int) { return 0; });
  const int padded = shape.padded_embedding();
  const int chunk = task.product.pieces.chunk;
  const int down = shape.padded_joints() / 16;
  const int across = (shape.joints + 31) / 32;
  for (int tile = share.first; tile < share.last; ++tile) {
    const TileRows rows = rows_of(shape, task.tiling, share.clip, tile);
    multiply_tile(
        block, task.product, rows.first, rows.frames * shape.joints, rows_ahead(shape, task.tiling, share, tile),
        [](int) {},
        [&](int piece) {
          const int first = piece * chunk;
          const int last = first + chunk < shape.heads * padded ? first + chunk : shape.heads * padded;
          const int head = first / padded;
          const int heads = (last - 1) / padded - head + 1;
          const Pitches pitches{memory.work_pitch, memory.work_pitch};
          contract_frames<Number>(block, memory, heads * down * across, rows.frames, shape.joints,
                                  padded < chunk ? padded : chunk, pitches, [&](int unit) {
                                    const int mine = head + unit / (down * across);
                                    const int begin = mine * padded > first ? mine * padded - first : 0;
                                    const int end = (mine + 1) * padded < last ? (mine + 1) * padded : last;
                                    ContractUnit result;
                                    result.left = memory.work + static_cast<uint32_t>(begin) * sizeof(Number);
                                    result.right = memory.work + static_cast<uint32_t>(chunk + begin) * sizeof(Number);
                                    result.depth = end - first - begin;
                                    result.v = unit / across % down * 16;
                                    result.w = unit % across * 32;
                                    result.sums = partial + mine * shape.square();
                                    return result;
                                  });
        });
  }
}

template <typename Number>
struct ValuesTask {
  Shape shape;
  Tiling tiling;
  TileProduct<Number> product;       // x with the value weights, or grad_z with those of the gradient
  const Number* mixing = nullptr;    // (clips, padded_joints, padded_all)
  int64_t channels = 0;              // of `out`
  Number* out = nullptr;             // (clips, frames, V, channels); null: not wanted, backward
  const Number* bias = nullptr;      // (channels,), forward
  const Number* shortcut = nullptr;  // as out, or null, forward
  bool relu = false;                 // forward
  bool paired = false;               // whether two channels can be read and written at once
  Rows<Number> x;                    // backward
  float* partial = nullptr;          // (clips * splits, heads, V, V), the gradient of M[v, w]; null: not wanted
  Moments* moments = nullptr;        // (clips * splits, kWarps, channels) of `out` without bias, forward
};

// Sum to result: bias, shortcut, ReLU, each where there is one.
template <typename Number>
TMOR_BLOCK_CODE float finish_value(const ValuesTask<Number>& task, int64_t row, int64_t channel, float sum) {
  if (task.bias != nullptr) sum += widen(task.bias[channel]);
  if (task.shortcut != nullptr) sum += widen(task.shortcut[row * task.channels + channel]);
  return task.relu && sum < 0.0F ? 0.0F : sum;  // keeps NaN
}

template <typename Number, typename Block>
TMOR_BLOCK_CODE void contract_values(Block& block, const ValuesTask<Number>& task, int frames, float* partial) {
  const Shape& shape = task.shape;
  const Memory& memory = task.product.memory;
  const int chunk = task.product.pieces.chunk;
  const int down = shape.padded_joints() / 16;
  const int across = (shape.joints + 31) / 32;
  const Pitches pitches{memory.extra_pitch, memory.work_pitch};
  contract_frames<Number>(block, memory, shape.heads * down * across, frames, shape.joints,
                          static_cast<int>(round_up(chunk, 16)), pitches, [&](int unit) {
                            const int head = unit / (down * across);
                            ContractUnit result;
                            result.left = memory.extra;
                            result.right = memory.work + static_cast<uint32_t>(head * chunk) * sizeof(Number);
                            result.depth = chunk;
                            result.v = unit / across % down * 16;
                            result.w = unit % across * 32;
                            result.sums = partial + head * shape.square();
                            return result;
                          });
}

template <bool kStatistics, typename Number, typename Block>
TMOR_BLOCK_CODE void mix_piece(Block& block, const ValuesTask<Number>& task, int64_t clip, const TileRows& rows,
                               int piece, const PieceMoments& moments,
                               const typename Block::template PerThread<int>& full) {
  const Shape& shape = task.shape;
  const Memory& memory = task.product.memory;
  const int chunk = task.product.pieces.chunk;
  const int depth = shape.padded_all();
  const int down = shape.padded_joints() / 16;
  const Number* mixing = task.mixing + clip * shape.padded_joints() * depth;
  mix_joints<Number, 2>(
      block, memory, (rows.frames + 1) / 2 * down, depth,
      [&](int unit) {
        const uint32_t frame_bytes = static_cast<uint32_t>(shape.joints) * memory.work_pitch;
        MixUnit<Number> result;
        result.frame = unit / down * 2;
        result.row = unit % down * 16;
        result.left = mixing + int64_t{result.row} * depth;
        result.right[0] = memory.work + static_cast<uint32_t>(result.frame) * frame_bytes;
        result.right[1] = result.right[0] + (result.frame + 1 < rows.frames ? frame_bytes : 0);
        result.columns = chunk;
        return result;
      },
      [&](const MixUnit<Number>& unit, int second, int m, int n, float low, float high) {
        const int joint = unit.row + m;
        const int64_t channel = int64_t{piece} * chunk + n;
        const int64_t inside = task.channels - channel;
        if (joint >= shape.joints || unit.frame + second >= rows.frames || inside < 1) return;
        const int64_t row = rows.first + int64_t{unit.frame + second} * shape.joints + joint;
        low = finish_value(task, row, channel, low);
        if (inside > 1) high = finish_value(task, row, channel + 1, high);
        write_pair(task.out + row * task.channels + channel, task.paired, inside, low, high);
      },
      [&](int first, const auto& units, const auto& sums) {
        if constexpr (kStatistics) join_units(block, shape, moments, first, units, sums, full);
      });
}

template <bool kBackward, bool kStatistics, typename Number, typename Block>
TMOR_BLOCK_CODE void mix_values(Block& block, const ValuesTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const Memory& memory = task.product.memory;
  const int chunk = task.product.pieces.chunk;
  const Share share = share_of(task.tiling, index);
  float* partial = nullptr;
  if (kBackward && task.partial != nullptr) {
    partial = task.partial + index * shape.heads * shape.square();
    block.each([&](int thread) {
      for (int64_t i = thread; i < shape.heads * shape.square(); i += kThreads) partial[i] = 0.0F;
    });
  }
  typename Block::template PerThread<int> full;  // rows of a tile that are the warp's
  if constexpr (kStatistics) {
    block.each([&](int thread) { full[thread] = rows_of_warp(shape, task.tiling.frames, warp_of(thread)); });
  }
  Moments* moments = kStatistics ? task.moments + index * kWarps * task.channels : nullptr;
  start_block(block, memory, shape.padded_all(), [&](int k) {
    if (k >= shape.heads * shape.joints) return -1;
    return k % shape.joints * static_cast<int>(memory.work_pitch) +
           k / shape.joints * chunk * static_cast<int>(sizeof(Number));
  });
  for (int tile = share.first; tile < share.last; ++tile) {
    const TileRows rows = rows_of(shape, task.tiling, share.clip, tile);
    // Backward has no registers left for the prefetch.
    multiply_tile(
        block, task.product, rows.first, rows.frames * shape.joints,
        kBackward ? 0 : rows_ahead(shape, task.tiling, share, tile),
        [&](int piece) {
          if constexpr (kBackward) {
            if (partial == nullptr) return;
            const int64_t channel = int64_t{piece} * chunk;
            int bits = 0;
            while ((16 << bits) < chunk * static_cast<int>(sizeof(Number))) ++bits;
            block.copy(
                memory.extra, memory.extra_pitch,
                Rows<Number>{task.x.values + rows.first * task.x.columns + channel, task.x.columns, task.x.aligned},
                Extent{task.tiling.rows(), bits, int64_t{rows.frames} * shape.joints, task.x.columns - channel});
          }
        },
        [&](int piece) {
          if constexpr (kBackward) {
            if (partial != nullptr) contract_values(block, task, rows.frames, partial);
          }
          if (task.out == nullptr) return;
          const PieceMoments of_piece{moments, task.channels, int64_t{piece} * chunk, rows.frames, tile - share.first};
          mix_piece<kStatistics>(block, task, share.clip, rows, piece, of_piece, full);
        });
  }
  if constexpr (kStatistics) join_warps(block, shape, task.tiling, share, moments);
}

template <typename Number>
struct EmbeddingTask {
  Shape shape;
  Tiling tiling;
  TileProduct<Number> product;  // as of the logits
  const Number* mixing =
      nullptr;  // (clips, heads, 2, padded_joints, padded_joints): gradient of the logits [v, w], [w, v]
  int64_t first_clip = 0;
  Number* out = nullptr;  // (clips from first_clip on, frames, V, 2 heads embedding)
};

template <typename Number, typename Block>
TMOR_BLOCK_CODE void mix_embedding(Block& block, const EmbeddingTask<Number>& task, int64_t index) {
  const Shape& shape = task.shape;
  const Memory& memory = task.product.memory;
  Share share = share_of(task.tiling, index);
  share.clip += static_cast<int32_t>(task.first_clip);
  const int chunk = task.product.pieces.chunk;
  const int padded = shape.padded_embedding();
  const int side = shape.padded_joints();
  const int down = side / 16;
  const int granules = chunk / 16;
  const int64_t skipped = task.first_clip * shape.frames * shape.joints;
  const int64_t columns = int64_t{2} * shape.heads * shape.embedding;
  start_block(block, memory, side,
              [&](int k) { return k < shape.joints ? k * static_cast<int>(memory.work_pitch) : -1; });
  for (int tile = share.first; tile < share.last; ++tile) {
    const TileRows rows = rows_of(shape, task.tiling, share.clip, tile);
    multiply_tile(
        block, task.product, rows.first, rows.frames * shape.joints, rows_ahead(shape, task.tiling, share, tile),
        [](int) {},
        [&](int piece) {
          mix_joints<Number, 1>(
              block, memory, (rows.frames + 1) / 2 * down * granules * 2, side,
              [&](int unit) {
                // Sixteen columns belong to one head: they become the gradient of theta from phi, or of phi from theta.
                const int half = unit % 2;
                const int granule = unit / 2 % granules;
                const int pair = piece * chunk + granule * 16;
                const int head = pair / padded < shape.heads ? pair / padded : shape.heads - 1;
                const uint32_t frame_bytes = static_cast<uint32_t>(shape.joints) * memory.work_pitch;
                MixUnit<Number> result;
                result.frame = unit / (2 * granules) / down * 2;
                result.row = unit / (2 * granules) % down * 16;
                result.left =
                    task.mixing + (((int64_t{share.clip} * shape.heads + head) * 2 + half) * side + result.row) * side;
                const int from = (half == 0 ? chunk : 0) + granule * 16;
                result.right[0] = memory.work + static_cast<uint32_t>(from) * sizeof(Number) +
                                  static_cast<uint32_t>(result.frame) * frame_bytes;
                result.right[1] = result.right[0] + (result.frame + 1 < rows.frames ? frame_bytes : 0);
                result.columns = pair / padded < shape.heads ? 16 : 0;
                result.what = shape.embedding - pair % padded;
                result.column = (half * shape.heads + head) * shape.embedding + pair % padded;
                return result;
              },
              [&](const MixUnit<Number>& unit, int second, int m, int n, float low, float high) {
                const int joint = unit.row + m;
                if (joint >= shape.joints || unit.frame + second >= rows.frames) return;
                const int64_t row = rows.first - skipped + int64_t{unit.frame + second} * shape.joints + joint;
                write_pair(task.out + row * columns + unit.column + n, shape.embedding % 2 == 0, unit.what - n, low,
                           high);
              },
              [](int, const auto&, const auto&) {});
        });
  }
}

template <typename Number>
struct ValueWeightTask {
  Shape shape;
  Tiling tiling;
  Rows<Number> grad;  // grad_z
  Rows<Number> x;
  const Number* mixing = nullptr;  // (clips, heads, padded_joints, padded_joints): M[w, v]
  float* partial = nullptr;        // (splits, Cout, heads * Cin)
  int64_t splits = 1;
  Memory memory;  // work: mixed x, extra: x, left: grad_z

  TMOR_HOST_DEVICE static constexpr int outputs() { return 2 * kSlice<Number>; }  // of a block, times kSlice inputs
  TMOR_HOST_DEVICE int64_t down() const { return (shape.channels_out + outputs() - 1) / outputs(); }
  TMOR_HOST_DEVICE int64_t across() const { return (shape.channels_in + kSlice<Number> - 1) / kSlice<Number>; }
  TMOR_HOST_DEVICE int64_t blocks() const { return down() * across() * shape.heads; }  // of one split
};

inline Memory plan_value_weight(const Shape& shape, const Tiling& tiling) {
  Memory memory;
  const auto rows = static_cast<uint32_t>(tiling.rows());
  memory.work = memory.table + static_cast<uint32_t>(4 * shape.padded_joints());
  memory.work_pitch = memory.extra_pitch = kSlicePitch;
  memory.extra = memory.work + rows * memory.work_pitch;
  memory.left = memory.extra + rows * memory.extra_pitch;
  memory.left_pitch = 2 * kSliceBytes + 16;
  memory.bytes = memory.left + rows * int64_t{memory.left_pitch};
  return memory;
}

// Mixes the columns of x in memory.extra into memory.work.
template <typename Number, typename Block>
TMOR_BLOCK_CODE void mix_slice(Block& block, const ValueWeightTask<Number>& task, const Number* mixing,
                               const TileRows& rows) {
  constexpr int kBlocks = kSlice<Number> / 32;
  const Shape& shape = task.shape;
  const Memory& memory = task.memory;
  const int side = shape.padded_joints();
  const int down = side / 16;
  mix_joints<Number, 2>(
      block, memory, (rows.frames + 1) / 2 * down * kBlocks, side,
      [&](int unit) {
        const uint32_t frame_bytes = static_cast<uint32_t>(shape.joints) * memory.extra_pitch;
        MixUnit<Number> result;
        result.column = unit % kBlocks * 32;
        result.row = unit / kBlocks % down * 16;
        result.frame = unit / kBlocks / down * 2;
        result.left = mixing + int64_t{result.row} * side;
        result.right[0] = memory.extra + static_cast<uint32_t>(result.column) * sizeof(Number) +
                          static_cast<uint32_t>(result.frame) * frame_bytes;
        result.right[1] = result.right[0] + (result.frame + 1 < rows.frames ? frame_bytes : 0);
        result.columns = 32;
        return result;
      },
      [&](const MixUnit<Number>& unit, int second, int m, int n, float low, float high) {
        const int joint = unit.row + m;
        if (joint >= shape.joints || unit.frame + second >= rows.frames) return;
        const int row = (unit.frame + second) * shape.joints + joint;
        const uint32_t at = memory.work + static_cast<uint32_t>(row) * memory.work_pitch +
                            static_cast<uint32_t>(unit.column + n) * sizeof(Number);
        store_pair<Number>(&block.template value<unsigned char>(at), low, high);
      },
      [](int, const auto&, const auto&) {});
}

template <typename Number, typename Block>
TMOR_BLOCK_CODE void sum_value_weight(Block& block, const ValueWeightTask<Number>& task, int64_t index) {
  constexpr int kTimes = kSlice<Number> / 32;  // 16 x 16 products of a warp, in either direction
  constexpr int kSize = static_cast<int>(sizeof(Number));
  const Shape& shape = task.shape;
  const Memory& memory = task.memory;
  const int64_t split = index / task.blocks();
  const int head = static_cast<int>(index % task.blocks() / (task.down() * task.across()));
  const int64_t output = index / task.across() % task.down() * task.outputs();
  const int64_t input = index % task.across() * kSlice<Number>;
  const int64_t tiles = shape.clips * task.tiling.tiles;
  const int64_t square = int64_t{shape.padded_joints()} * shape.padded_joints();
  start_block(block, memory, shape.padded_joints(),
              [&](int k) { return k < shape.joints ? k * static_cast<int>(memory.extra_pitch) : -1; });
  block.each([&](int thread) {  // rows behind the last frame stay zero
    for (uint32_t at = static_cast<uint32_t>(thread) * 4; at < memory.extra - memory.work; at += 4 * kThreads) {
      block.template value<uint32_t>(memory.work + at) = 0;
    }
  });
  typename Block::template PerThread<Sums<kTimes, 2 * kTimes>> sums;
  clear<kTimes, 2 * kTimes>(block, sums);
  for (int64_t tile = tiles * split / task.splits; tile < tiles * (split + 1) / task.splits; ++tile) {
    const int64_t clip = tile / task.tiling.tiles;
    const TileRows rows = rows_of(shape, task.tiling, clip, tile % task.tiling.tiles);
    const int valid = rows.frames * shape.joints;
    block.barrier();  // all have finished with the tile before
    block.copy(memory.extra, memory.extra_pitch,
               Rows<Number>{task.x.values + rows.first * task.x.columns + input, task.x.columns, task.x.aligned},
               Extent{task.tiling.rows(), 3, valid, task.x.columns - input});
    block.copy(
        memory.left, memory.left_pitch,
        Rows<Number>{task.grad.values + rows.first * task.grad.columns + output, task.grad.columns, task.grad.aligned},
        Extent{task.tiling.rows(), 4, valid, task.grad.columns - output});
    block.commit();
    block.wait(0);
    block.barrier();
    mix_slice(block, task, task.mixing + (clip * shape.heads + head) * square, rows);
    block.barrier();
    for (int row = 0; row < valid; row += 64) {
      const int rest = static_cast<int>(round_up(valid - row, 16));
      accumulate<Number, true, true, kTimes, kTimes>(
          block, sums, kTimes, rest < 64 ? rest : 64,
          [&](int thread, int m, int k) {
            return memory.left + static_cast<uint32_t>(row + k) * memory.left_pitch +
                   static_cast<uint32_t>(((warp_of(thread) >> 1) * 16 * kTimes + m) * kSize);
          },
          [&](int thread, int n, int k) {
            return memory.work + static_cast<uint32_t>(row + k) * memory.work_pitch +
                   static_cast<uint32_t>(((warp_of(thread) & 1) * 16 * kTimes + n) * kSize);
          });
    }
  }
  block.each([&](int thread) {
    const int64_t columns = int64_t{shape.heads} * shape.channels_in;
    float* partial = task.partial + split * shape.channels_out * columns;
    TMOR_UNROLL
    for (int i = 0; i < kTimes; ++i) {
      TMOR_UNROLL
      for (int j = 0; j < 2 * kTimes; ++j) {
        TMOR_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int64_t row = output + ((warp_of(thread) >> 1) * kTimes + i) * 16 + fragment_row(thread, c);
          const int64_t column = input + (warp_of(thread) & 1) * 16 * kTimes + j * 8 + fragment_column(thread, c);
          if (row < shape.channels_out && column < shape.channels_in) {
            partial[row * columns + head * shape.channels_in + column] = sums[thread].value[i][j][c];
          }
        }
      }
    }
  });
}

}  // namespace tmor::dependency_attention
