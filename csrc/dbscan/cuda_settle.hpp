// The second half of cuda_sweep.hpp: what happens to the products of one tile.
#pragma once

#include "dbscan/cuda_sweep.hpp"

namespace tmor::dbscan {

// The thread's bits of pairs that are, or may be, neighbours. Most tiles have none, and one comparison a pair says so.
template <typename Block>
TMOR_BLOCK_CODE bool Sweep<Block>::find_hits(int tile, PerThread<Sums>& sums) {
  const float inside = shared_.live[tile].band.inside * 0.5F;
  const float outside = shared_.live[tile].band.outside * 0.5F;
  const float* half = shared_.column_half[tile & 1];
  PerThread<uint32_t> found;
  // |x' - y'|^2 <= t exactly if <x', y'> - |y'|^2 / 2 >= |x'|^2 / 2 - t / 2.
  block_.each([&](int thread) {
    bool hit[kRowTiles] = {};  // several, as one would be a chain of 128 operations that wait for each other
    TMOR_UNROLL
    for (int c = 0; c < 4; c += 2) {
      float low[kRowTiles];
      TMOR_UNROLL
      for (int i = 0; i < kRowTiles; ++i) low[i] = shared_.row_half[fragment_row(thread, i, c)] - outside;
      TMOR_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) {
        const int column = fragment_column(thread, j, 0);
        TMOR_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
          hit[i] |= !(sums[thread].value[i][j][c] - half[column] < low[i]);
          hit[i] |= !(sums[thread].value[i][j][c + 1] - half[column + 1] < low[i]);
        }
      }
    }
    bool hot = false;
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) hot |= hit[i];
    found[thread] = hot ? 1U : 0U;
    TMOR_UNROLL
    for (int i = 0; i < kRowTiles; ++i) {
      uint32_t sure = 0;
      uint32_t maybe = 0;
      if (hot) {
        TMOR_UNROLL
        for (int c = 0; c < 4; ++c) {
          const float row_half = shared_.row_half[fragment_row(thread, i, c)];
          const float low = row_half - outside;
          const float high = row_half - inside;
          TMOR_UNROLL
          for (int j = 0; j < kColumnTiles; ++j) {
            const float score = sums[thread].value[i][j][c] - half[fragment_column(thread, j, c)];
            const Verdict verdict = classify(score, low, high);
            sure |= (verdict == Verdict::neighbours ? 1U : 0U) << (4 * j + c);
            maybe |= (verdict == Verdict::recheck ? 1U : 0U) << (4 * j + c);
          }
        }
      }
      shared_.sure[i][thread] = sure;
      shared_.maybe[i][thread] = maybe;
    }
  });
  return block_.any(found);
}

// Calls visit(row, column) for the thread's pairs in `words`, lowest bits first, until it says false; that pair's bit
// then stays.
template <typename Visit>
TMOR_BLOCK_CODE void take_pairs(int thread, uint32_t (*words)[kTileThreads], const Visit& visit) {
#if defined(__CUDACC__)
#pragma unroll 1
#endif
  for (int i = 0; i < kRowTiles; ++i) {
    uint32_t word = words[i][thread];
    while (word != 0) {
#if defined(__CUDA_ARCH__)
      const int bit = __ffs(static_cast<int>(word)) - 1;
#else
      const int bit = __builtin_ctz(word);
#endif
      if (!visit(fragment_row(thread, i, bit & 3), fragment_column(thread, bit >> 2, bit & 3))) {
        words[i][thread] = word;
        return;
      }
      word &= word - 1;
    }
    words[i][thread] = 0;
  }
}

// Whether the edge of two points could still change anything, by what they count as (Sweep::state_of).
TMOR_BLOCK_CODE bool matters(Mode mode, uint32_t a, uint32_t b) {
  if (mode == Mode::weigh) return true;
  if (mode == Mode::connect) return a != kNobody && b != kNobody && a != b;
  if (mode == Mode::border) return (a == kNobody) != (b == kNobody);
  return a == kNobody || a != b;
}

// Strikes out the thread's pairs that do not matter, all at once: in a tile of two dense panels of one component hardly
// any of its 128 pairs does, and walking them one by one would take longer than the products.
template <Mode mode>
TMOR_BLOCK_CODE void strike_out(int thread, SweepShared& shared) {
#if defined(__CUDACC__)
#pragma unroll 1
#endif
  for (int i = 0; i < kRowTiles; ++i) {
    if ((shared.sure[i][thread] | shared.maybe[i][thread]) == 0) continue;
    const uint32_t row[2] = {shared.row_root[fragment_row(thread, i, 0)], shared.row_root[fragment_row(thread, i, 2)]};
    uint32_t mask = 0;
    TMOR_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) {
      TMOR_UNROLL
      for (int c = 0; c < 4; ++c) {
        const uint32_t column = shared.column_root[fragment_column(thread, j, c)];
        mask |= (matters(mode, row[c / 2], column) ? 1U : 0U) << (4 * j + c);
      }
    }
    shared.sure[i][thread] &= mask;
    shared.maybe[i][thread] &= mask;
  }
}

// Whether the edge of these two is to be acted on.
template <typename Block>
TMOR_BLOCK_CODE bool Sweep<Block>::wanted(int side, bool diagonal, int row, int column) const {
  if (shared_.row_point[row] == kNobody || shared_.column_point[side][column] == kNobody) return false;
  if (field_.mode == Mode::weigh) return true;
  if (diagonal && row >= column) return false;
  return matters(field_.mode, shared_.row_root[row], shared_.column_root[column]);
}

// The two are neighbours.
template <typename Block>
TMOR_BLOCK_CODE void Sweep<Block>::act(int side, int row, int column) {
  const uint32_t a = shared_.row_point[row];
  const uint32_t b = shared_.column_point[side][column];
  switch (field_.mode) {
    case Mode::one_pass:
      add_edge(field_.lists, field_.sets, a, b, true);
      break;
    case Mode::count:
      if (!field_.lists.core(a)) shared_add(field_.lists.count + a, 1U);
      if (!field_.lists.core(b)) shared_add(field_.lists.count + b, 1U);
      break;
    case Mode::connect:
      if (!field_.sets.same_parent(a, b)) field_.sets.unite(a, b);
      break;
    case Mode::border:
      if (shared_.row_root[row] != kNobody) {
        block_.smallest(field_.best + b, shared_.row_root[row]);
      } else {
        block_.smallest(field_.best + a, shared_.column_root[column]);
      }
      break;
    case Mode::weigh:
      block_.shared_or(&shared_.bits[row][column >> 5], 1U << (column & 31));
      break;
  }
}

// Decides the pairs inside the band. They go through a queue, so that all threads share what a few of them found; who
// meets a full queue waits for the next round.
template <typename Block>
TMOR_BLOCK_CODE void Sweep<Block>::recheck(int side, bool diagonal, bool one_is_enough) {
  PerThread<uint32_t> left;
  bool more = true;
  while (more) {
    block_.barrier();
    block_.each([&](int thread) {
      if (thread == 0) shared_.queue_size = 0;
    });
    block_.barrier();
    block_.each([&](int thread) {
      left[thread] = 0;
      take_pairs(thread, shared_.maybe, [&](int row, int column) {
        if (!wanted(side, diagonal, row, column)) return true;
        const uint32_t place = shared_add(&shared_.queue_size, 1U);
        if (place >= kQueue) {
          left[thread] = 1;
          return false;
        }
        shared_.queue[place] = static_cast<uint16_t>(row << 7 | column);
        return true;
      });
    });
    more = block_.any(left);
    const uint32_t size = shared_.queue_size < kQueue ? shared_.queue_size : kQueue;
    rechecked_ += size;
    PerThread<uint32_t> joined;
    block_.each([&](int thread) {
      joined[thread] = 0;
      for (uint32_t place = static_cast<uint32_t>(thread); place < size; place += kTileThreads) {
        const int row = shared_.queue[place] >> 7;
        const int column = shared_.queue[place] & 127;
        if (!are_neighbours(field_.input, shared_.row_point[row], shared_.column_point[side][column])) continue;
        act(side, row, column);
        joined[thread] = 1;
        if (one_is_enough) break;
      }
    });
    if (one_is_enough && more && block_.any(joined)) return;
  }
}

// Adds this tile's weights to the rows, columns in ascending order whatever the threads did.
template <typename Block>
TMOR_BLOCK_CODE void Sweep<Block>::add_weights(int side, bool diagonal) {
  block_.barrier();
  block_.each([&](int thread) {
    if (shared_.row_point[thread] == kNobody) return;
    // A point is its own neighbour, also a zero vector of the cosine metric, whose product says otherwise.
    if (diagonal) shared_.bits[thread][thread >> 5] |= 1U << (thread & 31);
    for (int word = 0; word < kPanel / 32; ++word) {
      uint32_t bits = shared_.bits[thread][word];
      shared_.bits[thread][word] = 0;
      for (int column = word * 32; bits != 0; ++column, bits >>= 1) {
        if ((bits & 1U) != 0) amount_[thread] += field_.input.weight[shared_.column_point[side][column]];
      }
    }
  });
  block_.barrier();
}

template <typename Block>
TMOR_BLOCK_CODE void Sweep<Block>::settle(int tile, PerThread<Sums>& sums) {
  const int side = tile & 1;
  const int64_t column = shared_.live[tile].column;
  const bool diagonal = column == row_;
  ++tiles_;
  const bool any = find_hits(tile, sums);
  if (!any && !(diagonal && field_.mode == Mode::weigh)) return;

  // Two panels of one component each: the first edge joins them, the others say nothing new.
  bool one_is_enough = false;
  if (one_component() && !diagonal) {
    PerThread<uint32_t> unfinished;
    block_.each([&](int thread) {
      const bool both = shared_.row_finished != 0 && shared_load(field_.finished + column) != 0;
      unfinished[thread] = both ? 0U : 1U;
    });
    one_is_enough = !block_.any(unfinished);  // the same answer for all threads
  }
  block_.each([&](int thread) {
    shared_.row_root[thread] = state_of(shared_.row_point[thread]);
    shared_.column_root[thread] = state_of(shared_.column_point[side][thread]);
  });
  block_.barrier();
  PerThread<uint32_t> joined;
  block_.each([&](int thread) {
    joined[thread] = 0;
    if (field_.mode == Mode::connect) {
      strike_out<Mode::connect>(thread, shared_);
    } else if (field_.mode == Mode::border) {
      strike_out<Mode::border>(thread, shared_);
    } else if (field_.mode != Mode::weigh) {
      strike_out<Mode::one_pass>(thread, shared_);  // and Mode::count
    }
    take_pairs(thread, shared_.sure, [&](int row, int place) {
      if (!wanted(side, diagonal, row, place)) return true;
      act(side, row, place);
      joined[thread] = 1;
      return !one_is_enough;
    });
  });
  if (one_is_enough && block_.any(joined)) return;
  recheck(side, diagonal, one_is_enough);
  if (field_.mode == Mode::weigh) add_weights(side, diagonal);
}

}  // namespace tmor::dbscan
