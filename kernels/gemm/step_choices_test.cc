// The forms of steps in the choice file.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "harness/base/error.h"
#include "kernels/gemm/choices.h"
#include "kernels/gemm/choices_test_util.h"

namespace tandem::kernels {
namespace {

const StepPlace kHere{{"A card", 130100}, "abc"};
const std::string kStep = "rows 64 src 128";
const StepChoice kForm{
    .form = {PhaseKind::kSelfOut, PhaseKind::kFfnDown}, .us = 950, .own_us = 1000, .library_us = 1011};

class StepChoices : public ChoicesFile {
 protected:
  void keep(const StepPlace& place, const std::string& step = kStep) const {
    GemmChoices choices(path_, GemmChoices::Mode::kSearch);
    choices.put_step(place, step, kForm);
    choices.save();
  }
  std::string text() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
};

// Breaks when the worker that times a case runs other kernels than the one that checked it, or the record's digest does not know.
TEST_F(StepChoices, AreFoundAgain) {
  keep(kHere);
  const GemmChoices again(path_, GemmChoices::Mode::kReadOnly);
  EXPECT_EQ(again.find_step(kHere, kStep), kForm);
  EXPECT_EQ(again.size(), 1u);
  EXPECT_FALSE(again.find_step(kHere, "rows 64 src 512")) << "another step";
  EXPECT_NE(again.sha256(), GemmChoices().sha256());
}

// Breaks when a form of another card, library version or build is believed, when that is not said, or said for every step.
TEST_F(StepChoices, OfAnotherPlaceAreIgnoredWithOneLineAndMadeAnew) {
  for (const char* word : {"another card", "another version of cuBLAS", "another build"}) {
    StepPlace place = kHere;
    if (word[8] == 'c') place.gemm.card = "B card";
    if (word[8] == 'v') place.gemm.cublas = 130200;
    if (word[8] == 'b') place.build = "abd";
    std::filesystem::remove(path_);
    keep(place);
    keep(place, "rows 8 src 128");
    GemmChoices choices(path_, GemmChoices::Mode::kSearch);
    ::testing::internal::CaptureStderr();
    EXPECT_FALSE(choices.find_step(kHere, kStep));
    EXPECT_FALSE(choices.find_step(kHere, "rows 8 src 128"));
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(said.find(path_ + ": forms of steps from " + word + " are ignored"), std::string::npos) << said;
    EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    choices.put_step(kHere, kStep, kForm);
    choices.save();
    const GemmChoices again(path_, GemmChoices::Mode::kReadOnly);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(again.find_step(kHere, kStep), kForm);
    EXPECT_EQ(again.find_step(place, kStep), kForm) << "a duet's other side has it still";
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  }
}

// Breaks when one worker's save removes what another found, or a step's forms the algorithms.
TEST_F(StepChoices, SaveMerges) {
  GemmChoices first(path_, GemmChoices::Mode::kSearch);
  GemmChoices second(path_, GemmChoices::Mode::kSearch);
  const GemmProblem problem{.m = 64, .n = 3072, .k = 1024};
  first.put_step(kHere, kStep, kForm);
  first.put(kHere.gemm, problem, {.us = 5, .description = "algo 66"});
  second.put_step(kHere, "rows 1 src 128", kForm);
  first.save();
  second.save();
  const GemmChoices both(path_, GemmChoices::Mode::kReadOnly);
  EXPECT_EQ(both.find_step(kHere, kStep), kForm);
  EXPECT_EQ(both.find_step(kHere, "rows 1 src 128"), kForm);
  EXPECT_TRUE(both.find(kHere.gemm, problem));
  EXPECT_EQ(both.size(), 3u);
}

// Breaks when a damaged form is believed in part: a kind that is no product, a time that is no number, no build.
TEST_F(StepChoices, DamagedOnesAreRebuilt) {
  keep(kHere);
  const std::string good = text();
  for (const auto& [from, to] : {std::pair{"\"ffn.down\"", "\"ffn.sideways\""},
                                 {"\"us\": 950.0", "\"us\": \"fast\""},
                                 {"\"build\"", "\"builder\""},
                                 {"\"forms\"", "\"formes\""}}) {
    std::string damaged = good;
    ASSERT_NE(damaged.find(from), std::string::npos) << from << good;
    damaged.replace(damaged.find(from), std::string(from).size(), to);
    write(damaged);
    ::testing::internal::CaptureStderr();
    const GemmChoices choices(path_, GemmChoices::Mode::kSearch);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find("ignored and rebuilt"), std::string::npos) << to;
    EXPECT_EQ(choices.size(), 0u) << to;
    EXPECT_THROW(GemmChoices(path_, GemmChoices::Mode::kReadOnly), IoError) << to;
  }
}

// Breaks when a file from before there were forms of steps is thrown away, or a worker that only times adds one.
TEST_F(StepChoices, OldFilesAndReadOnlyOnes) {
  write("{\"schema\": \"tandem-gemm-choices/1\", \"places\": []}");
  GemmChoices choices(path_, GemmChoices::Mode::kReadOnly);
  EXPECT_FALSE(choices.find_step(kHere, kStep));
  EXPECT_THROW(choices.put_step(kHere, kStep, kForm), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
