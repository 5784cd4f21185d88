#include "dbscan/packed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dbscan/one_pass.hpp"

namespace tmor::dbscan {
namespace {

constexpr double kUnit = 1.0 / 16777216.0;       // 2^-24
constexpr double kSmallestScale = 0x1p-40;       // of integers: keeps 1 / scale^2 a float32
constexpr double kLargestInteger = 536870912.0;  // 2^29: bounds beyond it would not leave room for a sum
constexpr double kRounding = 1.0 + 1e-9;         // of lengths summed in float64
constexpr double kNever = -1e30;                 // the start of a lane without a point

// The scale of a panel's integers: no coordinate saturates.
double integer_unit(const PanelSource& source, const Rows& rows, int64_t padded) {
  double largest = 0.0;
  for (uint64_t left = source.lanes; left != 0; left &= left - 1) {
    largest = std::max(largest, rows.largest(source.rows + __builtin_ctzll(left) * padded, padded));
  }
  return std::max(largest / 127.0, kSmallestScale);
}

// The words of a row as they are stored side by side, kRowStep numbers at a time more than `steps` at most.
Stored store_row(const Packed& packed, const double* row, double unit, uint32_t* words) {
  const int64_t padded = padded_row(packed.dimensions);
  const Rows& rows = packed.frame->rows;
  if (packed.arithmetic == Arithmetic::int8) return rows.store_int8(row, padded, unit, words);
  if (packed.arithmetic == Arithmetic::bfloat16) return rows.store_bfloat16(row, padded, words);
  return rows.store_float32(row, padded, words);
}

void clear_lane(Packed* packed, int64_t index, int lane) {
  const size_t slot = static_cast<size_t>(index * kWidth + lane);
  packed->row_low[slot] = packed->row_high[slot] = 0.0F;
  packed->start[slot] = static_cast<float>(kNever);
  if (!packed->ball_start.empty()) packed->ball_start[slot] = static_cast<float>(kNever);
  if (!packed->sum.empty()) packed->sum[slot] = 0;
}

}  // namespace

Words allocate_words(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(uint32_t);
  return Words(static_cast<uint32_t*>(::operator new[](bytes, std::align_val_t{64})));
}

Packed make_packed(const Frame& frame, Arithmetic arithmetic, int64_t panels, bool balls) {
  Packed packed;
  packed.arithmetic = arithmetic;
  packed.frame = &frame;
  packed.dimensions = static_cast<int64_t>(frame.centre.size());
  const int64_t group = elements_per_word(arithmetic);
  packed.steps = (packed.dimensions + group - 1) / group;
  packed.words = allocate_words(panels * packed.steps * kWidth);
  const size_t slots = static_cast<size_t>(panels * kWidth);
  packed.row_low.resize(slots);
  packed.row_high.resize(slots);
  packed.start.resize(slots);
  if (balls) packed.ball_start.resize(slots);
  if (arithmetic == Arithmetic::int8) packed.sum.resize(slots);
  packed.panels.resize(static_cast<size_t>(panels));
  return packed;
}

void write_panel(const PanelSource& source, Packed* packed, int64_t index) {
  const Frame& frame = *packed->frame;
  const double threshold = frame.threshold;
  const double eps = std::sqrt(threshold) * kRounding;
  Panel panel;
  panel.lanes = source.lanes;
  const int64_t padded = padded_row(packed->dimensions);
  if (packed->arithmetic == Arithmetic::int8) panel.unit = integer_unit(source, frame.rows, padded);
  // Rows of words, to be transposed.
  const int64_t stride = padded / elements_per_word(packed->arithmetic);
  std::vector<uint32_t> words(static_cast<size_t>(stride * kWidth), 0);
  double length = 0.0;
  double magnitude = 0.0;
  double worst = 0.0;
  double largest_residual = 0.0;
  for (int lane = 0; lane < kWidth; ++lane) {
    if ((source.lanes >> lane & 1) == 0 || !frame.bounded) {
      clear_lane(packed, index, lane);
      continue;
    }
    const Stored stored = store_row(*packed, source.rows + lane * padded, panel.unit, words.data() + lane * stride);
    const double here = std::sqrt(stored.square) * kRounding;
    double residual = std::sqrt(stored.residual) * kRounding;
    residual += std::numeric_limits<double>::epsilon() * (here + residual);  // of the coordinates (Frame::place)
    if (source.radius != nullptr) residual += source.radius[lane];
    const double half = (stored.square + source.extra[lane]) / 2.0;
    const double error = (eps + residual) * residual;
    const size_t slot = static_cast<size_t>(index * kWidth + lane);
    const double low = half - threshold / 2.0 - error;
    const double high = half - threshold / 2.0 + eps * residual;
    packed->row_low[slot] = static_cast<float>(low);
    packed->row_high[slot] = static_cast<float>(high);
    packed->start[slot] = static_cast<float>(error - half);
    if (!packed->ball_start.empty()) {
      packed->ball_start[slot] = static_cast<float>((eps + residual * (17.0 / 32.0)) * residual - half);
    }
    if (!packed->sum.empty()) packed->sum[slot] = stored.sum;
    length = std::max(length, here);
    worst = std::max(worst, error + eps * residual);
    magnitude = std::max({magnitude, std::fabs(low), std::fabs(high), half + error, worst});
    largest_residual = std::max(largest_residual, residual);
  }
  uint32_t* target = packed->words.get() + index * packed->steps * kWidth;
  for (int64_t step = 0; step < packed->steps; ++step, target += kWidth) {
    for (int lane = 0; lane < kWidth; ++lane) target[lane] = words[static_cast<size_t>(lane * stride + step)];
  }
  constexpr double kUp = 1.0 + 1e-6;  // float32 rounding of the next
  panel.length = static_cast<float>(length * kUp);
  panel.magnitude = static_cast<float>(magnitude * kUp);
  panel.worst = static_cast<float>(worst * kUp);
  panel.residual = static_cast<float>(largest_residual * kUp);
  packed->panels[static_cast<size_t>(index)] = panel;
}

Packed pack_points(const Frame& frame, Arithmetic arithmetic, const std::vector<uint32_t>& order) {
  const int64_t panels = static_cast<int64_t>(order.size()) / kWidth;
  Packed packed = make_packed(frame, arithmetic, panels, false);
#pragma omp parallel num_threads(frame.params->threads)
  {
    const int64_t padded = padded_row(packed.dimensions);
    std::vector<double> rows(static_cast<size_t>(kWidth * padded));
    double extra[kWidth] = {};
#pragma omp for schedule(static)
    for (int64_t index = 0; index < panels; ++index) {
      PanelSource source{rows.data(), extra, nullptr, 0};
      for (int lane = 0; lane < kWidth; ++lane) {
        const uint32_t point = order[static_cast<size_t>(index * kWidth + lane)];
        if (point == kNobody) continue;
        extra[lane] = frame.place(point, rows.data() + lane * padded);
        source.lanes |= uint64_t{1} << lane;
      }
      write_panel(source, &packed, index);
    }
  }
  return packed;
}

double tile_slack(const Packed& rows, const Panel& a, const Panel& b) {
  const Frame& frame = *rows.frame;
  if (!frame.bounded) return std::numeric_limits<double>::infinity();
  const double dimensions = static_cast<double>(rows.dimensions);
  const double magnitude = static_cast<double>(a.magnitude) + static_cast<double>(b.magnitude);
  double slack = 16.0 * kUnit * magnitude + (dimensions + 8.0) * 0x1p-52 * frame.threshold + 0x1p-96;
  if (rows.arithmetic == Arithmetic::int8) {
    if (!(magnitude < kLargestInteger * a.unit * b.unit)) return std::numeric_limits<double>::infinity();
  } else {
    const double product = static_cast<double>(a.length) * static_cast<double>(b.length);
    slack += 1.07 * (dimensions + 4.0) * kUnit * (static_cast<double>(b.magnitude) + product);
  }
  return slack * 1.0001;
}

}  // namespace tmor::dbscan
