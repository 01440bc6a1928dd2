// Small cases of every kind in one process, without a reference beside them: what `ctest -L sanitize` runs under memcheck,
// racecheck, initcheck and synccheck.
//
// Our kernels only. Of the library's for sm_90 the tools lose track ("failed to handle a hardware exception", then an
// illegal address in whichever kernel runs next), with no kernel of ours in the process: gemm_test alone shows it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harness/base/host_device.h"
#include "harness/base/testing/test_seed.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

constexpr int kSteps = 3;
constexpr int kParts = 4;  // of the cases: a slow tool runs them side by side

/// Rows of a dense product. Above, the blocks of a cluster send each other their sums by bulk copies, which memcheck calls
/// "not located in remote CTA" and after which it lets no kernel run; skinny_test holds every bit of them.
constexpr int kMaxRows = 16;

/// The case with every dense product on a kernel of ours: sources cut so that all their tokens are at most kMaxRows.
CoverCase own(CoverCase c) {
  const auto longest = std::max<int32_t>(1, kMaxRows / static_cast<int32_t>(c.lengths.size()));
  for (int32_t& length : c.lengths) length = std::min(length, longest);
  c.kernel = "own";
  return c;
}

/// The case with widths that the own kernels read codes of: rows of 4 bits are whole 16 bytes at multiples of 32.
CoverCase aligned(CoverCase c) {
  c.config.d_model = round_up(c.config.d_model, 32);
  c.config.encoder.d_ff = round_up(c.config.encoder.d_ff, 32);
  c.config.decoder.d_ff = round_up(c.config.decoder.d_ff, 32);
  c.config.head_dim = round_up(c.config.head_dim, 32);
  return c;
}

std::vector<CoverCase> code_cases() {
  std::vector<CoverCase> cases;
  for (const CoverCase& c :
       covering_cases(test_seed_of_the_day() + 1,
                      on_this_card({Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16}),
                      {KvType::kSame, KvType::kFp8, KvType::kInt8}))
    cases.push_back(own(aligned(c)));
  return cases;
}

std::vector<CoverCase> plain_cases() {
  std::vector<CoverCase> cases;
  for (const CoverCase& c : covering_cases(
           test_seed_of_the_day(), {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16}))
    cases.push_back(own(c));
  // A batch that a covering array of small ones does not reach.
  const size_t small = cases.size();
  for (const Precision precision : {Precision::kFp16, Precision::kBf16}) {
    CoverCase wide = cases[static_cast<size_t>(precision) % small];
    wide.precision = precision;
    wide.lengths.assign(kMaxRows, 1);
    wide.text += fmt::format(", as {} of {} sources", precision_name(precision), kMaxRows);
    cases.push_back(own(std::move(wide)));
  }
  return cases;
}

void run_small(CudaEngine& engine, const CoverCase& cover) {
  const TransformerBatch batch = make_batch(cover.config, cover.lengths, kInputSeed);
  Case c = case_of(cover, Suite::kGenerate, kSteps);
  c.stop = cover.lengths.size() % 2 == 0 ? "eos" : "fixed";
  engine.load(c, cover.config, {.precision = cover.precision});
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

void run_part(const std::vector<CoverCase>& cases, int part) {
  ASSERT_GE(cases.size(), 40u);
  CudaEngine engine({.search_choices = false});
  for (size_t i = static_cast<size_t>(part); i < cases.size(); i += kParts) {
    SCOPED_TRACE(cases[i].text);
    ASSERT_NO_THROW(run_small(engine, cases[i]));
    ASSERT_FALSE(testing::Test::HasFatalFailure());
  }
}

class Sanitize : public testing::TestWithParam<int> {};

// Under a sanitizer: an access outside a buffer, a race in shared memory, a read of what nobody wrote, a barrier that not
// all threads reach. By itself: a kernel that leaves poison in its output.
TEST_P(Sanitize, SmallCasesOfPlainWeights) {
  TANDEM_NEED_DEVICE();
  run_part(plain_cases(), GetParam());
}

// The same of the kernels that read codes.
TEST_P(Sanitize, SmallCasesOfCodes) {
  TANDEM_NEED_DEVICE();
  run_part(code_cases(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Parts, Sanitize, testing::Range(0, kParts));

}  // namespace
}  // namespace tandem::kernels
