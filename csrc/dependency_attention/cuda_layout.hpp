// Sizes of tiles and where things lie, in shared memory and in the workspace: arithmetic alone, the same on either
// side.
//
// A row is one joint of one frame. A tile is a few frames of one clip, at most 128 rows, or one frame of more joints in
// groups of 128 rows. Weights are copied into pieces of at most `subs * width` columns that a tile is multiplied by one
// after another; zeros fill them up, so that no size is special.
#pragma once

#include <cstdint>

#include "common/round_up.hpp"
#include "dependency_attention/cuda_numbers.hpp"

namespace tmor::dependency_attention {

constexpr int kThreads = 256;     // of a block
constexpr int kWarps = 8;         // four by rows, two by columns
constexpr int kGroupRows = 128;   // rows that are multiplied at once
constexpr int kMostColumns = 96;  // columns that are multiplied at once; 64 of float32, which needs twice the memory
constexpr int kSliceBytes = 128;  // of a row in one stage of the ring
constexpr int kSlicePitch = 144;  // an odd number of 16 bytes: eight rows lie in different banks
constexpr int64_t kSlots = 264;   // blocks that the work is cut for: two on each of 132 multiprocessors
constexpr int64_t kMostSplits = 64;

template <typename Number>
constexpr int kSlice = kSliceBytes / static_cast<int>(sizeof(Number));  // numbers of a row in a slice

template <typename Number>
constexpr int kChunk = 16 / static_cast<int>(sizeof(Number));

struct Shape {
  int64_t clips = 0;
  int64_t frames = 0;
  int32_t joints = 0;
  int32_t channels_in = 0;
  int32_t channels_out = 0;
  int32_t heads = 0;
  int32_t embedding = 0;

  TMOR_HOST_DEVICE int32_t padded_embedding() const { return static_cast<int32_t>(round_up(embedding, 16)); }
  // Rows or columns of a mixing matrix: joints, or joints of all heads.
  TMOR_HOST_DEVICE int32_t padded_joints() const { return static_cast<int32_t>(round_up(joints, 16)); }
  TMOR_HOST_DEVICE int32_t padded_all() const { return static_cast<int32_t>(round_up(int64_t{heads} * joints, 16)); }
  TMOR_HOST_DEVICE int64_t square() const { return int64_t{joints} * joints; }
};

struct Tiling {
  int32_t frames = 1;  // of a tile
  int32_t groups = 1;  // of 128 rows
  int64_t tiles = 0;   // of a clip
  int64_t splits = 1;  // blocks that share a clip

  TMOR_HOST_DEVICE int32_t rows() const { return groups * kGroupRows; }
};

// Cuts a clip so that the last round of blocks is nearly full.
inline Tiling make_tiling(const Shape& shape) {
  Tiling tiling;
  const int64_t fits = shape.joints <= kGroupRows ? kGroupRows / shape.joints : 1;
  tiling.frames = static_cast<int32_t>(fits < shape.frames ? fits : shape.frames);
  tiling.groups = static_cast<int32_t>((int64_t{tiling.frames} * shape.joints + kGroupRows - 1) / kGroupRows);
  tiling.tiles = (shape.frames + tiling.frames - 1) / tiling.frames;
  double best = 0.0;
  for (int64_t splits = 1; splits <= kMostSplits && splits <= tiling.tiles; ++splits) {
    const auto rounds = static_cast<double>((shape.clips * splits + kSlots - 1) / kSlots);
    const double cost = rounds * (static_cast<double>((tiling.tiles + splits - 1) / splits) + 0.25);
    if (splits > 1 && cost >= 0.97 * best) continue;  // every split costs memory
    best = cost;
    tiling.splits = splits;
  }
  return tiling;
}

// The tiles of one block, all of one clip.
struct Share {
  int32_t clip;
  int32_t first;
  int32_t last;
};

TMOR_HOST_DEVICE Share share_of(const Tiling& tiling, int64_t block) {
  const int64_t split = block % tiling.splits;
  return {static_cast<int32_t>(block / tiling.splits), static_cast<int32_t>(tiling.tiles * split / tiling.splits),
          static_cast<int32_t>(tiling.tiles * (split + 1) / tiling.splits)};
}

// As above, for numbers of which a slice holds `slice`.
TMOR_HOST_DEVICE int32_t most_columns(int32_t slice) { return slice == kSliceBytes / 2 ? kMostColumns : 64; }

// What the packed columns of a piece stand for.
enum class Packing : int {
  embedding = 0,      // `chunk` columns of theta, then the same of phi, heads padded to multiples of 16
  value = 1,          // `chunk` channels of z for each head, depth Cin
  value_gradient = 2  // `chunk` channels of x for each head, depth Cout
};

struct Pieces {
  int32_t chunk = 0;  // channels or pairs of channels that a piece finishes
  int32_t subs = 1;   // products that fill a piece
  int32_t width = 0;  // columns of one product, a multiple of 32, at most 96
  int32_t count = 0;
  int32_t slices = 0;  // of the depth

  TMOR_HOST_DEVICE int32_t columns() const { return subs * width; }
};

TMOR_HOST_DEVICE Pieces make_pieces(const Shape& shape, Packing packing, int32_t slice) {
  Pieces pieces;
  int64_t columns = 0;
  int64_t depth = shape.channels_in;
  const int32_t most = most_columns(slice);
  if (packing == Packing::embedding) {
    const int64_t pairs = int64_t{shape.heads} * shape.padded_embedding();
    pieces.chunk = static_cast<int32_t>(pairs < most / 2 ? pairs : most / 2);
    pieces.count = static_cast<int32_t>((pairs + pieces.chunk - 1) / pieces.chunk);
    columns = 2 * pieces.chunk;
  } else {
    pieces.chunk = shape.heads * 32 <= most ? 32 : shape.heads * 16 <= most ? 16 : 8;
    const int64_t channels = packing == Packing::value ? shape.channels_out : shape.channels_in;
    depth = packing == Packing::value ? shape.channels_in : shape.channels_out;
    pieces.count = static_cast<int32_t>((channels + pieces.chunk - 1) / pieces.chunk);
    columns = int64_t{shape.heads} * pieces.chunk;
  }
  pieces.subs = static_cast<int32_t>((columns + most - 1) / most);
  pieces.width = static_cast<int32_t>(round_up((columns + pieces.subs - 1) / pieces.subs, 32));
  pieces.slices = static_cast<int32_t>((depth + slice - 1) / slice);
  return pieces;
}

// Where a packed column comes from: a row of query_key_weight, or a channel and a head of value_weight; -1 for filling.
struct Origin {
  int64_t channel;
  int64_t head;
};

TMOR_HOST_DEVICE Origin origin_of(const Shape& shape, Packing packing, const Pieces& pieces, int64_t index) {
  const int64_t piece = index / pieces.columns();
  const int64_t column = index % pieces.columns();
  if (packing == Packing::embedding) {
    const int64_t second = column >= pieces.chunk ? 1 : 0;
    const int64_t pair = piece * pieces.chunk + column - second * pieces.chunk;
    const int64_t head = pair / shape.padded_embedding();
    const int64_t channel = pair % shape.padded_embedding();
    if (column >= 2 * pieces.chunk || head >= shape.heads || channel >= shape.embedding) return {-1, -1};
    return {(second * shape.heads + head) * shape.embedding + channel, head};
  }
  const int64_t head = column / pieces.chunk;
  const int64_t channel = piece * pieces.chunk + column % pieces.chunk;
  if (head >= shape.heads) return {-1, -1};
  if (channel >= (packing == Packing::value ? shape.channels_out : shape.channels_in)) return {-1, -1};
  return {channel, head};
}

// Shared memory of a block, as offsets from its start, all multiples of 16.
struct Memory {
  uint32_t zero = 0;    // 16 bytes of zeros, for whatever lies outside
  uint32_t table = 16;  // (k,) int32: where row k of a product of joints lies in a frame, -1 for filling
  uint32_t work = 0;    // (rows, columns) products of a piece
  uint32_t work_pitch = 0;
  uint32_t extra = 0;  // (rows, chunk) channels of a second tensor
  uint32_t extra_pitch = 0;
  uint32_t left = 0;  // the whole tile, where it is stationary
  uint32_t left_pitch = 0;
  uint32_t stage = 0;  // first stage of the ring: weights, then the tile's slice where it is not stationary
  uint32_t stage_bytes = 0;
  int32_t stages = 0;  // 2 to 4; 0: the device has too little
  int32_t stationary = 0;
  int32_t blocks = 1;  // of a multiprocessor
  int64_t bytes = 0;
};

struct Limits {
  int64_t per_block;
  int64_t per_multiprocessor;
};

// Tries to fit `blocks` blocks into a multiprocessor; `gap` bytes lie between the rows of `extra`.
inline bool try_memory(const Tiling& tiling, const Pieces& pieces, const Limits& limits, int blocks, int64_t gap,
                       int64_t extra_bytes, Memory* memory) {
  constexpr int64_t kReserved = 1024;  // of each block, by the driver
  memory->extra_pitch = extra_bytes > 0 ? static_cast<uint32_t>(extra_bytes + gap) : 0;
  memory->left = memory->extra + static_cast<uint32_t>(tiling.rows()) * memory->extra_pitch;
  const int64_t share = limits.per_multiprocessor / blocks - kReserved;
  const int64_t room = (share < limits.per_block ? share : limits.per_block) - memory->left;
  for (int stationary = tiling.groups == 1 ? 1 : 0; stationary >= 0; --stationary) {
    const int64_t left = stationary * int64_t{kGroupRows} * memory->left_pitch;
    const int64_t stage = int64_t{kSlicePitch} * (pieces.width + (stationary != 0 ? 0 : kGroupRows));
    if (room < left + 2 * stage) continue;
    const int64_t fits = (room - left) / stage;
    memory->stationary = stationary;
    memory->blocks = blocks;
    memory->stages = static_cast<int32_t>(fits < 4 ? fits : 4);
    memory->stage = memory->left + static_cast<uint32_t>(left);
    memory->stage_bytes = static_cast<uint32_t>(stage);
    memory->bytes = memory->stage + memory->stages * stage;
    return true;
  }
  return false;
}

// Two blocks of a multiprocessor hide each other's waits; a stationary tile is read once instead of once a piece; gaps
// keep rows in different banks.
inline Memory plan_memory(const Tiling& tiling, const Pieces& pieces, int64_t table, int64_t number_bytes,
                          bool with_extra, const Limits& limits) {
  Memory memory;
  memory.work = memory.table + static_cast<uint32_t>(round_up(4 * table, 16));
  memory.work_pitch = static_cast<uint32_t>(pieces.columns() * number_bytes + 16);
  memory.extra = memory.work + static_cast<uint32_t>(tiling.rows()) * memory.work_pitch;
  memory.left_pitch = static_cast<uint32_t>(pieces.slices * kSliceBytes + 16);
  const int64_t extra = with_extra ? pieces.chunk * number_bytes : 0;
  for (const int64_t gap : {16, 0}) {
    for (int blocks = 2; blocks >= 1; --blocks) {
      if (try_memory(tiling, pieces, limits, blocks, gap, extra, &memory)) return memory;
    }
  }
  return memory;
}

}  // namespace tmor::dependency_attention
