#include "reference/ops/quantise.h"

#include <fmt/format.h>

#include <span>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/weights/values/quantise.h"

namespace tandem::reference {

Matrix quantised_heads(MatrixView x, DType type, int head_dim) {
  if (type != DType::kF8 && type != DType::kI8)
    throw Error(fmt::format("activations are quantised to f8 or i8, not {}", dtype_name(type)));
  if (head_dim < 1 || x.cols % head_dim != 0)
    throw Error(fmt::format("quantise: heads of {} values in rows of {}", head_dim, x.cols));
  const Storage storage{.dtype = type, .scale_group = Storage::kWholeRow};
  const auto width = static_cast<size_t>(head_dim);
  Matrix y(x.rows, x.cols);
#pragma omp parallel for if (x.rows * x.cols > 1 << 16)
  for (int64_t first = 0; first < x.rows * x.cols; first += head_dim) {
    std::vector<uint32_t> codes(width);
    float scale = 0;
    quantise_row(storage, {x.data + first, width}, codes, {&scale, 1});
    dequantise_row(storage, codes, {&scale, 1}, {y.values.data() + first, width});
  }
  return y;
}

Matrix quantised_rows(MatrixView x, DType type) {
  return quantised_heads(x, type, static_cast<int>(x.cols));
}

Matrix bf16_values(MatrixView x) {
  Matrix y(x.rows, x.cols);
  for (int64_t i = 0; i < x.rows * x.cols; ++i) y.values[i] = bf16_to_float(float_to_bf16(x.data[i]));
  return y;
}

Matrix kept(Matrix x, const Numerics& numerics, int head_dim) {
  if (numerics.bf16_inputs) x = bf16_values(x);
  return numerics.kv == DType::kF32 ? std::move(x) : quantised_heads(x, numerics.kv, head_dim);
}

}  // namespace tandem::reference
