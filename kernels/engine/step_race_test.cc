// `kernel: auto` with steps that race their own products against the library's.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/engine/engine_test_util.h"
#include "kernels/gemm/choices_test_util.h"
#include "kernels/plan/step_forms.h"

namespace tandem::kernels {
namespace {

constexpr int kSteps = 8;
constexpr double kApart = 2e-2;  // two forms of one step: the tolerance of bf16

/// A model that is raced, and one engine after another on one choice file.
class StepRace : public ChoicesFile {
 protected:
  void SetUp() override {
    ChoicesFile::SetUp();
    cover_ = tiny_case(Precision::kBf16, std::vector<int32_t>(24, 9));
    batch_ = make_batch(cover_.config, cover_.lengths, kInputSeed);
  }

  struct Ran {
    StepForm as_is;  ///< kinds of the step that are not switched
    Output output;
    Output forced;
    std::string sha256;
  };
  Ran run(CudaEngineOptions options, bool untimed = false, const char* build = "b1") {
    std::optional<StepPlan> plan;
    options.edit_plan = [&](StepPlan& p) {
      if (p.capacity > 0) plan = p;
    };
    options.build = [build] { return std::string(build); };
    CudaEngine engine(options);
    engine.untimed(untimed);
    const Case c = case_of(cover_, Suite::kGenerate, kSteps);
    engine.load(c, cover_.config, {.precision = cover_.precision});
    const auto workload = engine.prepare(c, batch_);
    Ran ran{
        .as_is = raced_kinds(plan.value()), .output = {}, .forced = {}, .sha256 = engine.choices_sha256()};
    workload->repeat();
    ran.output = workload->output();
    const std::vector<int32_t> fed(static_cast<size_t>(batch_.size()) * kSteps, 5);
    plan.reset();
    ran.forced = engine.forced_logits(batch_, fed, kSteps);
    EXPECT_EQ(raced_kinds(plan.value()), ran.as_is) << "what is checked is another step than what is timed";
    return ran;
  }
  std::string step() const {
    return step_text({.config = cover_.config,
                      .weights = bind_weights(weight_layout(cover_.config, {.precision = cover_.precision}),
                                              reinterpret_cast<const void*>(4096)),  // never read
                      .precision = cover_.precision,
                      .batch = batch_.size(),
                      .source_tokens = batch_.tokens(),
                      .max_source = batch_.longest,
                      .capacity = kSteps});
  }

  CoverCase cover_;
  TransformerBatch batch_;
};

// Breaks when a form of the file is not the one that runs, or when own and library products of one step do not go together on a
// card: the residual stream changes its type, norms become kernels, the head stores its logits.
TEST_F(StepRace, AStepRunsInTheFormOfTheFile) {
  TANDEM_NEED_DEVICE();
  const Ran own = run({});
  const GemmPlace place = CublasLt().place();
  std::vector<StepForm> forms{own.as_is};
  for (const PhaseKind kind : own.as_is) forms.push_back({kind});
  for (const StepForm& form : forms) {
    GemmChoices choices(path_, GemmChoices::Mode::kSearch);
    choices.put_step({place, "b1"}, step(), {.form = form});
    choices.save();
    const Ran ran = run({.choices_path = path_, .race_steps = true});
    for (const PhaseKind kind : own.as_is) {
      EXPECT_EQ(std::ranges::count(ran.as_is, kind), 1 - std::ranges::count(form, kind)) << phase_name(kind);
    }
    EXPECT_LE(relative_l2(ran.forced.values, own.forced.values), kApart) << phase_name(form.front());
  }
}

// Breaks when the worker that times a case finds another form than the one that checked it raced, or races again; or when a file
// of another build is believed.
TEST_F(StepRace, ARaceIsKeptAndFoundAgain) {
  TANDEM_NEED_DEVICE();
  const Ran first = run({.choices_path = path_, .race_steps = true});
  const GemmPlace place = CublasLt().place();
  const auto kept = GemmChoices(path_, GemmChoices::Mode::kReadOnly).find_step({place, "b1"}, step());
  ASSERT_TRUE(kept);
  EXPECT_GT(kept->us, 0);
  EXPECT_LE(kept->us, 1.03 * std::min(kept->own_us, kept->library_us));
  for (const PhaseKind kind : kept->form) EXPECT_EQ(std::ranges::count(first.as_is, kind), 0);
  const Ran again = run({.choices_path = path_, .choices_read_only = true, .race_steps = true});
  EXPECT_EQ(again.as_is, first.as_is);
  EXPECT_EQ(again.sha256, first.sha256);
  EXPECT_EQ(again.forced.values, first.forced.values);
  EXPECT_EQ(again.output.tokens, first.output.tokens);

  ::testing::internal::CaptureStderr();
  run({.choices_path = path_, .race_steps = true}, false, "b2");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("from another build are ignored"), std::string::npos) << said;
  EXPECT_TRUE(GemmChoices(path_, GemmChoices::Mode::kReadOnly).find_step({place, "b2"}, step()));
}

// Breaks when a step is raced that nobody asked for, or one that `kernel` has decided.
TEST_F(StepRace, OnlyWhereItIsAskedFor) {
  TANDEM_NEED_DEVICE();
  const auto raced = [&](bool race, const char* kernel, bool untimed = false) {
    std::filesystem::remove(path_);
    cover_.kernel = kernel;
    run({.choices_path = path_, .race_steps = race}, untimed);
    return GemmChoices(path_, GemmChoices::Mode::kSearch).text().find("\"steps\"") != std::string::npos;
  };
  EXPECT_FALSE(raced(false, "auto"));
  EXPECT_FALSE(raced(true, "own"));
  EXPECT_FALSE(raced(true, "library"));
  EXPECT_FALSE(raced(true, "auto", true)) << "a witness, which nobody times";
  EXPECT_TRUE(raced(true, "auto"));
}

}  // namespace
}  // namespace tandem::kernels
