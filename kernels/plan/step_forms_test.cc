#include "kernels/plan/step_forms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "kernels/plan/kernel_check.h"

namespace tandem::kernels {
namespace {

using enum PhaseKind;

const StepForm kAll{kSelfQkv, kSelfOut, kCrossQkv, kCrossOut, kFfnUp, kFfnDown, kHead};

/// A step without a card. Each time is off by a little, as on a card.
struct FakeStep {
  double own_us = 1000;
  double library_us = 1100;
  double noise = 0;
  int times = 0;

  double truth(const StepForm& form) const { return form.empty() ? own_us : library_us; }
  TimeForms stopwatch() {
    return [this](const std::vector<StepForm>& forms) {
      std::vector<double> us;
      us.reserve(forms.size());
      for (const StepForm& form : forms) us.push_back(truth(form) * (1 + noise * std::sin(++times)));
      return us;
    };
  }
};

// Breaks when the faster side is not taken, or what both took is not told.
TEST(StepForms, TheFasterSideIsTaken) {
  FakeStep step;
  EXPECT_EQ(race_forms(kAll, step.stopwatch(), step.stopwatch()),
            (StepForms{.form = {}, .us = 1000, .own_us = 1000, .library_us = 1100}));
  step.library_us = 900;
  EXPECT_EQ(race_forms(kAll, step.stopwatch(), step.stopwatch()),
            (StepForms{.form = kAll, .us = 900, .own_us = 1000, .library_us = 900}));
}

// Breaks when a difference that two races of one step have switches kernels: two builds of the same kernels would differ by it in a
// duet, and numerics would change from run to run for nothing.
TEST(StepForms, OwnKernelsStayForLittle) {
  for (int trial = 0; trial < 1000; ++trial) {
    FakeStep step{.library_us = 990, .noise = 0.004, .times = 31 * trial};
    EXPECT_EQ(race_forms(kAll, step.stopwatch(), step.stopwatch()).form, StepForm{}) << trial;
  }
}

// Breaks when `auto` can be more than 3 % slower than the better of own kernels and the library, with times that are off by half a
// percent.
TEST(StepForms, NeverThreePercentSlowerThanTheBetterOfBoth) {
  for (int trial = 0; trial < 1000; ++trial) {
    FakeStep step{.library_us = 1000 + 100 * std::sin(7.0 * trial), .noise = 0.005, .times = 31 * trial};
    const StepForms chosen = race_forms(kAll, step.stopwatch(), step.stopwatch());
    EXPECT_LE(step.truth(chosen.form), 1.03 * std::min(step.own_us, step.library_us)) << trial;
  }
}

// Breaks when the library's algorithms are searched for where it loses by far, or it is judged by its first suggestions where it does not.
TEST(StepForms, ASearchIsMadeWhereItCouldWin) {
  FakeStep first{.library_us = 1160}, best{.library_us = 960};
  EXPECT_EQ(race_forms(kAll, first.stopwatch(), best.stopwatch()).library_us, 1160);
  EXPECT_EQ(best.times, 0);
  first.library_us = 1100;
  EXPECT_EQ(race_forms(kAll, first.stopwatch(), best.stopwatch()).form, kAll);
  EXPECT_EQ(best.times, 2);
}

// Breaks when a step without anything to switch is timed.
TEST(StepForms, NothingToSwitch) {
  FakeStep step;
  EXPECT_EQ(race_forms({}, step.stopwatch(), step.stopwatch()), StepForms{});
  EXPECT_EQ(step.times, 0);
}

PlanRequest request(const char* model, int batch, Precision precision = Precision::kBf16) {
  const ModelConfig config = preset(model);
  // Views are never read, so any address will do.
  return {.config = config,
          .weights = bind_weights(weight_layout(config, {.precision = precision}),
                                  reinterpret_cast<const void*>(4096)),
          .precision = precision,
          .batch = batch,
          .source_tokens = 16 * batch,
          .max_source = 16,
          .capacity = 8,
          .auto_own_rows = kAutoWideRows};
}

// Breaks when a product that both compute is not raced, or one that only one of them should.
TEST(StepForms, WhatIsRaced) {
  EXPECT_EQ(raced_kinds(build_plan(request("transformer-big", 64))), kAll);
  EXPECT_EQ(raced_kinds(build_plan(request("t5-3b", 1))), kAll);
  EXPECT_EQ(raced_kinds(build_plan(request("transformer-big", 65))), StepForm{}) << "no own products";
  EXPECT_EQ(raced_kinds(build_plan(request("transformer-big", 8, Precision::kW8a16))), StepForm{})
      << "the library has no product of these codes";
  EXPECT_EQ(raced_kinds(build_plan(request("transformer-big", 8, Precision::kInt8))), StepForm{});
}

/// Is a kind of a section as it is without a race, in all layers?
std::map<PhaseKind, std::set<bool>> unswitched(const StepPlan& plan, PlanSection section) {
  std::map<PhaseKind, std::set<bool>> as_is;
  const OpRange range = plan.section(section);
  for (int i = range.first; i < range.last; ++i) {
    const PlanOp& op = plan.ops[static_cast<size_t>(i)];
    if (const auto* dense = std::get_if<DenseOp>(&op.body))
      as_is[op.phase.kind].insert(dense->kernel == DenseKernel::kSkinny);
    if (std::holds_alternative<HeadOp>(op.body)) as_is[op.phase.kind].insert(true);
  }
  return as_is;
}

// Breaks when a switched kind takes another with it, when one of its layers stays, or when the encoder is touched.
TEST(StepForms, AFormSwitchesItsKindsAndNothingElse) {
  for (const char* model : {"transformer-big", "t5-3b", "bart-large"}) {
    const StepPlan today = build_plan(request(model, 32));
    for (const PhaseKind kind : kAll) {
      PlanRequest switched = request(model, 32);
      switched.step_form = {kind};
      const StepPlan plan = build_plan(switched);
      EXPECT_NO_THROW(check_kernels(plan)) << model << " " << phase_name(kind);
      for (const auto& [of, as_is] : unswitched(plan, PlanSection::kStep))
        EXPECT_EQ(as_is, std::set<bool>{of != kind}) << model << " " << phase_name(of);
      EXPECT_EQ(unswitched(plan, PlanSection::kEncoder), unswitched(today, PlanSection::kEncoder)) << model;
      EXPECT_NE(plan_text(plan), plan_text(today)) << phase_name(kind) << " does not show";
      switched.kernel = KernelChoice::kOwn;
      for (const auto& [of, as_is] : unswitched(build_plan(switched), PlanSection::kStep))
        EXPECT_EQ(as_is, std::set<bool>{true}) << "kernel own is own, " << phase_name(of);
    }
  }
}

// Breaks when a record does not say which kernels ran: in one form, in another, and where a shape has no own kernel.
TEST(StepForms, TheRecordSaysWhichKernelsRan) {
  const auto says = [](const StepPlan& plan, const char* line) {
    return std::ranges::count(kernel_lines(plan), std::string(line));
  };
  PlanRequest r = request("transformer-big", 32);
  EXPECT_EQ(says(build_plan(r), "encoder ffn.up: library"), 1) << "512 tokens";
  EXPECT_EQ(says(build_plan(r), "decoder ffn.down: own"), 1);
  EXPECT_EQ(says(build_plan(r), "decoder head: own"), 1);
  r.step_form = {kFfnDown, kHead};
  const StepPlan plan = build_plan(r);
  EXPECT_EQ(says(plan, "decoder ffn.down: library"), 1);
  EXPECT_EQ(says(plan, "decoder ffn.down: own"), 0);
  EXPECT_EQ(says(plan, "decoder ffn.up: own"), 1);
  EXPECT_EQ(says(plan, "decoder head: library"), 1);
  EXPECT_EQ(says(build_plan(request("transformer-big", 65)), "decoder ffn.down: library"), 1);
}

/// The model with its weights in a form.
PlanRequest request_of(const ModelConfig& config, const WeightForm& form = {.precision = Precision::kBf16}) {
  PlanRequest r = request("transformer-big", 64);
  r.config = config;
  r.precision = form.precision;
  r.weights = bind_weights(weight_layout(config, form), reinterpret_cast<const void*>(8192));
  return r;
}

// Breaks when steps of other sizes share a choice: source lengths, for one, change which kernels are the faster ones.
TEST(StepForms, AStepIsNamedByItsSizes) {
  const PlanRequest base = request("transformer-big", 64);
  std::set<std::string> names{step_text(base)};
  EXPECT_EQ(*names.begin(),
            "rows 64 src 16 tokens 1024 tgt 8 layers 6 d 1024 heads 16 x 64 ff 4096 vocab 32000 post layer "
            "sinusoidal relu bias bf16 kv bf16 weights bf16,bf16 greedy");
  EXPECT_EQ(step_text(request_of(base.config)), *names.begin()) << "where the weights lie does not count";
  PlanRequest other = base;
  other.max_source = 512;
  EXPECT_TRUE(names.insert(step_text(other)).second);
  other = base;
  other.capacity = 9;
  EXPECT_TRUE(names.insert(step_text(other)).second);
  other = base;
  other.kv = KvType::kFp8;
  EXPECT_TRUE(names.insert(step_text(other)).second);
  for (const char* model : {"bart-large", "t5-large", "t5-3b"})
    EXPECT_TRUE(names.insert(step_text(request(model, 64))).second) << model;
}

// Breaks when two models that are equal in all sizes share a choice although their steps run other kernels.
TEST(StepForms, AStepIsNamedByItsKernels) {
  const ModelConfig config = preset("transformer-big");
  std::map<std::string, std::string> names{{step_text(request_of(config)), "as it is"}};
  const auto differs = [&](const char* what, const PlanRequest& r) {
    const auto [at, is_new] = names.emplace(step_text(r), what);
    EXPECT_TRUE(is_new) << what << " is as " << at->second;
  };
  const auto changed = [&](const char* what, auto&& change) {
    ModelConfig other = config;
    change(other);
    differs(what, request_of(other));
  };
  changed("activation", [](ModelConfig& c) { c.activation = Activation::kGelu; });
  changed("gated", [](ModelConfig& c) { c.gated = true; });
  changed("bias", [](ModelConfig& c) { c.bias = false; });
  changed("head_bias", [](ModelConfig& c) { c.head_bias = true; });
  changed("norm", [](ModelConfig& c) { c.norm = Norm::kRms; });
  changed("placement", [](ModelConfig& c) { c.placement = NormPlacement::kPre; });
  changed("final_norm", [](ModelConfig& c) { c.final_norm = true; });
  changed("embedding_norm", [](ModelConfig& c) { c.embedding_norm = true; });
  changed("learned", [](ModelConfig& c) { c.position = Position::kLearned; });
  changed("relative", [](ModelConfig& c) { c.position = Position::kRelative; });
  changed("relative, far", [](ModelConfig& c) {
    c.position = Position::kRelative;
    c.relative_max_distance = 256;
  });
  for (const Precision p : {Precision::kFp16, Precision::kFp8, Precision::kW8a16})
    differs("precision", request_of(config, {.precision = p}));
  differs("head", request_of(config, {.precision = Precision::kFp8, .head = HeadStorage::k16Bit}));
  differs("2:4", request_of(config, {.precision = Precision::kBf16, .sparsity = {.two_of_four = true}}));
  PlanRequest other = request_of(config);
  other.stop_at_eos = true;
  differs("eos", other);
  other = request_of(config);
  other.generation = GenerationConfig{};
  differs("rules", other);
  other.generation->sample = true;
  differs("a sample", other);
  // As many rows, of fewer sources.
  other.batch = 16;
  other.generation->beams = 4;
  differs("beams", other);
  other.generation->beams = 1;
  other.generation->n_best = 4;
  differs("samples", other);

  ModelConfig same = config;
  same.name = "another";
  same.norm_eps = 1e-6;
  same.attention_scale = 1;
  same.eos_id = 2;
  same.encoder.layers = 3;
  EXPECT_EQ(step_text(request_of(same)), step_text(request_of(config))) << "no kernel of the step is another";
}

}  // namespace
}  // namespace tandem::kernels
