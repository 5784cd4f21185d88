#include "dbscan/walk.hpp"

#include <cmath>

namespace tmor::dbscan {
namespace {

constexpr double kUp = 1.0 + 1e-9;   // of distances summed in float64
constexpr double kAbsolute = 1e-13;  // of coordinates below 1 that cancelled

void write_balls(Job* job, const Field& field, int64_t block, Balls* balls) {
  const Frame& frame = job->frame;
  const int64_t dimensions = job->params.dimensions;
  const int64_t padded = padded_row(dimensions);
  const size_t row_size = static_cast<size_t>(padded);
  std::vector<double> points(row_size * kWidth);
  std::vector<double> centres(row_size * kWidth);
  double none[kWidth] = {};
  double radius[kWidth] = {};
  uint64_t lanes = 0;
  for (int ball = 0; ball < kWidth && block * kWidth + ball < field.panels(); ++ball) {
    const int64_t panel = block * kWidth + ball;
    const uint32_t* order = field.panel_order(panel);
    double extra[kWidth] = {};
    double* centre = centres.data() + ball * padded;
    std::fill(centre, centre + dimensions, 0.0);
    uint64_t left = field.lanes(panel);
    const double count = static_cast<double>(__builtin_popcountll(left));
    for (uint64_t all = left; all != 0;) {
      const int lane = next_bit(&all);
      double* point = points.data() + lane * padded;
      extra[lane] = frame.place(order[lane], point);
      for (int64_t k = 0; k < dimensions; ++k) centre[k] += point[k] / count;
    }
    float* stored = balls->centre.data() + panel * dimensions;
    for (int64_t k = 0; k < dimensions; ++k) {
      stored[k] = static_cast<float>(centre[k]);
      centre[k] = static_cast<double>(stored[k]);
    }
    double largest = 0.0;
    while (left != 0) {
      const int lane = next_bit(&left);
      const double* point = points.data() + lane * padded;
      largest = std::max(largest, extra[lane] + frame.rows.distance64(point, centre, dimensions));
    }
    radius[ball] = std::sqrt(largest) * kUp + kAbsolute;
    balls->radius[static_cast<size_t>(panel)] = radius[ball];
    lanes |= one_bit(ball);
  }
  write_panel({centres.data(), none, radius, lanes}, &balls->packed, block);
}

Balls make_balls(Job* job, const Field& field) {
  Balls balls;
  balls.packed = make_packed(job->frame, field.packed.arithmetic, (field.panels() + kWidth - 1) / kWidth, true);
  balls.centre.resize(static_cast<size_t>(field.panels() * job->params.dimensions));
  balls.radius.resize(static_cast<size_t>(field.panels()));
  balls.eps = std::sqrt(job->frame.threshold) * (1.0 - 1e-9) - kAbsolute;
#pragma omp parallel for num_threads(job->params.threads) schedule(dynamic, 1)
  for (int64_t block = 0; block < balls.packed.count(); ++block) write_balls(job, field, block, &balls);
  return balls;
}

}  // namespace

bool Balls::inside(int64_t a, int64_t b) const {
  const double reach = eps - radius[static_cast<size_t>(a)] - radius[static_cast<size_t>(b)];
  if (!(reach > 0.0)) return false;
  const int64_t dimensions = packed.dimensions;
  const float* x = centre.data() + a * dimensions;
  const float* y = centre.data() + b * dimensions;
  double total = 0.0;
  for (int64_t k = 0; k < dimensions; ++k) {
    const double difference = static_cast<double>(x[k]) - static_cast<double>(y[k]);
    total += difference * difference;
  }
  return std::sqrt(total) * kUp <= reach;
}

Field make_field(Job* job, std::vector<uint32_t> order, bool with_balls) {
  Field field;
  field.order = std::move(order);
  field.packed = pack_points(job->frame, job->arithmetic, field.order);
  if (with_balls && job->frame.bounded) field.balls = make_balls(job, field);
  job->forget_prepared();
  return field;
}

void transpose(const uint64_t masks[kWidth], uint64_t rows[kWidth]) {
  std::copy(masks, masks + kWidth, rows);
  // Swaps ever smaller squares: the one above the diagonal with the one below it.
  uint64_t low = 0xffffffffU;
  for (int size = 32; size != 0; size >>= 1, low ^= low << size) {
    for (int i = 0; i < kWidth; i = (i + size + 1) & ~size) {
      const uint64_t swap = ((rows[i] >> size) ^ rows[i + size]) & low;
      rows[i] ^= swap << size;
      rows[i + size] ^= swap;
    }
  }
}

uint64_t near_panels(Job* job, Worker* worker, const Field& field, int64_t a, int64_t block, uint64_t columns,
                     uint64_t rows[kWidth]) {
  std::fill(rows, rows + kWidth, field.lanes(a));
  // One tile more, so worth it only from a few panels on.
  if (!field.balls || __builtin_popcountll(columns) < 6) return columns;
  const uint64_t any = job->compare(worker, field.packed, a, field.balls->packed, block, field.lanes(a), true);
  uint64_t masks[kWidth] = {};
  for (uint64_t left = any; left != 0;) {
    const int i = next_bit(&left);
    masks[i] = (worker->pairs.sure[i] | worker->pairs.maybe[i]) & columns;
  }
  transpose(masks, rows);
  uint64_t result = 0;
  for (int j = 0; j < kWidth; ++j) result |= rows[j] != 0 ? one_bit(j) : 0;
  return result;
}

double share_left(Job* job, const Field& field) {
  Worker* worker = job->worker();
  const int64_t step = std::max<int64_t>(1, field.panels() / 32);
  int64_t tested = 0;
  int64_t left = 0;
  for (int64_t a = 0; a < field.panels(); a += step) {
    for (int64_t block = 0; block < field.balls->packed.count(); ++block) {
      const uint64_t all = field.balls->packed.panels[static_cast<size_t>(block)].lanes;
      const uint64_t any = job->compare(worker, field.packed, a, field.balls->packed, block, field.lanes(a), true);
      uint64_t near = 0;
      for (uint64_t rows = any; rows != 0;) {
        const int i = next_bit(&rows);
        near |= worker->pairs.sure[i] | worker->pairs.maybe[i];
      }
      tested += __builtin_popcountll(all);
      left += __builtin_popcountll(near);
    }
  }
  return static_cast<double>(left) / static_cast<double>(tested);
}

}  // namespace tmor::dbscan
