// What the libraries offer for a product. Internal to the searches and the limits.
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
/// Throws UsageError naming a pointer that is missing or misaligned, a workspace too small or an alpha that the problem does
/// not have.
void check_args(const GemmProblem& problem, const GemmArgs& args, int64_t workspace_bytes);
/// The choice of a library's handle for a problem: from `choices`, or searched and put there.
template <typename Library>
GemmChoice known_or_searched(const Library& library, GemmChoices& choices, const GemmProblem& problem,
                             cudaStream_t stream) {
  if (choices.mode() == GemmChoices::Mode::kReadOnly) return choices.at(library.place(), problem);
  if (auto known = choices.find(library.place(), problem)) return *known;
  const GemmChoice found = search(library, problem, stream);
  choices.put(library.place(), problem, found);
  return found;
}
/// Says why, where that is known.
std::string no_algorithm_text(const CublasLt& lt, const GemmProblem& problem);

}  // namespace tandem::kernels
