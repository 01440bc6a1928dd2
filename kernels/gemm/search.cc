#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/gemm/candidates.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/race.h"

namespace tandem::kernels {
namespace {

/// In the library's order, smaller workspaces first.
std::vector<GemmChoice> all_candidates(const CublasLt& lt, const GemmProblem& problem,
                                       const GemmSearch& how) {
  std::vector<GemmChoice> all;
  int64_t previous = -1;
  for (int64_t asked : {int64_t{0}, int64_t{4} << 20, int64_t{32} << 20, how.max_workspace_bytes}) {
    const int64_t bytes = std::min(asked, how.max_workspace_bytes);
    if (bytes <= previous) continue;
    previous = bytes;
    for (GemmChoice& c : candidates(lt, problem, how.candidates, bytes)) {
      const bool known =
          std::any_of(all.begin(), all.end(), [&](const GemmChoice& other) { return other.algo == c.algo; });
      if (!known) all.push_back(std::move(c));
    }
  }
  return all;
}

}  // namespace

GemmChoice search(const CublasLt& lt, const GemmProblem& problem, cudaStream_t stream,
                  const GemmSearch& how) {
  check(problem);
  std::vector<GemmChoice> all = all_candidates(lt, problem, how);
  if (all.empty()) throw UsageError(no_algorithm_text(lt, problem));
  int64_t workspace_bytes = 0;
  for (const GemmChoice& c : all) workspace_bytes = std::max(workspace_bytes, c.workspace_bytes);
  const SearchOperands operands(lt.device(), problem,
                                {.bytes = tensor_bytes(problem.w, problem.n * problem.k)}, workspace_bytes,
                                stream);
  const auto bind = [&](const GemmChoice& choice) -> Launch {
    const auto gemm = std::make_shared<Gemm>(lt, problem, choice);
    return [gemm](const GemmArgs& args, cudaStream_t s) { gemm->run(args, s); };
  };
  return fastest({.problem = problem,
                  .choices = std::move(all),
                  .bind = bind,
                  .operands = operands,
                  .rounds = how.rounds,
                  .nothing_found = no_algorithm_text(lt, problem)},
                 stream);
}

GemmChoice choose(const CublasLt& lt, GemmChoices& choices, const GemmProblem& problem, cudaStream_t stream) {
  return known_or_searched(lt, choices, problem, stream);
}

}  // namespace tandem::kernels
