// From the decoder's output to a token.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// scale * x W^T + b: x [tokens, d_model] -> logits [tokens, vocab].
Matrix head(MatrixView x, const DenseWeight& w, double scale, const Numerics& numerics = {});

/// Index of the largest value of each row; of equal ones the lowest; the first NaN where there is one, so
/// that it shows.
std::vector<int32_t> arg_max(MatrixView logits);

}  // namespace tandem::reference
