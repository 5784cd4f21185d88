// The way through half of the distance matrix: which pairs of panels a sweep sees, and which rows of them matter.
//
// Around every panel lies a ball: its centre, and a radius that reaches all its points. Two panels whose balls are
// further apart than eps hold no neighbours; nor do the points of one panel that are further than eps from the other's
// ball; and two panels within one eps, balls included, hold nothing but neighbours. The first two are asked of the
// tiles themselves (packed.hpp, step 5): a tile of 64 balls by 64 balls settles 4,096 tiles, one of 64 points by 64
// balls 64 tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "dbscan/job.hpp"
#include "dbscan/one_pass.hpp"

namespace tmor::dbscan {

struct Balls {
  Packed packed;              // a lane per panel of points
  std::vector<float> centre;  // (panels, dimensions)
  std::vector<double> radius;
  double eps = 0.0;  // rounded down

  // Whether every point of panel a is a neighbour of every point of panel b.
  bool inside(int64_t a, int64_t b) const;
};

// The points in the order of a sweep. Vertex v, a place in that order, is lane v % kWidth of panel v / kWidth.
struct Field {
  std::vector<uint32_t> order;  // (panels * kWidth,) point at each place, kNobody for none
  Packed packed;
  std::optional<Balls> balls;

  int64_t panels() const { return packed.count(); }
  uint64_t lanes(int64_t panel) const { return packed.panels[static_cast<size_t>(panel)].lanes; }
  const uint32_t* panel_order(int64_t panel) const { return order.data() + panel * kWidth; }
};

Field make_field(Job* job, std::vector<uint32_t> order, bool with_balls);

// The share of pairs of panels that the balls leave, from some evenly spaced panels.
double share_left(Job* job, const Field& field);

// Sets rows[j] to bit j of each word of `masks`.
void transpose(const uint64_t masks[kWidth], uint64_t rows[kWidth]);

// The panels first_b + j, j a bit of the result, that may hold neighbours of panel `a`, and the rows for which.
uint64_t near_panels(Job* job, Worker* worker, const Field& field, int64_t a, int64_t block, uint64_t columns,
                     uint64_t rows[kWidth]);

// One sweep. A Sweep has
//   uint64_t wanted(int64_t a, int64_t first_b, uint64_t columns): the panels first_b + j, j a bit of `columns`, that
//   it
//     has any use for with a, all of which are >= a;
//   void visit(Worker*, int64_t a, int64_t b, uint64_t rows, bool inside): to look at the pairs of these rows of panel
//   a
//     with panel b; all others are no neighbours. `inside`: they all are.
// Calls come from all threads, near the diagonal first, where neighbours are likely and components grow. The share of
// the whole run that this is, for Poll: `first` to `last`.
template <typename Sweep>
void walk(Job* job, const Field& field, Sweep* sweep, double first, double last) {
  constexpr int64_t kChunk = 8;  // panels of rows to an item; its panels of columns are kWidth
  const int64_t panels = field.panels();
  const int64_t chunks = (panels + kChunk - 1) / kChunk;
  const int64_t blocks = (panels + kWidth - 1) / kWidth;
  const auto item = [&](int64_t chunk, int64_t block) {
    Worker* worker = job->worker();
    uint64_t near[kChunk];
    std::fill(near, near + kChunk, ~uint64_t{0});
    const int64_t row_block = chunk * kChunk / kWidth;
    if (field.balls) {
      const int shift = static_cast<int>(chunk * kChunk % kWidth);
      const Packed& balls = field.balls->packed;
      const uint64_t any = job->compare(worker, balls, row_block, balls, block, uint64_t{0xff} << shift);
      for (int r = 0; r < kChunk; ++r) {
        const int i = shift + r;
        near[r] = (any >> i & 1) != 0 ? worker->pairs.sure[i] | worker->pairs.maybe[i] : 0;
      }
    }
    const int64_t here = std::min<int64_t>(kWidth, panels - block * kWidth);
    for (int64_t a = chunk * kChunk; a < std::min(panels, (chunk + 1) * kChunk); ++a) {
      uint64_t columns = near[a % kChunk] & (~uint64_t{0} >> (kWidth - here));
      if (block == row_block) columns &= ~uint64_t{0} << (a % kWidth);
      columns = sweep->wanted(a, block * kWidth, columns);
      if (columns == 0) continue;
      uint64_t rows[kWidth];
      columns = near_panels(job, worker, field, a, block, columns, rows);
      while (columns != 0) {
        const int j = next_bit(&columns);
        const int64_t b = block * kWidth + j;
        sweep->visit(worker, a, b, rows[j], field.balls && field.balls->inside(a, b));
      }
    }
  };
  const auto mine = [job](int64_t number) { return number % job->params.shares == job->params.share; };
  const double diagonal = first + (last - first) / static_cast<double>(blocks + 1);
  job->poll.begin(first, diagonal, chunks);
#pragma omp parallel for num_threads(job->params.threads) schedule(dynamic, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (!job->poll.step() && mine(chunk)) item(chunk, chunk * kChunk / kWidth);
  }
  job->poll.raise_if_stopped();
  job->poll.begin(diagonal, last, chunks * blocks);
#pragma omp parallel for num_threads(job->params.threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < chunks * blocks; ++t) {
    const int64_t block = t / chunks;
    const int64_t chunk = t % chunks;
    if (!job->poll.step() && mine(t) && block > chunk * kChunk / kWidth) item(chunk, block);
  }
  job->poll.raise_if_stopped();
}

}  // namespace tmor::dbscan
