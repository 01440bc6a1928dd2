#include "harness/run/group_checks.h"

#include <gtest/gtest.h>

#include "harness/run/testing/fake_engine.h"
#include "harness/run/validate.h"

namespace tandem {
namespace {

using testing::FakeEngine;
using testing::Fault;

Case tiny(Suite suite, int batch = 2) {
  return {.suite = suite, .model = "tiny", .batch = batch, .src = 8, .tgt = 6};
}

/// Counts what a check makes an engine do.
class CountingEngine : public FakeEngine {
 public:
  explicit CountingEngine(std::string name, Fault fault = Fault::kNone)
      : FakeEngine(std::move(name), fault) {}
  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override {
    FakeEngine::load(c, config, form);
    loaded = c;
  }
  void untimed(bool on) override { untimed_ = on; }
  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override {
    ++passes;
    if (!untimed_) timed.push_back(c);
    return FakeEngine::prepare(c, batch);
  }
  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    ++passes;
    return FakeEngine::forced_logits(batch, tokens, steps);
  }
  std::optional<CheckResult> self_check(const Case& c, const TransformerBatch& batch) override {
    ++self_checks;
    return FakeEngine::self_check(c, batch);
  }

  Case loaded;
  int passes = 0, self_checks = 0;
  std::vector<Case> timed;  ///< prepared as what will be timed

 private:
  bool untimed_ = false;
};

/// The checks of one group: an engine, and references that count into one place.
struct Group {
  explicit Group(std::string name, double flops = 1e12, Fault fault = Fault::kNone)
      : engine(std::move(name), fault),
        checks(
            engine,
            [this] {
              auto made = std::make_unique<CountingEngine>("reference");
              reference = made.get();
              ++references;
              return made;
            },
            int64_t{1} << 20) {
    options.reference_flops = flops;
    options.shared = &checks;
  }
  Validation validate(const Case& c) { return tandem::validate(c, engine, options); }

  CountingEngine engine;
  CountingEngine* reference = nullptr;
  int references = 0;
  GroupChecks checks;
  ValidateOptions options;
};

/// As one process a case finds it.
Validation alone(const Case& c, double flops, Fault fault = Fault::kNone) {
  Group group(c.engine, flops, fault);
  group.options.shared = nullptr;
  group.options.reference = [] { return std::make_unique<FakeEngine>("reference", Fault::kNone); };
  return group.validate(c);
}

// Breaks when weights that are there already are made again, or weights that another case needs are not made at all.
TEST(HeldEngine, LoadsWhatIsNotThere) {
  CountingEngine engine("cuda");
  HeldEngine held(engine);
  const ModelConfig config = preset("tiny");
  const auto loads = [&](const Case& c, const ModelConfig& of, Precision form) {
    const int before = engine.loads;
    held.load(c, of, {.precision = form});
    return engine.loads - before;
  };
  Case c = tiny(Suite::kGenerate);
  EXPECT_EQ(loads(c, config, c.precision), 1);
  c.batch = 9, c.src = 3, c.tgt = 2, c.lengths = "ragged:0.5", c.stop = "eos";
  EXPECT_EQ(loads(c, config, c.precision), 0) << "lengths are no weights";
  EXPECT_EQ(loads(c, config, Precision::kFp16), 1) << "another form's values";
  EXPECT_EQ(loads(c, config, c.precision), 1);
  for (const auto& [axis_name, value] : {std::pair("weights", "seed:1"),
                                         {"kernel", "own"},
                                         {"memory", "gpu"},
                                         {"precision", "fp32"},
                                         {"kv", "fp8"},
                                         {"sparsity", "2:4"},
                                         {"allreduce", "nccl"},
                                         {"decode", "beam:2"}}) {
    Case other = c;
    axis(axis_name).set(other, value);
    EXPECT_EQ(loads(other, config, c.precision), 1) << axis_name;
    EXPECT_EQ(loads(c, config, c.precision), 1) << axis_name;
  }
  ModelConfig smaller = config;
  smaller.vocab -= 1;
  EXPECT_EQ(loads(c, smaller, c.precision), 1);
  held.forget();
  EXPECT_EQ(loads(c, smaller, c.precision), 1);
  // Over ranks a search goes by the rules of the loaded case.
  c.decode = "beam:2";
  EXPECT_EQ(loads(c, smaller, c.precision), 1);
  c.tgt = 3;
  EXPECT_EQ(loads(c, smaller, c.precision), 1);
}

// Breaks when a load that failed counts as one that is there.
TEST(HeldEngine, AFailedLoadLeavesNothing) {
  CountingEngine engine("cuda", Fault::kOutOfMemory);
  HeldEngine held(engine);
  for (int i = 0; i < 2; ++i)
    EXPECT_THROW(held.load(tiny(Suite::kDecoder), preset("tiny"), {}), OutOfMemory) << i;
  EXPECT_TRUE(held.loaded().empty());
}

// Breaks when the reference of a case is computed with the inputs that the case before it was compared with.
TEST(HeldEngine, InputsAreTheCasesOwnAgain) {
  class Inputful : public CountingEngine {
   public:
    Inputful() : CountingEngine("reference") {}
    bool take(Inputs inputs) override {
      now = inputs;
      return true;
    }
    Inputs now = Inputs::kOwn;
  } engine;
  HeldEngine held(engine);
  held.load(tiny(Suite::kDecoder), preset("tiny"), {});
  held.take(Inputs::kRounded);
  held.load(tiny(Suite::kDecoder), preset("tiny"), {});
  EXPECT_EQ(engine.now, Inputs::kOwn);
  EXPECT_EQ(engine.loads, 1);
}

// Breaks when a check that shares anything with others finds another thing than it does alone.
TEST(GroupChecks, FindWhatEachCaseFindsAlone) {
  for (const Fault fault : {Fault::kNone, Fault::kScale, Fault::kToken}) {
    for (const Suite suite : kModelSuites) {
      for (const double flops : {1e12, 1e4}) {
        for (const char* precision : {"fp32", "bf16"}) {
          Group group("cuda", flops, fault);
          for (const int batch : {2, 1, 2}) {
            for (const char* kernel : {"auto", "own"}) {
              Case c = tiny(suite, batch);
              c.kernel = kernel;
              c.precision = parse_precision(precision);
              EXPECT_EQ(validation_to_json(group.validate(c)), validation_to_json(alone(c, flops, fault)))
                  << case_name(c) << " fault " << static_cast<int>(fault) << " at " << flops;
            }
          }
        }
      }
    }
  }
}

// Breaks when the cases of a group load the same weights, compute the same truth or make the same reference once each.
TEST(GroupChecks, OneLoadAndOneTruthAGroup) {
  Group group("cuda");
  for (const char* kernel : {"auto", "own", "library"}) {
    Case c = tiny(Suite::kGenerate);
    c.kernel = kernel;
    ASSERT_EQ(group.validate(c).status, Status::kOk);
  }
  EXPECT_EQ(group.references, 1);
  EXPECT_EQ(group.reference->loads, 1);
  EXPECT_EQ(group.reference->passes, 1) << "the same text of the same sources";
  ASSERT_EQ(group.validate(tiny(Suite::kGenerate, 3)).status, Status::kOk);
  EXPECT_EQ(group.reference->loads, 1);
  EXPECT_EQ(group.reference->passes, 2) << "other sources";
}

// Breaks when each large case has its witness checked anew though it is the same, or its own weights and truth are not its own.
TEST(GroupChecks, OneWitnessForAllCasesThatHaveIt) {
  Group group("cuda", 1e4);
  Case c = tiny(Suite::kGenerate, 4);
  c.model = "transformer-base";
  const auto witness = [&] { return make_witness(c, preset(c.model), 1e4).c; };
  const Case first = witness();
  ASSERT_EQ(group.validate(c).status, Status::kOk);
  EXPECT_EQ(group.engine.loads, 3) << "witness, case, truth";
  const int of_reference = group.reference->passes;
  c.batch = 6;
  ASSERT_EQ(witness(), first);
  ASSERT_EQ(group.validate(c).status, Status::kOk);
  EXPECT_EQ(group.engine.loads, 5) << "case, truth";
  EXPECT_EQ(group.reference->passes, of_reference);
  EXPECT_EQ(group.checks.witnesses.size(), 1u);
}

// Breaks when an engine looks for the fastest kernels of what nobody times, or keeps the first ones for what somebody does.
TEST(GroupChecks, OnlyTheCaseItselfIsPreparedAsTimed) {
  for (const double flops : {1e12, 1e4}) {
    Group group("cuda", flops);
    const Case c = tiny(Suite::kDecoder, 4);
    ASSERT_EQ(group.validate(c).status, Status::kOk);
    EXPECT_EQ(group.engine.timed, std::vector<Case>{c}) << flops;
    EXPECT_GE(group.engine.passes, flops < 1e6 ? 3 : 1);
  }
}

// Breaks when a machine without a card waits for the same second way once for each way to choose tokens.
TEST(GroupChecks, OneSecondWayForAllRulesOfDecoding) {
  Group group("reference");
  for (const char* decode : {"greedy", "top_k:4"}) {
    for (const char* stop : {"fixed", "eos"}) {
      Case c = tiny(Suite::kGenerate);
      c.engine = "reference";
      c.decode = decode;
      c.stop = stop;
      ASSERT_EQ(group.validate(c).status, Status::kOk) << case_name(c);
    }
  }
  EXPECT_LE(group.engine.self_checks, 3);
}

// Breaks when truths of a long sweep fill the memory.
TEST(GroupChecks, TruthsAreBounded) {
  CountingEngine engine("cuda");
  GroupChecks checks(engine, {}, 100);
  std::vector<std::weak_ptr<const Output>> made;
  for (int i = 0; i < 5; ++i) {
    made.push_back(checks.truth(std::to_string(i), [] {
      Output out;
      out.values.resize(60);
      return out;
    }));
    int64_t values = 0;
    for (const auto& m : made) {
      if (const auto held = m.lock()) values += static_cast<int64_t>(held->values.size());
    }
    EXPECT_LE(values, 100);
  }
}

}  // namespace
}  // namespace tandem
