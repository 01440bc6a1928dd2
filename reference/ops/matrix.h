// The only container of the reference: a row-major fp32 matrix, and a view of one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/base/tensor.h"

namespace tandem::reference {

/// Owns rows x cols values, zero at first. A row is a token; a packed batch is a matrix with all its tokens.
struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;

  Matrix() = default;
  Matrix(int64_t rows_, int64_t cols_) : rows(rows_), cols(cols_), values(rows_ * cols_) {}

  float* row(int64_t r) { return values.data() + r * cols; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

/// Read-only view of a matrix that somebody else owns.
struct MatrixView {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  MatrixView() = default;
  MatrixView(const float* data_, int64_t rows_, int64_t cols_) : data(data_), rows(rows_), cols(cols_) {}
  MatrixView(const Matrix& m)
      : data(m.values.data()), rows(m.rows), cols(m.cols) {}  // NOLINT: a Matrix is viewable
  /// A weight; it must be fp32 in host memory.
  MatrixView(const TensorView& t);  // NOLINT

  bool empty() const { return data == nullptr; }
  const float* row(int64_t r) const { return data + r * cols; }
};

/// a + b, element by element. Throws Error when the shapes differ.
Matrix add(MatrixView a, MatrixView b);

/// Throws Error with both shapes unless they are equal; `what` says whose.
void expect_shape(MatrixView m, int64_t rows, int64_t cols, const char* what);

}  // namespace tandem::reference
