// Means and variances of columns from those of parts of their rows.
#pragma once

#include <cstdint>
#include <vector>

namespace tmor {

// What common/moments.hpp finds in each of some parts of the rows.
class PartMoments {
 public:
  PartMoments(int64_t parts, int64_t columns)
      : columns_(columns), rows_(static_cast<size_t>(parts)), values_(static_cast<size_t>(2 * parts * columns)) {}

  void set_rows(int64_t part, int64_t rows) { rows_[static_cast<size_t>(part)] = rows; }
  double* mean(int64_t part) { return values_.data() + 2 * part * columns_; }
  double* squares(int64_t part) { return mean(part) + columns_; }

  // Mean and biased variance of all rows, (2, columns). Parts are merged in their order (Chan, Golub, LeVeque 1979).
  void write(float* statistics) {
    for (int64_t j = 0; j < columns_; ++j) {
      double count = 0.0;
      double mean_so_far = 0.0;
      double squares_so_far = 0.0;
      for (size_t part = 0; part < rows_.size(); ++part) {
        if (rows_[part] == 0) continue;
        const double more = static_cast<double>(rows_[part]);
        const double apart = mean(static_cast<int64_t>(part))[j] - mean_so_far;
        const double total = count + more;
        mean_so_far += apart * more / total;
        squares_so_far += squares(static_cast<int64_t>(part))[j] + apart * apart * count * more / total;
        count = total;
      }
      statistics[j] = static_cast<float>(mean_so_far);
      statistics[columns_ + j] = static_cast<float>(squares_so_far / count);
    }
  }

 private:
  int64_t columns_;
  std::vector<int64_t> rows_;
  std::vector<double> values_;
};

}  // namespace tmor
