// A sweep over the tiles of the distance matrix by persistent blocks: products on the matrix units, the band of
// cuda_band.hpp, float64 for what lies inside it, edges to one_pass.hpp. Written once for device and host
// (cuda_block.hpp).
#pragma once

#include <cstdint>

#include "dbscan/cuda_band.hpp"
#include "dbscan/cuda_block.hpp"
#include "dbscan/cuda_schedule.hpp"
#include "dbscan/one_pass.hpp"

namespace tmor::dbscan {

// Everything a sweep reads and writes.
struct Field {
  Input input;
  Panels panels;
  const Frame* frame = nullptr;
  const int64_t* panel_count = nullptr;
  NeighbourLists lists;             // count alone unless Mode::one_pass; core is count >= capacity in every mode
  UnionFind sets;                   // of points
  uint32_t* finished = nullptr;     // (panels,) 1: all core, of one component (Mode::count: all full). Never taken back
  const uint32_t* kinds = nullptr;  // (panels,) kHasCore | kHasOther, for Mode::connect and Mode::border
  uint32_t* best = nullptr;         // (n,) Mode::border: the smallest root among core neighbours
  uint64_t* tiles = nullptr;        // how many tiles were computed
  uint64_t* rechecked = nullptr;    // how many pairs were decided in float64
  int64_t min_samples = 1;          // Mode::weigh
  Mode mode = Mode::one_pass;
  bool diagonal = false;
  int64_t blocks = 1;  // of the grid
};

constexpr uint32_t kHasCore = 1;
constexpr uint32_t kHasOther = 2;

constexpr int kQueue = 1024;

struct LiveTile {
  uint32_t column;
  Band band;
};

// One block's shared memory beside the ring. The column arrays are double, as one tile's are filled while slower
// threads still read the other's.
struct SweepShared {
  uint32_t row_point[kPanel];
  uint32_t row_root[kPanel];
  float row_half[kPanel];
  uint32_t column_point[2][kPanel];
  float column_half[2][kPanel];
  uint32_t column_root[kPanel];
  uint32_t bits[kPanel][kPanel / 32];  // Mode::weigh: the neighbours in this tile
  // One thread's pairs of the tile by fragment position, bit 4 j + c of word i; no thread reads another's.
  uint32_t sure[kRowTiles][kTileThreads];
  uint32_t maybe[kRowTiles][kTileThreads];
  LiveTile live[kStrip];
  float gap[kStrip];  // squared distances of centroids
  uint32_t live_bits[2];
  uint32_t row_state;
  uint32_t row_finished;
  uint32_t skip[2];
  uint32_t queue_size;
  uint16_t queue[kQueue];
};

template <typename Block>
class Sweep {
 public:
  template <typename T>
  using PerThread = typename Block::template PerThread<T>;

  TMOR_BLOCK_CODE Sweep(Block& block, const Field& field, const Ring& ring, SweepShared& shared)
      : block_(block), field_(field), ring_(ring), shared_(shared), frame_(*field.frame) {}

  TMOR_BLOCK_CODE void run() {
    if (frame_.valid == 0) return;
    Schedule schedule;
    schedule.panels = *field_.panel_count;
    schedule.strip = strip_for(schedule.panels, field_.blocks);
    schedule.diagonal = field_.diagonal;
    schedule.full = field_.mode == Mode::weigh;
    const int64_t units = schedule.units();
    for (int64_t index = block_.next_unit(); index < units; index = block_.next_unit()) {
      const Unit unit = schedule.unit(index);
      if (unit.first < unit.last) process(unit);
    }
    block_.each([&](int thread) {
      if (thread != 0) return;
      block_.add(field_.tiles, tiles_);
      block_.add(field_.rechecked, rechecked_);
    });
  }

 private:
  TMOR_BLOCK_CODE bool one_component() const { return field_.mode == Mode::one_pass || field_.mode == Mode::connect; }

  TMOR_BLOCK_CODE void process(const Unit& unit) {
    row_ = unit.row;
    block_.each([&](int thread) {
      const int64_t position = row_ * kPanel + thread;
      shared_.row_point[thread] = field_.panels.order[position];
      shared_.row_half[thread] = field_.panels.norm[position] * 0.5F;
      if (field_.mode == Mode::weigh) {
        amount_[thread] = 0.0;
        for (int word = 0; word < kPanel / 32; ++word) shared_.bits[thread][word] = 0;
      }
    });
    look_at_row();
    for (int64_t first = unit.first; first < unit.last; first += kStrip) {
      const int64_t last = first + kStrip < unit.last ? first + kStrip : unit.last;
      const int count = list_tiles(first, last);
      if (count == 0) continue;
      multiply_tiles(
          block_, ring_, panel_values(row_), count, [&](int tile) { return panel_values(shared_.live[tile].column); },
          [&](int tile) { begin(tile); }, [&](int tile) { return shared_.skip[tile & 1] != 0; },
          [&](int tile, PerThread<Sums>& sums) { settle(tile, sums); });
    }
    // After the diagonal most panels of a dense cluster are finished, which the next sweep wants to know.
    if (field_.diagonal) look_at_row();
    if (field_.mode == Mode::weigh) {
      block_.each([&](int thread) {
        const uint32_t point = shared_.row_point[thread];
        if (point == kNobody) return;
        const bool core = amount_[thread] >= static_cast<double>(field_.min_samples);
        shared_store(field_.lists.count + point, core ? field_.lists.capacity : 0U);
      });
    }
  }

  TMOR_BLOCK_CODE const uint16_t* panel_values(int64_t panel) const {
    return field_.panels.values + panel * kPanel * field_.panels.padded;
  }

  // What a point counts as when edges are sorted out: the root of a core point in the modes that unite or look for
  // roots, 0 for a full one in Mode::count; kNobody otherwise. Two equal answers but kNobody: nothing to do.
  TMOR_BLOCK_CODE uint32_t state_of(uint32_t point) const {
    if (point == kNobody || field_.mode == Mode::weigh || !field_.lists.core(point)) return kNobody;
    return field_.mode == Mode::count ? 0 : field_.sets.find(point);
  }

  // Marks the row's panel once all its points are core and of one component.
  TMOR_BLOCK_CODE void look_at_row() {
    const bool marked = shared_load(field_.finished + row_) != 0;
    PerThread<uint32_t> differs;
    // Whether one thread sees the mark and another does not must not matter: the slow way runs for all of them.
    block_.each([&](int thread) { differs[thread] = marked ? 0U : 1U; });
    if (!block_.any(differs)) {
      block_.each([&](int thread) {
        if (thread == 0) shared_.row_finished = 1;
      });
      return;
    }
    block_.each([&](int thread) {
      const uint32_t point = shared_.row_point[thread];
      differs[thread] =
          (field_.mode == Mode::weigh || field_.mode == Mode::border) || (point != kNobody && !field_.lists.core(point))
              ? 1U
              : 0U;
    });
    bool differ = block_.any(differs);
    if (!differ && one_component()) {
      block_.each([&](int thread) { shared_.row_root[thread] = state_of(shared_.row_point[thread]); });
      block_.barrier();
      block_.each([&](int thread) {
        const bool hole = shared_.row_point[thread] == kNobody;
        differs[thread] = !hole && shared_.row_root[thread] != shared_.row_root[0] ? 1U : 0U;
      });
      differ = block_.any(differs);
    }
    block_.each([&](int thread) {
      if (thread != 0) return;
      shared_.row_finished = differ ? 0U : 1U;
      if (!differ) shared_store(field_.finished + row_, 1U);
    });
  }

  // What a panel counts as when tiles are sorted out: its root if it is finished, or 0 in Mode::count; kNobody
  // otherwise. Two equal answers but kNobody: nothing to do.
  TMOR_BLOCK_CODE uint32_t state_of_panel(int64_t panel) const {
    const bool marked = field_.mode == Mode::count || one_component();
    if (!marked || shared_load(field_.finished + panel) == 0) return kNobody;
    return field_.mode == Mode::count ? 0 : field_.sets.find(field_.panels.order[panel * kPanel]);
  }

  // Whether the row's tile with this column can change nothing, `row_state` being what the row counted as at some time.
  // Answers "yes" stay right: points only become core, components only grow together.
  TMOR_BLOCK_CODE bool idle(int64_t column, uint32_t row_state) const {
    if (field_.mode == Mode::connect || field_.mode == Mode::border) {
      const uint32_t one = field_.kinds[row_];
      const uint32_t other = field_.kinds[column];
      if (((one & other) & kHasCore) == 0 && field_.mode == Mode::connect) return true;
      if (field_.mode == Mode::border) {
        return ((one & kHasCore) == 0 || (other & kHasOther) == 0) &&
               ((one & kHasOther) == 0 || (other & kHasCore) == 0);
      }
    }
    return row_state != kNobody && state_of_panel(column) == row_state;
  }

  // Squared distances of the row's centroid from those of `count` panels from `first` on. A warp takes four of them at
  // once, so that it does not wait for memory panel by panel.
  TMOR_BLOCK_CODE void measure_gaps(int64_t first, int count) {
    constexpr int kAtOnce = 4;
    constexpr int kWarps = kTileThreads / 32;
    const int64_t dimensions = field_.input.dimensions;
    const float* row_centre = field_.panels.centroid + row_ * dimensions;
    for (int base = 0; base < count; base += kAtOnce * kWarps) {
      PerThread<float> gap[kAtOnce];
      block_.each([&](int thread) {
        const float* centre[kAtOnce];
        TMOR_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int place = base + i * kWarps + (thread >> 5);
          // Behind the last panel the last one stands in, which is cheaper than a branch.
          centre[i] = field_.panels.centroid + (first + (place < count ? place : count - 1)) * dimensions;
          gap[i][thread] = 0.0F;
        }
        for (int64_t k = thread & 31; k < dimensions; k += 32) {
          const float row = row_centre[k];
          TMOR_UNROLL
          for (int i = 0; i < kAtOnce; ++i) {
            const float difference = row - centre[i][k];
            gap[i][thread] += difference * difference;
          }
        }
      });
      TMOR_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        block_.warp_sum(gap[i]);
        block_.each([&](int thread) {
          const int place = base + i * kWarps + (thread >> 5);
          if ((thread & 31) == 0 && place < count) shared_.gap[place] = gap[i][thread];
        });
      }
    }
  }

  // Collects the tiles of the row against first <= column < last that have to be computed, in ascending order.
  TMOR_BLOCK_CODE int list_tiles(int64_t first, int64_t last) {
    block_.barrier();  // everyone has read the answer of the strip before
    const int count = static_cast<int>(last - first);
    block_.each([&](int thread) {
      if (thread < 2) shared_.live_bits[thread] = 0;
      if (thread == 0) shared_.row_state = state_of_panel(row_);
    });
    measure_gaps(first, count);
    block_.barrier();
    block_.each([&](int thread) {  // a column each
      if (thread >= count) return;
      const float* radius = field_.panels.radius;
      const float gap = shared_.gap[thread];
      if (panels_apart(frame_, field_.input.dimensions, gap, radius[row_], radius[first + thread])) return;
      if (!idle(first + thread, shared_.row_state)) {
        block_.shared_or(&shared_.live_bits[thread >> 5], 1U << (thread & 31));
      }
    });
    block_.barrier();
    block_.each([&](int thread) {
      if (thread >= count || (shared_.live_bits[thread >> 5] >> (thread & 31) & 1U) == 0) return;
      const int64_t column = first + thread;
      int place = Block::bit_count(shared_.live_bits[thread >> 5] & ((1U << (thread & 31)) - 1U));
      if (thread >= 32) place += Block::bit_count(shared_.live_bits[0]);
      const Panels& panels = field_.panels;
      LiveTile live;
      live.column = static_cast<uint32_t>(column);
      live.band = make_band(frame_, panels.padded, panels.length[row_], panels.length[column], panels.slack[row_],
                            panels.slack[column]);
      shared_.live[place] = live;
    });
    block_.barrier();
    return Block::bit_count(shared_.live_bits[0]) + Block::bit_count(shared_.live_bits[1]);
  }

  // As `idle`, some tiles later: the row's root of then need no longer be one. Without the row's mark, which is rarely
  // late, no tile is idle: no need to wait for memory.
  TMOR_BLOCK_CODE bool has_become_idle(int64_t column) const {
    if (shared_.row_state == kNobody) return false;
    return idle(column, field_.mode == Mode::count ? 0 : field_.sets.find(shared_.row_state));
  }

  // The columns of a tile, and whether it has become idle since it was listed; a barrier follows.
  TMOR_BLOCK_CODE void begin(int tile) {
    const int side = tile & 1;
    const int64_t column = shared_.live[tile].column;
    block_.each([&](int thread) {
      const int64_t position = column * kPanel + thread;
      shared_.column_point[side][thread] = field_.panels.order[position];
      shared_.column_half[side][thread] = field_.panels.norm[position] * 0.5F;
      if (thread == 0) shared_.skip[side] = tile > 0 && has_become_idle(column) ? 1U : 0U;
    });
  }

  TMOR_BLOCK_CODE void settle(int tile, PerThread<Sums>& sums);
  TMOR_BLOCK_CODE bool find_hits(int tile, PerThread<Sums>& sums);
  TMOR_BLOCK_CODE bool wanted(int side, bool diagonal, int row, int column) const;
  TMOR_BLOCK_CODE void act(int side, int row, int column);
  TMOR_BLOCK_CODE void recheck(int side, bool diagonal, bool one_is_enough);
  TMOR_BLOCK_CODE void add_weights(int side, bool diagonal);

  Block& block_;
  const Field& field_;
  const Ring& ring_;
  SweepShared& shared_;
  const Frame& frame_;
  int64_t row_ = 0;
  uint64_t tiles_ = 0;
  uint64_t rechecked_ = 0;
  PerThread<double> amount_;
};

}  // namespace tmor::dbscan

#include "dbscan/cuda_settle.hpp"
