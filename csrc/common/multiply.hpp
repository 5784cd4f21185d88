// Products of matrices, a block of sums in registers at a time. Included by files that are compiled once per
// instruction set; `Vector` is one of simd.hpp.
//
// c(r, v) = [c(r, v) if add] + sum over t < steps of a[r * a_row + t * a_step] * b[t * b_step + v], with r < rows and
// v < width, a whole number of vectors. Best are rows in multiples of kSums / kVectors and panels of kVectors vectors.
#pragma once

#include <cstdint>

namespace tmor {

// What happens to sums before they are written: c = relu(sums + bias + shortcut), each as far as wanted.
struct Finish {
  const float* bias = nullptr;      // (width,)
  const float* shortcut = nullptr;  // (rows, width)
  int64_t shortcut_row = 0;         // floats between two of its rows
  bool relu = false;
};

// The products of rows with rows, where what is summed over lies side by side: over t < outer and k < width, a whole
// number of vectors, c[i * c_row + j] = sum of a[i * a_row + t * a_outer + k] * b[j * b_row + t * b_outer + k].
struct Dots {
  const float* a = nullptr;
  int64_t a_row = 0;
  int64_t a_outer = 0;
  int64_t a_rows = 0;
  const float* b = nullptr;
  int64_t b_row = 0;
  int64_t b_outer = 0;
  int64_t b_rows = 0;
  int64_t outer = 0;
  int64_t width = 0;
  float* c = nullptr;
  int64_t c_row = 0;
};

namespace {

// Sums are written as they are.
template <typename Vector>
struct AsTheyAre {
  using Register = typename Vector::Register;
  AsTheyAre below(int64_t) const { return {}; }
  AsTheyAre beside(int64_t) const { return {}; }
  Register operator()(Register sum, int, int) const { return sum; }
};

template <typename Vector>
struct Finished {
  using Register = typename Vector::Register;
  Finish finish;

  // The same for what begins `rows` below, or `columns` to the right.
  Finished below(int64_t rows) const {
    Finished result = *this;
    if (finish.shortcut != nullptr) result.finish.shortcut += rows * finish.shortcut_row;
    return result;
  }
  Finished beside(int64_t columns) const {
    Finished result = *this;
    if (finish.bias != nullptr) result.finish.bias += columns;
    if (finish.shortcut != nullptr) result.finish.shortcut += columns;
    return result;
  }
  Register operator()(Register sum, int row, int column) const {
    if (finish.bias != nullptr) sum = Vector::add(sum, Vector::load(finish.bias + column));
    if (finish.shortcut != nullptr) {
      sum = Vector::add(sum, Vector::load(finish.shortcut + row * finish.shortcut_row + column));
    }
    return finish.relu ? Vector::maximum(Vector::broadcast(0.0F), sum) : sum;
  }
};

template <typename Vector, int kRows, int kVectors, typename Last>
void multiply_block(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                    float* c, int64_t c_row, bool add, const Last& last) {
  using Register = typename Vector::Register;
  constexpr int kLanes = Vector::kLanes;
  Register sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector::broadcast(0.0F);
  }
  for (int64_t t = 0; t < steps; ++t) {
    Register column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = Vector::load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Register value = Vector::broadcast(a[r * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector::multiply_add(value, column[v], sum[r][v]);
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* target = c + r * c_row + v * kLanes;
      const Register whole = add ? Vector::add(Vector::load(target), sum[r][v]) : sum[r][v];
      Vector::store(target, last(whole, r, v * kLanes));
    }
  }
}

// The rows that are left over once kRows no longer fit.
template <typename Vector, int kRows, int kVectors, typename Last>
void multiply_rest(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                   float* c, int64_t c_row, int64_t rows, bool add, const Last& last) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      return multiply_block<Vector, kRows, kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, add, last);
    multiply_rest<Vector, kRows - 1, kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, add, last);
  }
}

template <typename Vector, int kVectors, typename Last>
void multiply_columns(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                      float* c, int64_t c_row, int64_t rows, bool add, Last last) {
  constexpr int kMost = 12;
  constexpr int kRows = Vector::kSums / kVectors < kMost ? Vector::kSums / kVectors : kMost;
  for (; rows >= kRows; rows -= kRows, a += kRows * a_row, c += kRows * c_row) {
    multiply_block<Vector, kRows, kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, add, last);
    last = last.below(kRows);
  }
  multiply_rest<Vector, kRows - 1, kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, add, last);
}

// As many vectors side by side as there are, at most kVectors at a time.
template <typename Vector, int kVectors, typename Last>
void multiply_from(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                   float* c, int64_t c_row, int64_t rows, int64_t width, bool add, Last last) {
  if constexpr (kVectors > 0) {
    constexpr int64_t kPanel = Vector::kLanes * kVectors;
    for (; width >= kPanel; width -= kPanel, b += kPanel, c += kPanel) {
      multiply_columns<Vector, kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, add, last);
      last = last.beside(kPanel);
    }
    multiply_from<Vector, kVectors - 1>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, width, add, last);
  }
}

template <typename Vector>
void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps, float* c,
              int64_t c_row, int64_t rows, int64_t width, bool add) {
  multiply_from<Vector, Vector::kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, width, add,
                                          AsTheyAre<Vector>{});
}

// The same with what `finish` adds at the end.
template <typename Vector>
void multiply_finish(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t steps,
                     float* c, int64_t c_row, int64_t rows, int64_t width, bool add, const Finish& finish) {
  multiply_from<Vector, Vector::kVectors>(a, a_row, a_step, b, b_step, steps, c, c_row, rows, width, add,
                                          Finished<Vector>{finish});
}

template <typename Vector, int kRows, int kColumns>
void dots_block(const Dots& dots, int64_t i, int64_t j) {
  using Register = typename Vector::Register;
  Register sum[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < kColumns; ++s) sum[r][s] = Vector::broadcast(0.0F);
  }
  for (int64_t t = 0; t < dots.outer; ++t) {
    const float* a = dots.a + i * dots.a_row + t * dots.a_outer;
    const float* b = dots.b + j * dots.b_row + t * dots.b_outer;
    for (int64_t k = 0; k < dots.width; k += Vector::kLanes) {
      Register left[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) left[r] = Vector::load(a + r * dots.a_row + k);
#pragma GCC unroll 8
      for (int s = 0; s < kColumns; ++s) {
        const Register right = Vector::load(b + s * dots.b_row + k);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r][s] = Vector::multiply_add(left[r], right, sum[r][s]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < kColumns; ++s) dots.c[(i + r) * dots.c_row + j + s] = Vector::sum(sum[r][s]);
  }
}

template <typename Vector, int kRows, int kColumns>
void dots_columns(const Dots& dots, int64_t i, int64_t j) {
  if constexpr (kColumns > 0) {
    for (; j + kColumns <= dots.b_rows; j += kColumns) dots_block<Vector, kRows, kColumns>(dots, i, j);
    dots_columns<Vector, kRows, kColumns - 1>(dots, i, j);
  }
}

template <typename Vector, int kRows>
void dots_rows(const Dots& dots, int64_t i) {
  if constexpr (kRows > 0) {
    for (; i + kRows <= dots.a_rows; i += kRows) dots_columns<Vector, kRows, Vector::kDots>(dots, i, 0);
    dots_rows<Vector, kRows - 1>(dots, i);
  }
}

template <typename Vector>
void row_products(const Dots& dots) {
  dots_rows<Vector, Vector::kDots>(dots, 0);
}

}  // namespace
}  // namespace tmor
