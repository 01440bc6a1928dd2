// Small cases of every kind in one process, without a reference beside them: what `ctest -L sanitize` runs under memcheck,
// racecheck, initcheck and synccheck.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "harness/base/testing/test_seed.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

constexpr int kSteps = 3;

// Under a sanitizer: an access outside a buffer, a race in shared memory, a read of what nobody wrote, a barrier that not
// all threads reach. By itself: a kernel that leaves poison in its output.
TEST(Sanitize, SmallCasesOfEveryKind) {
  TANDEM_NEED_DEVICE();
  auto cases =
      covering_cases(test_seed(), {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16});
  ASSERT_GE(cases.size(), 40u);
  // Batches that a covering array of small ones does not reach: the products of up to 64 rows, and the library above.
  for (const int rows : {20, 64, 70}) {
    CoverCase wide = cases[static_cast<size_t>(rows) % cases.size()];
    wide.precision = Precision::kBf16;
    wide.lengths.assign(static_cast<size_t>(rows), 3);
    cases.push_back(std::move(wide));
  }
  CudaEngine engine({.search_choices = false});
  for (const CoverCase& cover : cases) {
    SCOPED_TRACE(cover.text);
    const TransformerBatch batch = make_batch(cover.config, cover.lengths, kInputSeed);
    Case c = case_of(cover, Suite::kGenerate, kSteps);
    c.stop = cover.lengths.size() % 2 == 0 ? "eos" : "fixed";
    engine.load(c, cover.config, cover.precision);
    const auto generation = engine.prepare(c, batch);
    generation->repeat();
    for (const int32_t token : generation->output().tokens) {
      ASSERT_GE(token, 0);
      ASSERT_LT(token, cover.config.vocab);
    }
    const auto encoder = engine.prepare(case_of(cover, Suite::kEncoder, kSteps), batch);
    encoder->repeat();
    for (const float v : encoder->output().values) ASSERT_TRUE(std::isfinite(v));
  }
  fmt::print("{} cases\n", cases.size());
}

}  // namespace
}  // namespace tandem::kernels
