// Products of one tile on the matrix units, written once for the device and for a host that plays a block of threads.
//
// A block holds `rows` (queries, or keys for their gradient) in shared memory and streams `columns` past them, 32 a
// tile: scores = rows columns^T, then sums += weights columns with the weights that were made of the scores. Two
// arithmetics: HalfProducts for columns of 16 bits, rows and weights rounded to the same type; SingleProducts for
// float32, every number split into two of TF32 (11 bits each) and three products a pair, which is as good as float32.
//
// Code of a block is a sequence of steps. `block.each(f)` runs f(thread) for every thread, `PerThread<T>` is what each
// thread keeps from one step to the next, and the collective operations are the block's: `DeviceBlock` (cuda_block.cuh)
// issues them, the host block of csrc/tests imitates them as the PTX manual describes them:
//
//   barrier(), warp_barrier()                      __syncthreads, __syncwarp
//   where(flag, body)                              body for the warps whose threads all have the flag
//   exchange(from, to, distance)                   __shfl_xor_sync
//   offsets(count, before, total)                  sums over the warp's lower threads, and over all of it
//   copy_chunk(target, source, valid)              cp.async of 16 bytes, those after `valid` are zeros
//   copy_word(target, source, valid)               cp.async of 4 or 8 bytes
//   commit(), wait(pending)                        cp.async groups
//   store_chunk(target, words), word(address)      shared memory as it is
//   exp2(x), bit_count(bits), fence()              fence: for the compiler alone
//   pack<Number>(first, second)                    two numbers of 16 bits, rounded to nearest
//   load(address(thread), target(thread))          ldmatrix.x4; load_transposed: with .trans
//   multiply<Number>(sum, left, right)             mma.m16n8k16, or m16n8k8 for float (TF32)
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/block_code.hpp"
#include "common/numbers.hpp"

namespace tmor::cluster_infonce {

constexpr int kTileColumns = 32;                // columns of a tile
constexpr int kColumnTiles = kTileColumns / 8;  // of the matrix unit
constexpr int kMaxWarps = 4;
constexpr int kMaxThreads = 32 * kMaxWarps;
constexpr int kRowBytes = 128;  // of one row in a slice: 64 numbers of 16 bits or 32 of float32
constexpr int kStepBytes = 32;  // of one row in a product
constexpr int kSteps = kRowBytes / kStepBytes;
constexpr uint32_t kColumnSliceBytes = kTileColumns * kRowBytes;

// Where a chunk of 16 bytes lies in a slice: its number exclusive-or the row's last three bits, so that the eight rows
// that ldmatrix reads together, or a warp word by word, lie in different banks.
TMOR_BLOCK_CODE uint32_t slice_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row & 7)) << 4));
}

// The same for chunk `step` * 2 + `half` of a row among 16: where() computes once what steps and groups of 16 rows
// share, which costs fewer registers. `slice` is a multiple of kRowBytes.
struct Chunks {
  uint32_t start;
  TMOR_BLOCK_CODE static Chunks where(uint32_t slice, int row, int half) { return {slice + slice_offset(row, half)}; }
  TMOR_BLOCK_CODE uint32_t at(int step, int group) const {
    return (start ^ static_cast<uint32_t>(step * kStepBytes)) + static_cast<uint32_t>(group * 16 * kRowBytes);
  }
};

// What one thread holds of the 16 x 8 sums of the matrix unit: element c is at fragment_row, fragment_column.
TMOR_BLOCK_CODE int fragment_row(int thread, int c) { return (c >> 1) * 8 + ((thread & 31) >> 2); }
TMOR_BLOCK_CODE int fragment_column(int thread, int c) { return (thread & 3) * 2 + (c & 1); }

struct Quad {
  float value[4];
};

// Row tiles of 16, and columns of the sums, that a warp has at most. With one part there are no more columns than
// those, and a tile of them always stays in shared memory whole.
template <int kRows, int kWidth, bool kIsOnePart = false>
struct Tiles {
  static constexpr bool kOnePart = kIsOnePart;
  static constexpr int kRowTiles = kRows;
  static constexpr int kSumTiles = kWidth / 8;
  static constexpr int kWarpRows = 16 * kRows;
  struct Scores {
    float value[kRows][kColumnTiles][4];
  };
  struct Sums {
    float value[kRows][kSumTiles][4];
  };
  struct Rows {  // two of each row tile
    float value[kRows][2];
  };
  struct Pair {
    Quad value[kRows][2];
  };
};

template <typename Given, typename Shape>
struct HalfProducts : Shape {
  using Number = Given;
  using Shape::kRowTiles;
  static constexpr int kBytes = 2;
  static constexpr int kSliceTiles = kRowBytes / 16;  // tiles of 8 columns in a slice
  // Weights are relative to 2^kHeadroom, so that small ones stay normal in float16.
  static constexpr float kHeadroom = std::is_same<Given, Float16>::value ? 15.0F : 0.0F;
  struct Weights {
    uint32_t value[kRowTiles][kTileColumns / 16][4];
  };

  template <typename Block, typename Sum, typename Left, typename Right>
  TMOR_BLOCK_CODE static void multiply_add(Block& block, const Sum& sum, const Left& left, const Right& right) {
    block.template multiply<Number>(sum, left, right);
  }

  // Sums of 8 columns are the left operand's 8 of 16, pair by pair.
  template <typename Block, typename Scores>
  TMOR_BLOCK_CODE static void pack(const Scores& scores, Weights* weights) {
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      TMOR_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) {
        TMOR_UNROLL
        for (int half = 0; half < 2; ++half) {
          weights->value[i][j / 2][j % 2 * 2 + half] =
              Block::template pack<Number>(scores.value[i][j][2 * half], scores.value[i][j][2 * half + 1]);
        }
      }
    }
  }

  // use(n, i, quad): `quad` is weights of row tile i times tile n of 8 columns in the slice at `address`; the first
  // `tiles` of them, or all of a slice if it is full.
  template <bool kFull, typename Block, typename Use>
  TMOR_BLOCK_CODE static void mix(Block& block, const typename Block::template PerThread<Weights>& weights,
                                  uint32_t address, int tiles, const Use& use) {
    typename Block::template PerThread<Chunks> chunks;
    block.each([&](int thread) { chunks[thread] = Chunks::where(address, thread & 15, thread >> 4 & 1); });
    TMOR_UNROLL
    for (int n = 0; n < kSliceTiles; n += 2) {
      if (!kFull && n >= tiles) break;
      typename Block::template PerThread<typename Shape::Pair> sums;
      block.each([&](int thread) { sums[thread] = typename Shape::Pair{}; });
      TMOR_UNROLL
      for (int k = 0; k < kTileColumns / 16; ++k) {
        typename Block::template PerThread<uint32_t[4]> right;
        block.load_transposed([&](int thread) { return chunks[thread].at(n / 2, k); },
                              [&](int thread) { return right[thread]; });
        TMOR_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
          TMOR_UNROLL
          for (int half = 0; half < 2; ++half) {
            block.template multiply<Number>([&](int thread) { return sums[thread].value[i][half].value; },
                                            [&](int thread) { return weights[thread].value[i][k]; },
                                            [&](int thread) { return right[thread] + 2 * half; });
          }
        }
      }
      block.each([&](int thread) {
        TMOR_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
          use(thread, n, i, sums[thread].value[i][0]);
          use(thread, n + 1, i, sums[thread].value[i][1]);
        }
      });
    }
  }

  static constexpr bool kScaled = true;
};

// x as high + low, each of 11 bits and rounded to nearest: x - high - low is at most 2^-24 |x|.
struct Split {
  uint32_t high;
  uint32_t low;
};

// A NaN stays one: the addition would carry out of the all-ones NaN that devices make.
TMOR_BLOCK_CODE uint32_t round_to_tf32(float value) {
  const uint32_t bits = bits_of_float(value);
  return value == value ? (bits + 0x1000U) & 0xffffe000U : bits;
}

TMOR_BLOCK_CODE Split split(uint32_t bits) {
  const float value = float_of_bits(bits);
  const uint32_t high = round_to_tf32(value);
  return {high, round_to_tf32(value - float_of_bits(high))};
}

// Products of two numbers split in two: three, or one where 11 bits of each hold them well enough.
template <typename Shape, int kProducts = 3>
struct SingleProducts : Shape {
  using Number = float;
  using Shape::kRowTiles;
  static constexpr int kBytes = 4;
  static constexpr int kSliceTiles = kRowBytes / 32;
  static constexpr float kHeadroom = 0.0F;
  static constexpr bool kScaled = false;
  using Weights = typename Shape::Scores;

  // sum += left right. The products of a step are added up by themselves, small ones first, and then to the sum, for
  // the matrix unit truncates where it adds.
  template <typename Block, typename Sum, typename Left, typename Right>
  TMOR_BLOCK_CODE static void multiply_add(Block& block, const Sum& sum, const Left& left, const Right& right) {
    typename Block::template PerThread<uint32_t[4]> high;
    typename Block::template PerThread<uint32_t[4]> low;
    typename Block::template PerThread<uint32_t[2]> right_high;
    typename Block::template PerThread<uint32_t[2]> right_low;
    typename Block::template PerThread<Quad> quad;
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int c = 0; c < 4; ++c) {
        const Split parts = split(left(thread)[c]);
        high[thread][c] = parts.high;
        low[thread][c] = parts.low;
        quad[thread].value[c] = 0.0F;
      }
      TMOR_UNROLL
      for (int c = 0; c < 2; ++c) {
        const Split parts = split(right(thread)[c]);
        right_high[thread][c] = parts.high;
        right_low[thread][c] = parts.low;
      }
    });
    const auto target = [&](int thread) { return quad[thread].value; };
    const auto left_high = [&](int thread) { return high[thread]; };
    if (kProducts == 3) {
      block.template multiply<float>(
          target, [&](int thread) { return low[thread]; }, [&](int thread) { return right_high[thread]; });
      block.template multiply<float>(target, left_high, [&](int thread) { return right_low[thread]; });
    }
    block.template multiply<float>(target, left_high, [&](int thread) { return right_high[thread]; });
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int c = 0; c < 4; ++c) sum(thread)[c] += quad[thread].value[c];
    });
  }

  template <typename Block, typename Scores>
  TMOR_BLOCK_CODE static void pack(const Scores& scores, Weights* weights) {
    *weights = scores;
  }

  // The order of the sum over 8 columns of a tile is free: 2 t and 2 t + 1 of the scores, which thread t of a row has,
  // stand where the left operand wants t and t + 4, and the rows of the right operand are read in that order.
  template <bool kFull, typename Block, typename Use>
  TMOR_BLOCK_CODE static void mix(Block& block, const typename Block::template PerThread<Weights>& weights,
                                  uint32_t address, int tiles, const Use& use) {
    TMOR_UNROLL
    for (int n = 0; n < kSliceTiles; ++n) {
      if (!kFull && n >= tiles) break;
      typename Block::template PerThread<typename Shape::Pair> sums;
      block.each([&](int thread) { sums[thread] = typename Shape::Pair{}; });
      TMOR_UNROLL
      for (int k = 0; k < kColumnTiles; ++k) {
        typename Block::template PerThread<uint32_t[2]> right;
        block.each([&](int thread) {
          const int column = n * 8 + ((thread & 31) >> 2);
          TMOR_UNROLL
          for (int c = 0; c < 2; ++c) {
            const int row = k * 8 + (thread & 3) * 2 + c;
            right[thread][c] =
                block.word(address + slice_offset(row, column / 4) + static_cast<uint32_t>(column % 4 * 4));
          }
        });
        TMOR_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
          typename Block::template PerThread<uint32_t[4]> left;
          block.each([&](int thread) {
            const float* given = weights[thread].value[i][k];
            left[thread][0] = bits_of_float(given[0]);
            left[thread][1] = bits_of_float(given[2]);
            left[thread][2] = bits_of_float(given[1]);
            left[thread][3] = bits_of_float(given[3]);
          });
          multiply_add(
              block, [&](int thread) { return sums[thread].value[i][0].value; },
              [&](int thread) { return left[thread]; }, [&](int thread) { return right[thread]; });
        }
      }
      block.each([&](int thread) {
        TMOR_UNROLL
        for (int i = 0; i < kRowTiles; ++i) use(thread, n, i, sums[thread].value[i][0]);
      });
    }
  }
};

// scores += one slice of the rows times one of the columns, transposed; `steps` of kSteps are not zeros, or all of them
// if it is full. Without a branch between them the loads of the next step run beside the products of this one.
template <typename Products, bool kFull, typename Block, typename Scores>
TMOR_BLOCK_CODE void multiply_slice(Block& block, uint32_t left, uint32_t right, int steps, Scores& scores) {
  typename Block::template PerThread<Chunks> left_chunks;
  typename Block::template PerThread<Chunks> right_chunks;
  block.each([&](int thread) {
    // Rows 0-7 and 8-15 of a step's first 16 bytes, then of the other 16.
    left_chunks[thread] =
        Chunks::where(left, (thread >> 5) * Products::kRowTiles * 16 + (thread & 15), thread >> 4 & 1);
    // Both halves of the bytes of columns 0-7, then of columns 8-15.
    right_chunks[thread] = Chunks::where(right, (thread >> 4 & 1) * 8 + (thread & 7), thread >> 3 & 1);
  });
  TMOR_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    if (!kFull && step >= steps) break;
    typename Block::template PerThread<uint32_t[Products::kRowTiles][4]> a;
    typename Block::template PerThread<uint32_t[kColumnTiles / 2][4]> b;
    TMOR_UNROLL
    for (int i = 0; i < Products::kRowTiles; ++i) {
      block.load([&](int thread) { return left_chunks[thread].at(step, i); }, [&](int thread) { return a[thread][i]; });
    }
    TMOR_UNROLL
    for (int j = 0; j < kColumnTiles / 2; ++j) {
      block.load([&](int thread) { return right_chunks[thread].at(step, j); },
                 [&](int thread) { return b[thread][j]; });
    }
    TMOR_UNROLL
    for (int i = 0; i < Products::kRowTiles; ++i) {
      TMOR_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) {
        Products::multiply_add(
            block, [&](int thread) { return scores[thread].value[i][j]; }, [&](int thread) { return a[thread][i]; },
            [&](int thread) { return b[thread][j / 2] + j % 2 * 2; });
      }
    }
  }
}

}  // namespace tmor::cluster_infonce
