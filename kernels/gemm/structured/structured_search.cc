#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "harness/base/error.h"
#include "kernels/gemm/operands.h"
#include "kernels/gemm/race.h"
#include "kernels/gemm/structured/structured_gemm.h"

namespace tandem::kernels {
namespace {

constexpr float kUnit = 1.7f;

}  // namespace

GemmChoice search(const StructuredLt& lt, const GemmProblem& problem, cudaStream_t stream,
                  const GemmSearch& how) {
  check(problem);
  const std::string nothing = "cuSPARSELt has no algorithm for product " + problem_text(problem);
  std::vector<GemmChoice> all = structured_candidates(lt, problem);
  std::erase_if(all, [&](const GemmChoice& c) { return c.workspace_bytes > how.max_workspace_bytes; });
  if (all.empty()) throw UsageError(nothing);
  std::ranges::stable_sort(all, {}, &GemmChoice::workspace_bytes);
  const int64_t workspace_bytes = all.back().workspace_bytes;

  // A matrix is compressed in one way whatever the algorithm that multiplies it: one choice serves every workload.
  GemmProblem plain = problem;
  plain.epilogue = GemmEpilogue::kNone;
  const StructuredGemm compressor(lt, plain, structured_candidates(lt, plain).front(), nullptr);
  const DeviceBuffer dense(tensor_bytes(problem.w, problem.n * problem.k));
  const DeviceBuffer scratch(compressor.compress_scratch_bytes());
  launch_random_two_of_four({.out = dense.data(),
                             .dtype = problem.w,
                             .count = problem.n * problem.k,
                             .key = 1,
                             .scale = kUnit / std::sqrt(static_cast<float>(problem.k))},
                            stream);
  const auto compress = [&](void* w) { compressor.compress(dense.data(), w, scratch.data(), stream); };
  const SearchOperands operands(lt.device(), problem,
                                {.bytes = compressor.compressed_bytes(), .fill = compress}, workspace_bytes,
                                stream);
  const auto bind = [&](const GemmChoice& choice) -> Launch {
    const auto gemm = std::make_shared<StructuredGemm>(lt, problem, choice, operands.args(0).bias);
    if (gemm->compressed_bytes() != compressor.compressed_bytes())
      throw UsageError(problem_text(problem) + ": " + choice.description + " reads another compressed form");
    return [gemm](const GemmArgs& args, cudaStream_t s) { gemm->run(args, s); };
  };
  return fastest({.problem = problem,
                  .choices = std::move(all),
                  .bind = bind,
                  .operands = operands,
                  .rounds = how.rounds,
                  .nothing_found = nothing},
                 stream);
}

}  // namespace tandem::kernels
