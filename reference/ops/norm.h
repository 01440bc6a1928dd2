// Layer normalisation (Ba et al. 2016) and root-mean-square normalisation (Zhang and Sennrich 2019).
#pragma once

#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// (x - mean) / sqrt(variance + eps) * gamma + beta for every row of x [tokens, d]; the variance divides by
/// d.
Matrix layer_norm(MatrixView x, const NormWeight& w, double eps);

/// x / sqrt(mean of squares + eps) * gamma for every row of x [tokens, d]: no mean taken off, no beta.
Matrix rms_norm(MatrixView x, const NormWeight& w, double eps);

}  // namespace tandem::reference
