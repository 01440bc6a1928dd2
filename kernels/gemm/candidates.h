// What the library offers for a product. Internal to the search and the limits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/gemm/gemm.h"

namespace tandem::kernels {

/// Up to `count` algorithms in the library's order whose workspace fits and whose result does not depend on
/// the order in which thread blocks finish. Empty when it has none.
std::vector<GemmChoice> candidates(const CublasLt& lt, const GemmProblem& problem, int count,
                                   int64_t max_workspace_bytes);
/// Says why, where that is known.
std::string no_algorithm_text(const CublasLt& lt, const GemmProblem& problem);

}  // namespace tandem::kernels
