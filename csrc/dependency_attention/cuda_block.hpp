// Products of tiles in shared memory, written once for the device and for a host that plays a block of threads.
//
// Code of a block is a sequence of steps. `block.each(f)` runs f(thread) for every thread, `PerThread<T>` is what each
// thread keeps from one step to the next (registers on the device, an array on the host), and the collective
// operations are the block's: `DeviceBlock` (cuda_block.cuh) issues them, the host block of csrc/tests imitates them as
// the PTX manual describes them, fragment layouts included. Addresses are offsets from the start of shared memory.
//
//   barrier()                                            __syncthreads
//   copy(target, pitch, source, rows)                    cp.async of rows of a matrix, zeros outside of it
//   commit(), wait(pending)                              cp.async groups
//   prefetch(begin, bytes)                               prefetch.global.L2
//   load_matrices<transposed>(address(thread), target(thread))   ldmatrix.x4
//   load_left<Number>(source(thread), pitch, target(thread))     the same of a 16 x 16 matrix in global memory
//   multiply<Number>(sum(thread), left(thread), right(thread))   mma.m16n8k16, float32 sums
//   shuffle(values, lane(thread))                        shfl.sync: each thread takes the value of a lane of its warp
//   value<T>(address)                                    one number of shared memory
//
// Half-precision numbers go through the matrix units. float32 goes through fused multiply-adds of the general cores:
// the sums of the matrix units are cut instead of rounded, and split products would be further from float64 than plain
// torch.
#pragma once

#include <cstdint>

#include "dependency_attention/cuda_layout.hpp"

namespace tmor::dependency_attention {

// A thread's part of products of 16 rows x 8 columns each: value[i][j][c] is row 16 i + fragment_row, column
// 8 j + fragment_column.
template <int I, int J>
struct Sums {
  float value[I][J][4];
};
template <int I>
struct Fragment {
  uint32_t value[I][4];
};

TMOR_BLOCK_CODE int warp_of(int thread) { return thread >> 5; }
TMOR_BLOCK_CODE int fragment_row(int thread, int c) { return ((thread & 31) >> 2) + (c >> 1) * 8; }
TMOR_BLOCK_CODE int fragment_column(int thread, int c) { return (thread & 3) * 2 + (c & 1); }

template <int I, int J, typename Block>
TMOR_BLOCK_CODE void clear(Block& block, typename Block::template PerThread<Sums<I, J>>& sums) {
  block.each([&](int thread) { sums[thread] = Sums<I, J>{}; });
}

// Where the lanes of a warp point for the four 8 x 8 matrices of a 16 x 16 left operand (m, k) and of two right ones
// (n, k), each lane at one row of eight numbers as they lie in memory.
template <bool kTransposed>
struct Lane {
  TMOR_BLOCK_CODE static int left_m(int thread) {
    const int lane = thread & 31;
    return kTransposed ? (lane >> 3 & 1) * 8 : lane & 15;
  }
  TMOR_BLOCK_CODE static int left_k(int thread) {
    const int lane = thread & 31;
    return kTransposed ? (lane >> 4) * 8 + (lane & 7) : (lane >> 4) * 8;
  }
  TMOR_BLOCK_CODE static int right_n(int thread) {
    const int lane = thread & 31;
    return kTransposed ? (lane >> 4) * 8 : (lane >> 4) * 8 + (lane & 7);
  }
  TMOR_BLOCK_CODE static int right_k(int thread) {
    const int lane = thread & 31;
    return kTransposed ? (lane >> 3 & 1) * 8 + (lane & 7) : (lane >> 3 & 1) * 8;
  }
};

// sums += left * right over `depth` (at most 64 in half precision, then a multiple of 16). left(thread, m, k) and
// right(thread, n, k) are addresses of numbers; where an operand is not transposed, eight numbers along k that start at
// a multiple of eight lie side by side, else eight along m or n. Only the first `pairs` of J pairs count.
template <typename Number, bool kLeftTransposed, bool kRightTransposed, int I, int J, typename Block, typename Left,
          typename Right>
TMOR_BLOCK_CODE void accumulate(Block& block, typename Block::template PerThread<Sums<I, 2 * J>>& sums, int pairs,
                                int depth, const Left& left, const Right& right) {
  if constexpr (kHalf<Number>) {
    TMOR_UNROLL
    for (int k = 0; k < 64; k += 16) {
      if (k >= depth) break;
      typename Block::template PerThread<Fragment<I>> a;
      TMOR_UNROLL
      for (int i = 0; i < I; ++i) {
        block.template load_matrices<kLeftTransposed>(
            [&](int thread) {
              using At = Lane<kLeftTransposed>;
              return left(thread, i * 16 + At::left_m(thread), k + At::left_k(thread));
            },
            [&](int thread) { return a[thread].value[i]; });
      }
      TMOR_UNROLL
      for (int j = 0; j < J; ++j) {
        if (j >= pairs) break;
        typename Block::template PerThread<Fragment<1>> b;
        block.template load_matrices<kRightTransposed>(
            [&](int thread) {
              using At = Lane<kRightTransposed>;
              return right(thread, j * 16 + At::right_n(thread), k + At::right_k(thread));
            },
            [&](int thread) { return b[thread].value[0]; });
        TMOR_UNROLL
        for (int i = 0; i < I; ++i) {
          TMOR_UNROLL
          for (int half = 0; half < 2; ++half) {
            block.template multiply<Number>([&](int thread) { return sums[thread].value[i][2 * j + half]; },
                                            [&](int thread) { return a[thread].value[i]; },
                                            [&](int thread) { return b[thread].value[0] + 2 * half; });
          }
        }
      }
    }
  } else {
    block.each([&](int thread) {
#if defined(__CUDA_ARCH__)
#pragma unroll 2
#endif
      for (int k = 0; k < depth; ++k) {
        float a[2 * I];
        TMOR_UNROLL
        for (int i = 0; i < 2 * I; ++i) {
          a[i] = block.template value<float>(left(thread, i * 8 + fragment_row(thread, 0), k));
        }
        TMOR_UNROLL
        for (int j = 0; j < 2 * J; ++j) {
          if (j >= 2 * pairs) break;
          TMOR_UNROLL
          for (int e = 0; e < 2; ++e) {
            const float b = block.template value<float>(right(thread, j * 8 + fragment_column(thread, e), k));
            TMOR_UNROLL
            for (int i = 0; i < 2 * I; ++i) {
              float& sum = sums[thread].value[i / 2][j][i % 2 * 2 + e];
              sum = fmaf(a[i], b, sum);
            }
          }
        }
      }
    });
  }
}

// Rows of a tensor, without gaps between them.
template <typename Number>
struct Rows {
  const Number* values = nullptr;
  int64_t columns = 0;
  bool aligned = false;  // every row starts at a multiple of 16 bytes
};

// What `copy` moves: `rows` rows of 2^chunk_bits chunks of 16 bytes. Rows from `valid_rows` on and columns from
// `valid_columns` on are zeros.
struct Extent {
  int32_t rows;
  int32_t chunk_bits;
  int64_t valid_rows;
  int64_t valid_columns;
};

// One tile of rows times the packed weights, piece by piece.
template <typename Number>
struct TileProduct {
  Rows<Number> rows;
  const Number* weights = nullptr;  // (pieces.count * pieces.columns(), pieces.slices * kSlice)
  const float* bias = nullptr;      // (pieces.count * pieces.columns(),) or null
  float scale = 1.0F;               // of sum + bias
  Pieces pieces;
  Memory memory;
  int32_t groups = 1;
};

// Writes the products of a piece, rounded, to memory.work and calls finish(piece), for every piece. before(piece) may
// fill memory.extra. `first` is the tile's first row, `valid` the number of its rows; others are zeros; the `ahead`
// rows behind them are needed next. The loads run ahead of the products by stages - 1 slices, from one piece into the
// next.
template <typename Number, typename Block, typename Before, typename Finish>
TMOR_BLOCK_CODE void multiply_tile(Block& block, const TileProduct<Number>& product, int64_t first, int32_t valid,
                                   int32_t ahead, const Before& before, const Finish& finish) {
  constexpr int kSize = static_cast<int>(sizeof(Number));
  const Pieces& pieces = product.pieces;
  const Memory& memory = product.memory;
  const bool stationary = memory.stationary != 0;
  const int half_width = pieces.width / 2;
  const int per_piece = pieces.subs * product.groups;
  int load_product = 0;  // what is loaded next, and into which stage
  int load_slice = 0;
  int load_stage = 0;
  const auto load = [&]() {
    if (load_product < pieces.count * per_piece) {
      const uint32_t target = memory.stage + static_cast<uint32_t>(load_stage) * memory.stage_bytes;
      const int64_t depth = int64_t{pieces.slices} * kSlice<Number>;
      const int64_t column = int64_t{load_product / product.groups} * pieces.width;
      const int64_t offset = int64_t{load_slice} * kSlice<Number>;
      block.copy(target, kSlicePitch, Rows<Number>{product.weights + column * depth + offset, depth, true},
                 Extent{pieces.width, 3, pieces.width, kSlice<Number>});
      if (!stationary || load_product == 0) {
        const int64_t skipped = int64_t{load_product % product.groups} * kGroupRows;
        const Rows<Number> from{product.rows.values + (first + skipped) * product.rows.columns + offset,
                                product.rows.columns, product.rows.aligned};
        const uint32_t to = stationary ? memory.left + static_cast<uint32_t>(load_slice * kSliceBytes)
                                       : target + static_cast<uint32_t>(pieces.width * kSlicePitch);
        block.copy(to, stationary ? memory.left_pitch : kSlicePitch, from,
                   Extent{kGroupRows, 3, valid - skipped, product.rows.columns - offset});
      }
      load_stage = load_stage + 1 == memory.stages ? 0 : load_stage + 1;
      if (++load_slice == pieces.slices) {
        load_slice = 0;
        ++load_product;
      }
    }
    block.commit();  // also of nothing, so that wait counts slices
  };

  for (int slices = 1; slices < memory.stages; ++slices) load();
  // Behind the first loads of this tile; the next one's would wait for DRAM, as the ring is drained between tiles.
  block.prefetch(product.rows.values + (first + valid) * product.rows.columns, ahead * product.rows.columns * kSize);
  int stage = 0;
  for (int index = 0; index < pieces.count * per_piece; ++index) {
    const int piece = index / per_piece;
    const int sub = index % per_piece / product.groups;
    const int group = index % product.groups;
    typename Block::template PerThread<Sums<2, 6>> sums;
    clear<2, 6>(block, sums);
    for (int slice = 0; slice < pieces.slices; ++slice) {
      block.wait(memory.stages - 2);
      block.barrier();  // the slice is there for all, and all have finished the one whose stage is loaded next
      if (slice == 0 && index % per_piece == 0) before(piece);
      load();
      const uint32_t right = memory.stage + static_cast<uint32_t>(stage) * memory.stage_bytes;
      const uint32_t left = stationary ? memory.left + static_cast<uint32_t>(slice * kSliceBytes)
                                       : right + static_cast<uint32_t>(pieces.width * kSlicePitch);
      const uint32_t left_pitch = stationary ? memory.left_pitch : kSlicePitch;
      const int64_t rest = round_up(product.rows.columns - int64_t{slice} * kSlice<Number>, 16);
      accumulate<Number, false, false, 2, 3>(
          block, sums, pieces.width / 32, rest < kSlice<Number> ? static_cast<int>(rest) : kSlice<Number>,
          [&](int thread, int m, int k) {
            return left + static_cast<uint32_t>((warp_of(thread) >> 1) * 32 + m) * left_pitch +
                   static_cast<uint32_t>(k * kSize);
          },
          [&](int thread, int n, int k) {
            return right + static_cast<uint32_t>(((warp_of(thread) & 1) * half_width + n) * kSlicePitch + k * kSize);
          });
      stage = stage + 1 == memory.stages ? 0 : stage + 1;
    }
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int i = 0; i < 2; ++i) {
        TMOR_UNROLL
        for (int j = 0; j < 6; ++j) {
          if (j * 16 >= pieces.width) break;
          TMOR_UNROLL
          for (int c = 0; c < 4; c += 2) {
            const int row = group * kGroupRows + (warp_of(thread) >> 1) * 32 + i * 16 + fragment_row(thread, c);
            const int column =
                sub * pieces.width + (warp_of(thread) & 1) * half_width + j * 8 + fragment_column(thread, 0);
            float low = sums[thread].value[i][j][c];
            float high = sums[thread].value[i][j][c + 1];
            if (product.bias != nullptr) {
              low = (low + product.bias[piece * pieces.columns() + column]) * product.scale;
              high = (high + product.bias[piece * pieces.columns() + column + 1]) * product.scale;
            }
            const uint32_t at =
                memory.work + static_cast<uint32_t>(row) * memory.work_pitch + static_cast<uint32_t>(column * kSize);
            store_pair<Number>(&block.template value<unsigned char>(at), low, high);
          }
        }
      }
    });
    if (index % per_piece == per_piece - 1) {
      // `extra` came with the loads of the piece's first slice; every later one has committed a group behind it.
      const int behind = pieces.slices * per_piece - 1;
      if (memory.extra_pitch != 0) block.wait(behind < 2 ? behind : 2);
      block.barrier();  // the piece is there for all
      finish(piece);
    }
  }
  block.wait(0);
  block.barrier();
}

// One warp's share of a product of joints: 16 rows of a small matrix in global memory, times two frames of a tile, 16
// or 32 columns of each.
template <typename Number>
struct MixUnit {
  const Number* left = nullptr;  // (16, depth)
  uint32_t right[2] = {0, 0};    // addresses of the two frames' first numbers
  int32_t columns = 0;           // at most 16 * kPairs
  int32_t frame = 0;             // the first frame, row, column and what else store needs
  int32_t row = 0;
  int32_t column = 0;
  int32_t what = 0;
};

// For each of `units` units: the 16 x (16 kPairs) sums over k of left[m][k] * (number at right + table[k], column n),
// handed over in pairs of neighbouring columns as store(unit, second frame, m, n, low, high); before that, those of
// all threads together as gather(first unit, their units, their sums). All warps call.
template <typename Number, int kPairs, typename Block, typename Of, typename Store, typename Gather>
TMOR_BLOCK_CODE void mix_joints(Block& block, const Memory& memory, int units, int depth, const Of& unit_of,
                                const Store& store, const Gather& gather) {
  constexpr int kSize = static_cast<int>(sizeof(Number));
  for (int first = 0; first < units; first += kWarps) {
    typename Block::template PerThread<MixUnit<Number>> unit;
    typename Block::template PerThread<Sums<2, 2 * kPairs>> sums;
    block.each([&](int thread) {
      const int index = first + warp_of(thread);
      unit[thread] = unit_of(index < units ? index : first);
      if (index >= units) unit[thread].columns = 0;
    });
    clear<2, 2 * kPairs>(block, sums);
    const auto address = [&](int thread, int frame, int32_t offset, int n) {
      const MixUnit<Number>& mine = unit[thread];
      return offset < 0 || n >= mine.columns
                 ? memory.zero
                 : mine.right[frame] + static_cast<uint32_t>(offset) + static_cast<uint32_t>(n * kSize);
    };
    if constexpr (kHalf<Number>) {
      for (int k = 0; k < depth; k += 16) {
        typename Block::template PerThread<Fragment<1>> a;
        typename Block::template PerThread<int32_t> offset;
        block.template load_left<Number>([&](int thread) { return unit[thread].left + k; }, depth,
                                         [&](int thread) { return a[thread].value[0]; });
        block.each([&](int thread) {
          offset[thread] =
              block.template value<int32_t>(memory.table + static_cast<uint32_t>(k + Lane<true>::right_k(thread)) * 4);
        });
        TMOR_UNROLL
        for (int frame = 0; frame < 2; ++frame) {
          TMOR_UNROLL
          for (int j = 0; j < kPairs; ++j) {
            typename Block::template PerThread<Fragment<1>> b;
            block.template load_matrices<true>(
                [&](int thread) {
                  return address(thread, frame, offset[thread], j * 16 + Lane<true>::right_n(thread));
                },
                [&](int thread) { return b[thread].value[0]; });
            TMOR_UNROLL
            for (int half = 0; half < 2; ++half) {
              block.template multiply<Number>([&](int thread) { return sums[thread].value[frame][2 * j + half]; },
                                              [&](int thread) { return a[thread].value[0]; },
                                              [&](int thread) { return b[thread].value[0] + 2 * half; });
            }
          }
        }
      }
    } else {
      block.each([&](int thread) {
        const Number* left = unit[thread].left + int64_t{fragment_row(thread, 0)} * depth;
        for (int k = 0; k < depth; ++k) {
          const int32_t offset = block.template value<int32_t>(memory.table + static_cast<uint32_t>(k) * 4);
          const float a[2] = {left[k], left[k + int64_t{8} * depth]};
          TMOR_UNROLL
          for (int frame = 0; frame < 2; ++frame) {
            TMOR_UNROLL
            for (int j = 0; j < 2 * kPairs; ++j) {
              TMOR_UNROLL
              for (int c = 0; c < 4; ++c) {
                const uint32_t at = address(thread, frame, offset, j * 8 + fragment_column(thread, c));
                float& sum = sums[thread].value[frame][j][c];
                sum = fmaf(a[c >> 1], block.template value<float>(at), sum);
              }
            }
          }
        }
      });
    }
    gather(first, unit, sums);
    block.each([&](int thread) {
      TMOR_UNROLL
      for (int frame = 0; frame < 2; ++frame) {
        TMOR_UNROLL
        for (int j = 0; j < 2 * kPairs; ++j) {
          const int column = j * 8 + fragment_column(thread, 0);
          if (column >= unit[thread].columns) continue;
          TMOR_UNROLL
          for (int c = 0; c < 4; c += 2) {
            store(unit[thread], frame, fragment_row(thread, c), column, sums[thread].value[frame][j][c],
                  sums[thread].value[frame][j][c + 1]);
          }
        }
      }
    });
  }
}

// One warp's share of a product of two tiles over frames and channels: 16 joints v of the left one by 32 joints w of
// the right one, added to `sums` (V, V). Warps have different places in it.
struct ContractUnit {
  uint32_t left = 0;  // address of the first frame's first number
  uint32_t right = 0;
  int32_t depth = 0;  // channels; 0: nothing to do
  int32_t v = 0;
  int32_t w = 0;
  float* sums = nullptr;
};

struct Pitches {
  uint32_t left;
  uint32_t right;
};

// `depth` is the most channels of a unit, a multiple of 16 and at most 64.
template <typename Number, typename Block, typename Of>
TMOR_BLOCK_CODE void contract_frames(Block& block, const Memory& memory, int units, int frames, int joints, int depth,
                                     const Pitches& pitches, const Of& unit_of) {
  constexpr uint32_t kSize = sizeof(Number);
  for (int first = 0; first < units; first += kWarps) {
    typename Block::template PerThread<ContractUnit> unit;
    typename Block::template PerThread<Sums<1, 4>> sums;
    block.each([&](int thread) {
      const int index = first + warp_of(thread);
      unit[thread] = unit_of(index < units ? index : first);
      if (index >= units) unit[thread].depth = 0;
    });
    clear<1, 4>(block, sums);
    // Joints beyond the last one repeat it: their sums are not used.
    for (int frame = 0; frame < frames; ++frame) {
      accumulate<Number, false, false, 1, 2>(
          block, sums, 2, depth,
          [&](int thread, int m, int k) {
            const ContractUnit& mine = unit[thread];
            const int v = mine.v + m < joints ? mine.v + m : joints - 1;
            return k < mine.depth ? mine.left + static_cast<uint32_t>(frame * joints + v) * pitches.left +
                                        static_cast<uint32_t>(k) * kSize
                                  : memory.zero;
          },
          [&](int thread, int n, int k) {
            const ContractUnit& mine = unit[thread];
            const int w = mine.w + n < joints ? mine.w + n : joints - 1;
            return k < mine.depth ? mine.right + static_cast<uint32_t>(frame * joints + w) * pitches.right +
                                        static_cast<uint32_t>(k) * kSize
                                  : memory.zero;
          });
    }
    block.each([&](int thread) {
      const ContractUnit& mine = unit[thread];
      if (mine.depth == 0) return;
      TMOR_UNROLL
      for (int j = 0; j < 4; ++j) {
        TMOR_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int v = mine.v + fragment_row(thread, c);
          const int w = mine.w + j * 8 + fragment_column(thread, c);
          if (v < joints && w < joints) mine.sums[int64_t{v} * joints + w] += sums[thread].value[0][j][c];
        }
      }
    });
  }
}

}  // namespace tmor::dependency_attention
