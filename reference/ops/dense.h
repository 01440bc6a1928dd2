// The dense layer, y = x W^T + b.
#pragma once

#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// x [tokens, in], weight [out, in], bias [out] or empty -> [tokens, out]. Rows of x are quantised first where
/// w.input_dtype says so. Sums in double.
Matrix dense(MatrixView x, const DenseWeight& w, const Numerics& numerics = {});

/// Sum of a[i] * b[i] in double.
double dot(const float* a, const float* b, int64_t n);

}  // namespace tandem::reference
