#include "kernels/gemm/structured/structured_gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/gemm_test.h"
#include "kernels/gemm/structured/cusparselt.h"

namespace tandem::kernels {
namespace {

#define TANDEM_NEEDS_CUSPARSELT() \
  TANDEM_NEEDS_DEVICE();          \
  if (const std::string lacks = structured_lacks(); !lacks.empty()) GTEST_SKIP() << lacks

/// [n, k] with two zeros in every four neighbours.
std::vector<float> pruned(const GemmProblem& p, RandomValues& random) {
  std::vector<float> w = random.normal(p.n * p.k, p.w, 0, 1.4f / std::sqrt(static_cast<float>(p.k)));
  for (size_t g = 0; g < w.size(); g += 4) {
    const auto first = static_cast<size_t>(random.between(0, 3));
    const auto second = (first + static_cast<size_t>(random.between(1, 3))) % 4;
    w[g + first] = w[g + second] = 0;
  }
  return w;
}

/// Operands on both sides, and what y must be.
struct Operands {
  GemmProblem p;
  std::vector<float> x, w, bias, residual;
  DeviceTensor device_x, device_w, device_bias, device_residual, y;

  Operands(const GemmProblem& problem, RandomValues& random)
      : p(problem),
        x(random.normal(p.m * p.x_stride(), p.x)),
        w(pruned(p, random)),
        bias(random.normal(p.n, p.out)),
        residual(random.normal(p.m * p.y_stride(), p.out)),
        device_x(x, p.x),
        device_w(w, p.w),
        device_bias(bias, p.out),
        device_residual(residual, p.out),
        y(p.m * p.y_stride(), p.out) {}

  const void* bound_bias() const { return has_bias(p.epilogue) ? device_bias.data() : nullptr; }
  GemmArgs args(const void* compressed, const DeviceBuffer& workspace) const {
    return {.x = device_x.data(),
            .w = compressed,
            .bias = bound_bias(),
            .residual = p.residual ? device_residual.data() : nullptr,
            .y = y.data(),
            .workspace = workspace.data(),
            .workspace_bytes = workspace.bytes()};
  }
  void expect_right(const std::string& what) const {
    const std::vector<float> got = y.values();
    std::vector<float> inside;
    std::vector<double> want;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.y_stride(); ++j) {
        const auto at = static_cast<size_t>(i * p.y_stride() + j);
        if (j >= p.n) {
          ASSERT_TRUE(std::isnan(got[at])) << what << ": written between the rows";
          continue;
        }
        double v = 0;
        for (int64_t k = 0; k < p.k; ++k) v += static_cast<double>(x[i * p.x_stride() + k]) * w[j * p.k + k];
        if (has_bias(p.epilogue)) v += bias[j];
        if (p.residual) v += residual[at];
        want.push_back(activated(p.epilogue, v));
        inside.push_back(got[at]);
      }
    }
    // Results are rounded once or, with a residual, twice.
    expect_near(inside, want, (p.residual ? 1.02 : 0.51) * epsilon(p.out), p.residual ? epsilon(p.out) : 1e-4,
                what);
  }
};

struct Compressed {
  DeviceBuffer bytes;
  Compressed(const StructuredGemm& gemm, const void* dense, cudaStream_t stream)
      : bytes(gemm.compressed_bytes()) {
    const DeviceBuffer scratch(gemm.compress_scratch_bytes());
    gemm.compress(dense, bytes.data(), scratch.data(), stream);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
};

void check_structured(const StructuredLt& lt, const GemmProblem& p, const GemmChoice& choice,
                      RandomValues& random) {
  const std::string what = problem_text(p) + ", " + choice.description;
  const Stream stream;
  const Operands operands(p, random);
  const StructuredGemm gemm(lt, p, choice, operands.bound_bias());
  const Compressed w(gemm, operands.device_w.data(), stream.get());
  const DeviceBuffer workspace(choice.workspace_bytes);
  gemm.run(operands.args(w.bytes.data(), workspace), stream.get());
  stream.wait();
  operands.expect_right(what);
}

// Without it: a fault of the library's absence, or of another version, reaches a user as a crash.
TEST(Cusparselt, SaysWhatIsMissing) {
  const cusparselt::Library& found = cusparselt::library();
  EXPECT_EQ(found.functions == nullptr, !found.lacks.empty());
  EXPECT_EQ(found.path.empty(), found.functions == nullptr);
  if (found.functions == nullptr) {
    EXPECT_NE(found.lacks.find("cuSPARSELt"), std::string::npos);
    return;
  }
  std::printf("cuSPARSELt: %s\n", found.path.c_str());
}

// Without it: a wrong transposition, stride, epilogue or metadata of the library's product passes.
TEST(StructuredGemm, EpiloguesAndStrides) {
  TANDEM_NEEDS_CUSPARSELT();
  const StructuredLt lt;
  RandomValues random(test_seed());
  for (const DType type : {DType::kBF16, DType::kF16}) {
    for (const GemmEpilogue epilogue :
         {GemmEpilogue::kNone, GemmEpilogue::kBias, GemmEpilogue::kRelu, GemmEpilogue::kBiasRelu}) {
      for (const bool residual : {false, true}) {
        if (residual && !library_fuses(type, epilogue, residual)) continue;
        GemmProblem p{.m = 8 * random.between(1, 20),
                      .n = 16 * random.between(1, 12),
                      .k = 64 * random.between(1, 6),
                      .x = type,
                      .w = type,
                      .out = type,
                      .two_of_four = true,
                      .epilogue = epilogue,
                      .residual = residual};
        if (random.coin()) p.ldx = p.k + 32;
        if (random.coin()) p.ldy = p.n + 16;
        SCOPED_TRACE(problem_text(p));
        check_structured(lt, p, structured_candidates(lt, p).at(0), random);
      }
    }
  }
}

// Without it: an algorithm that the search may choose is wrong, or reads another compressed form than the one that was made.
TEST(StructuredGemm, EveryAlgorithm) {
  TANDEM_NEEDS_CUSPARSELT();
  const StructuredLt lt;
  RandomValues random(test_seed());
  const GemmProblem p{.m = 136, .n = 208, .k = 320, .two_of_four = true, .epilogue = GemmEpilogue::kBiasRelu};
  const std::vector<GemmChoice> all = structured_candidates(lt, p);
  ASSERT_FALSE(all.empty());
  const Stream stream;
  const Operands operands(p, random);
  const StructuredGemm first(lt, p, all.front(), operands.bound_bias());
  const Compressed w(first, operands.device_w.data(), stream.get());
  int ran = 0;
  for (const GemmChoice& choice : all) {
    try {
      const StructuredGemm gemm(lt, p, choice, operands.bound_bias());
      EXPECT_EQ(gemm.compressed_bytes(), first.compressed_bytes());
      TANDEM_CUDA_CHECK(cudaMemset(operands.y.data(), 0xff, operands.y.bytes().size()));
      const DeviceBuffer workspace(choice.workspace_bytes);
      gemm.run(operands.args(w.bytes.data(), workspace), stream.get());
      stream.wait();
      operands.expect_right(choice.description);
      ++ran;
    } catch (const CudaError& e) {
      std::printf("%s: %s\n", choice.description.c_str(), e.what());  // the search leaves it out
    }
  }
  std::printf("%d of %zu algorithms ran\n", ran, all.size());
  EXPECT_GT(ran, 0);
}

// Without it: a search fails, its choice is not repeatable, or a product cannot be part of a step's graph.
TEST(StructuredGemm, SearchesAndRunsInAGraph) {
  TANDEM_NEEDS_CUSPARSELT();
  const StructuredLt lt;
  RandomValues random(test_seed());
  const GemmProblem p{.m = 256, .n = 512, .k = 256, .two_of_four = true, .epilogue = GemmEpilogue::kBias};
  GemmChoices choices;
  const Stream stream;
  const GemmChoice choice = choose(lt, choices, p, stream.get());
  EXPECT_GT(choice.us, 0);
  EXPECT_EQ(choose(lt, choices, p, stream.get()), choice) << "the second time it is known";
  const Operands operands(p, random);
  const StructuredGemm gemm(lt, p, choice, operands.bound_bias());
  const Compressed w(gemm, operands.device_w.data(), stream.get());
  const DeviceBuffer workspace(choice.workspace_bytes);
  gemm.run(operands.args(w.bytes.data(), workspace), stream.get());
  stream.wait();
  TANDEM_CUDA_CHECK(cudaMemset(operands.y.data(), 0xff, operands.y.bytes().size()));
  TimedGraph graph(stream.get(),
                   [&](cudaStream_t s) { gemm.run(operands.args(w.bytes.data(), workspace), s); });
  graph.time_us();
  operands.expect_right("in a graph");

  GemmArgs other = operands.args(w.bytes.data(), workspace);
  other.bias = operands.device_residual.data();
  EXPECT_THROW(gemm.run(other, stream.get()), UsageError) << "another bias would be the bound one silently";
  other = operands.args(nullptr, workspace);
  EXPECT_THROW(gemm.run(other, stream.get()), UsageError);
}

// What an encoder's products gain; the table of the card's page comes from here. Sustained: both sides in turns.
TEST(StructuredGemm, OverDense) {
  TANDEM_NEEDS_CUSPARSELT();
  if (std::getenv("TANDEM_BENCH") == nullptr) GTEST_SKIP() << "TANDEM_BENCH is not set";
  const StructuredLt lt;
  const CublasLt dense_lt;
  const Stream stream;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{8192, 8192, 8192},
                                {128, 4096, 1024},
                                {512, 4096, 1024},
                                {1024, 4096, 1024},
                                {2048, 4096, 1024},
                                {4096, 3072, 1024},
                                {4096, 4096, 1024},
                                {4096, 1024, 4096},
                                {32768, 4096, 1024},
                                {32768, 1024, 4096},
                                {8192, 16384, 1024},
                                {8192, 1024, 16384}}) {
    GemmProblem p{.m = m, .n = n, .k = k};
    const GemmChoice dense = search(dense_lt, p, stream.get());
    p.two_of_four = true;
    const GemmChoice sparse = search(lt, p, stream.get());
    std::printf("m%ld n%ld k%ld: dense %.1f us (%.0f TFLOP/s), 2:4 %.1f us, %.3fx; %s\n", m, n, k, dense.us,
                p.flops() / dense.us * 1e-6, sparse.us, dense.us / sparse.us, sparse.description.c_str());
  }
}

}  // namespace
}  // namespace tandem::kernels
