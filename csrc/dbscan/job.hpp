// One run on a CPU: what every step of it shares, and what each thread has for itself.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "dbscan/packed.hpp"
#include "dbscan/params.hpp"
#include "dbscan/points.hpp"
#include "dbscan/tile.hpp"

namespace tmor::dbscan {

// Takes the lowest set bit out of `mask` and returns its position.
inline int next_bit(uint64_t* mask) {
  const int bit = __builtin_ctzll(*mask);
  *mask &= *mask - 1;
  return bit;
}

inline uint64_t bits_above(int bit) { return bit >= 63 ? 0 : ~uint64_t{0} << (bit + 1); }
inline uint64_t one_bit(int bit) { return uint64_t{1} << bit; }

// Pairs of these rows of one panel with these columns of another, or (`same`) of its own, each once; for Stats.
inline int64_t count_pairs(uint64_t rows, uint64_t columns, bool same) {
  const int64_t others = __builtin_popcountll(columns) - (same ? 1 : 0);
  return __builtin_popcountll(rows) * others / (same ? 2 : 1);
}

// Tells the caller how far the run is and asks whether to give up; from the calling thread alone.
class Poll {
 public:
  explicit Poll(const Params& params) : poll_(params.poll), context_(params.context), last_(Clock::now()) {}

  // The part of the whole, from `first` to `last`, that the next `items` items are.
  void begin(double first, double last, int64_t items);
  // One item is done. True: leave the loop.
  bool step();
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  void raise_if_stopped() const {
    if (stopped()) throw Interrupted();
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool (*poll_)(void*, double);
  void* context_;
  Clock::time_point last_;  // only the calling thread touches it
  double first_ = 0.0;
  double last_share_ = 1.0;
  int64_t items_ = 1;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> stopped_{false};
};

// A thread's own memory and counts.
struct alignas(128) Worker {
  explicit Worker(const Params& params);

  Pairs pairs;
  Words prepared;  // the panel that Tile::prepare made, while `prepared_panel` says so
  const uint32_t* prepared_panel = nullptr;
  std::vector<double> row[2];  // coordinates of two points
  Stats stats;
};

class Job {
 public:
  explicit Job(const Params& params);

  // The tile of rows' panel a and columns' panel b. Returns the rows that have pairs; no pair has a lane without a
  // point, and rows outside of `active` have none. `balls`: the columns are balls and the answer is which may hold
  // neighbours (Pairs::sure means nothing).
  uint64_t compare(Worker* worker, const Packed& rows, int64_t a, const Packed& columns, int64_t b, uint64_t active,
                   bool balls = false) const;

  // The bits j of `candidates` for which `point` and order[j] are neighbours, decided in float64.
  uint64_t recheck(Worker* worker, uint32_t point, const uint32_t* order, uint64_t candidates) const;

  const Params& params;
  const Frame frame;
  Arithmetic arithmetic = Arithmetic::float32;
  Poll poll;
  std::vector<Worker> workers;

  Worker* worker();  // of this thread

  // To be called after panels were written: what workers prepared from others that had the same address is void.
  void forget_prepared();

  Tile tile(Arithmetic which) const;

 private:
  bool near(Worker* worker, uint32_t point, uint32_t other) const;
};

}  // namespace tmor::dbscan
