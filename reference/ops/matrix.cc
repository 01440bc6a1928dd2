#include "reference/ops/matrix.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem::reference {

MatrixView::MatrixView(const TensorView& t) : data(t.as<float>()), rows(t.rows), cols(t.cols) {
  if (t.dtype != DType::kF32) {
    throw Error(fmt::format("the reference reads f32 weights, got {}", dtype_name(t.dtype)));
  }
}

void expect_shape(MatrixView m, int64_t rows, int64_t cols, const char* what) {
  if (m.rows != rows || m.cols != cols) {
    throw Error(fmt::format("{}: expected [{}, {}], got [{}, {}]", what, rows, cols, m.rows, m.cols));
  }
}

Matrix add(MatrixView a, MatrixView b) {
  expect_shape(b, a.rows, a.cols, "add");
  Matrix sum(a.rows, a.cols);
  for (int64_t i = 0; i < a.rows * a.cols; ++i) sum.values[i] = a.data[i] + b.data[i];
  return sum;
}

}  // namespace tandem::reference
