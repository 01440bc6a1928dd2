#include "harness/run/validate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harness/run/case_cost.h"
#include "harness/run/testing/fake_engine.h"

namespace tandem {
namespace {

using testing::FakeEngine;
using testing::Fault;

Case tiny_case(Suite suite) {
  Case c;
  c.suite = suite;
  c.model = "tiny";
  c.batch = 2;
  c.src = 8;
  c.tgt = 6;
  c.precision = Precision::kFp32;
  return c;
}

Validation validate_case(Fault fault, const Case& c, double reference_flops = 1e12) {
  FakeEngine engine("cuda", fault);
  ValidateOptions options;
  options.reference_flops = reference_flops;
  const bool lossy = fault == Fault::kLossy || fault == Fault::kCannotRound;
  options.reference = [=] { return std::make_unique<FakeEngine>("reference", lossy ? fault : Fault::kNone); };
  return validate(c, engine, options);
}

Validation validate_with(Fault fault, Suite suite, double reference_flops = 1e12) {
  return validate_case(fault, tiny_case(suite), reference_flops);
}

// Breaks when a right engine is refused, or its digest is missing.
TEST(Validate, RightEnginePasses) {
  for (Suite suite : kModelSuites) {
    const Validation v = validate_with(Fault::kNone, suite);
    EXPECT_EQ(v.status, Status::kOk) << v.reason.value_or("");
    ASSERT_TRUE(v.check);
    EXPECT_EQ(v.check->digest->size(), 64u);
    EXPECT_EQ(v.check->error, 0.0);
  }
}

// Breaks when a wrong scale, a NaN or a wrong token passes.
TEST(Validate, WrongEnginesAreInvalid) {
  for (Fault fault : {Fault::kScale, Fault::kNan}) {
    for (Suite suite : {Suite::kDecoder, Suite::kGenerate}) {
      EXPECT_EQ(validate_with(fault, suite).status, Status::kInvalid) << static_cast<int>(fault);
    }
  }
  const Validation v = validate_with(Fault::kToken, Suite::kGenerate);
  EXPECT_EQ(v.status, Status::kInvalid);
  EXPECT_NE(v.reason->find("step 2"), std::string::npos) << *v.reason;
}

// Breaks when a search or a draw that goes wrong gets a time, or one that rounding alone turned does not.
TEST(Validate, SearchedAndDrawnSequencesAreCompared) {
  Case c = tiny_case(Suite::kGenerate);
  c.precision = Precision::kBf16;
  c.decode = "beam:3";
  for (const double flops :
       {1e12, 1e4}) {  // whole, and a witness (whose batch may be too small to show a fault)
    EXPECT_EQ(validate_case(Fault::kNone, c, flops).status, Status::kOk);
  }
  const Validation near = validate_case(Fault::kNearSearch, c);
  EXPECT_EQ(near.status, Status::kOk);
  EXPECT_EQ(near.check->tokens_compared, 2);
  EXPECT_EQ(near.check->tokens_excused, 1);
  const Validation wrong = validate_case(Fault::kSearch, c);
  EXPECT_EQ(wrong.status, Status::kInvalid);
  EXPECT_NE(wrong.reason->find("decode: 1 of 2 sequences differ"), std::string::npos) << *wrong.reason;
  EXPECT_EQ(wrong.check->tokens_equal, false);
  // One draw may fall on a border; two of three may not.
  c.decode = "top_k:4";
  EXPECT_EQ(validate_case(Fault::kSearch, c).status, Status::kOk);
  c.batch = 3;
  EXPECT_EQ(validate_case(Fault::kSearch, c).status, Status::kInvalid);
  EXPECT_EQ(validate_case(Fault::kScale, c).status, Status::kInvalid);
}

// Breaks when a NaN error becomes a number in the record, or invalid JSON.
TEST(Validate, NanErrorIsAbsentNotZero) {
  const Validation v = validate_with(Fault::kNan, Suite::kDecoder);
  EXPECT_FALSE(v.check->error);
  EXPECT_TRUE(validation_to_json(v).at("check").at("error").is_null());
}

// Breaks when a large case skips either of its two checks: witness, then full size.
TEST(Validate, LargeCaseUsesWitnessAndFullSize) {
  const Validation v = validate_with(Fault::kNone, Suite::kGenerate, /*reference_flops=*/1e3);
  EXPECT_EQ(v.status, Status::kOk) << v.reason.value_or("");
  EXPECT_EQ(v.check->reference, "reference on a witness + library kernels");
  EXPECT_EQ(validate_with(Fault::kScale, Suite::kGenerate, 1e3).status, Status::kInvalid);
}

// Breaks when an exception of the engine kills the pass instead of becoming the case's status.
TEST(Validate, ExceptionsBecomeStatuses) {
  EXPECT_EQ(validate_with(Fault::kOutOfMemory, Suite::kDecoder).status, Status::kOom);
  EXPECT_EQ(validate_with(Fault::kImpossible, Suite::kDecoder).status, Status::kSkipped);
}

// Breaks when the reference is taken on trust.
TEST(Validate, ReferenceChecksItself) {
  Case c = tiny_case(Suite::kDecoder);
  c.engine = "reference";
  FakeEngine good("reference", Fault::kNone), bad("reference", Fault::kSelfCheck);
  EXPECT_EQ(validate(c, good, {}).status, Status::kOk);
  EXPECT_EQ(validate(c, bad, {}).status, Status::kInvalid);
}

// Breaks when a quantised case is judged by a tolerance that is not its own, or the record does not say how that was made.
TEST(Validate, QuantisedCasesAreJudgedByWhatRoundingChanges) {
  for (Suite suite : {Suite::kEncoder, Suite::kDecoder, Suite::kGenerate}) {
    for (const auto& [precision, kv] : {std::pair("fp8", "same"), {"int8", "16bit"}, {"bf16", "int8"}}) {
      Case c = tiny_case(suite);
      c.precision = parse_precision(precision);
      c.kv = kv;
      SCOPED_TRACE(case_name(c));
      const bool activations = c.precision != Precision::kBf16;
      const Validation v = validate_case(Fault::kRounding, c);
      ASSERT_EQ(v.status, Status::kOk) << v.reason.value_or("");
      EXPECT_NEAR(*v.check->tolerance,
                  activations ? 2 * FakeEngine::kQuantisingChange : 4 * FakeEngine::kRoundingChange, 1e-6);
      EXPECT_NEAR(*v.check->error, 3 * FakeEngine::kRoundingChange, 1e-6);
      EXPECT_EQ(v.check->reference,
                fmt::format("reference (rounding its activations to bf16 changes it by 0.000977{})",
                            activations ? ", quantising them by 0.00171" : ""));
      EXPECT_EQ(validate_case(Fault::kTooWrong, c).status, Status::kInvalid);
      EXPECT_EQ(validate_case(Fault::kNan, c).status, Status::kInvalid);
      EXPECT_EQ(validate_case(Fault::kCannotRound, c).status, Status::kError);
    }
  }
}

// Breaks when a form of 8- or 4-bit weights, whose activations are plain, is not held to bf16's tolerance.
TEST(Validate, WeightOnlyFormsHaveTheToleranceOfTheirActivations) {
  EXPECT_EQ(tolerance(Precision::kW8a16, 12), tolerance(Precision::kBf16, 12));
  EXPECT_EQ(tolerance(Precision::kW4a16, 2), tolerance(Precision::kBf16, 2));
  EXPECT_THROW(tolerance(Precision::kFp8, 2), Error);
  Case c = tiny_case(Suite::kDecoder);
  c.precision = Precision::kW4a16;
  EXPECT_EQ(validate_case(Fault::kTooWrong, c).check->tolerance, 2e-2);
}

// A quantised case that is too large for the reference is held to two tolerances: its witness to the reference's rounding,
// the whole to 4 times what the witness is from its own fp32.
// Breaks when either is left out, or the second is as tight as if fp32 quantised too.
TEST(Validate, LargeQuantisedCases) {
  Case c = tiny_case(Suite::kDecoder);
  c.precision = Precision::kInt8;
  const Validation v = validate_case(Fault::kLossy, c, 1e4);
  ASSERT_EQ(v.status, Status::kOk) << v.reason.value_or("");
  EXPECT_EQ(
      v.check->reference,
      "reference on a witness (rounding its activations to bf16 changes it by 0.000977, quantising them by "
      "0.00171) + fp32 on the card (the witness is 0.00171 from its own)");
  EXPECT_NEAR(*v.check->tolerance, 4 * FakeEngine::kQuantisingChange, 1e-6);
  EXPECT_EQ(validate_case(Fault::kScale, c, 1e4).status, Status::kInvalid);
  EXPECT_EQ(validate_case(Fault::kTooWrong, c, 1e4).status, Status::kInvalid);
}

// Breaks when a lossy form passes and nothing says what it costs, or what is said is not of the dense fp32 model.
TEST(Validate, LossyCasesStateTheirAccuracy) {
  for (Suite suite : {Suite::kEncoder, Suite::kDecoder, Suite::kGenerate}) {
    Case c = tiny_case(suite);
    EXPECT_FALSE(validate_case(Fault::kLossy, c).accuracy) << "nothing lossy was asked for";
    c.kv = "fp8";
    for (const double flops : {1e12, 1e4}) {
      const Validation v = validate_case(Fault::kLossy, c, flops);
      ASSERT_EQ(v.status, Status::kOk) << v.reason.value_or("");
      ASSERT_TRUE(v.accuracy);
      EXPECT_GT(v.accuracy->relative_error, 0);
      EXPECT_LT(v.accuracy->relative_error, 1e-5);
      EXPECT_TRUE(v.accuracy->synthetic_weights);
      const bool logits = suite != Suite::kEncoder;
      EXPECT_EQ(v.accuracy->teacher_forced, logits);
      EXPECT_EQ(v.accuracy->tokens_agree, logits ? std::optional(1.0) : std::nullopt);
      EXPECT_EQ(v.accuracy->free_tokens_agree, logits ? std::optional(1.0) : std::nullopt);
      EXPECT_EQ(v.accuracy->kl.has_value(), logits);
    }
    EXPECT_EQ(validate_case(Fault::kNone, c).accuracy->relative_error, 0);
  }
}

// Breaks when a lossy case whose dense fp32 model nobody could compute is timed all the same.
TEST(Validate, ALossyCaseWithoutAccuracyIsRefused) {
  Case c = tiny_case(Suite::kDecoder);
  c.sparsity = "2:4";
  const Validation v = validate_case(Fault::kNoDense, c);
  EXPECT_EQ(v.status, Status::kError);
  EXPECT_FALSE(v.accuracy);
  EXPECT_NE(v.reason->find("accuracy: missing"), std::string::npos) << *v.reason;
  EXPECT_NE(v.reason->find("(the dense fp32 model: out of memory"), std::string::npos) << *v.reason;
}

// Breaks when the reference itself may run a lossy case without its accuracy.
TEST(Validate, TheReferenceStatesItsAccuracyToo) {
  Case c = tiny_case(Suite::kGenerate);
  c.engine = "reference";
  c.kv = "int8";
  FakeEngine engine("reference", Fault::kLossy);
  const Validation v = validate(c, engine, {});
  ASSERT_EQ(v.status, Status::kOk) << v.reason.value_or("");
  EXPECT_GT(v.accuracy->relative_error, 0);
}

// Breaks when an operation that fails its own check is timed.
TEST(Validate, OperationsCheckThemselves) {
  EXPECT_EQ(validate_with(Fault::kNone, Suite::kLimits).status, Status::kOk);
  EXPECT_EQ(validate_with(Fault::kNan, Suite::kLimits).status, Status::kInvalid);
}

// Breaks when a witness keeps the size that made it necessary, or cuts what picks the kernels.
TEST(Validate, WitnessFitsItsBudget) {
  Case c;
  c.suite = Suite::kGenerate;
  c.model = "transformer-big";
  c.batch = 64;
  c.src = 512;
  const ModelConfig config = preset("transformer-big");
  const Witness w = make_witness(c, config, 3e9);
  EXPECT_LE(case_cost(w.c, w.config).flops(), 3e9);
  EXPECT_EQ(w.config.d_model, config.d_model);
  EXPECT_EQ(w.config.head_dim, config.head_dim);
  EXPECT_EQ(w.config.encoder.layers, 2);
  EXPECT_GT(w.c.batch, 1);
}

// Breaks when a tie within the logit error is called wrong, or a real difference is excused.
TEST(CompareTokens, ExcusesOnlyWhatTheErrorExplains) {
  Output truth, own;
  truth.rows = own.rows = 1;
  truth.cols = own.cols = 4;
  truth.values = {0.0f, 1.0f, 1.01f, 0.5f};
  own.values = {0.0f, 1.02f, 1.0f, 0.5f};
  const std::vector<int32_t> near = {1}, far = {3}, outside = {9};
  auto grid = [](const std::vector<int32_t>& t) {
    return TokenGrid{.tokens = t, .batch = 1, .steps = 1, .stride = 1};
  };
  EXPECT_EQ(compare_tokens(grid(near), own, truth).excused, 1);
  EXPECT_EQ(compare_tokens(grid(near), own, truth).wrong, 0);
  EXPECT_EQ(compare_tokens(grid(far), own, truth).wrong, 1);
  EXPECT_EQ(compare_tokens(grid(outside), own, truth).wrong, 1);
}

// Breaks when a line of validation.jsonl does not come back as it was written.
TEST(Validate, LineRoundTrip) {
  const Validation v = validate_with(Fault::kToken, Suite::kGenerate);
  const Validation back = validation_from_json(nlohmann::json::parse(validation_to_json(v).dump()));
  EXPECT_EQ(back.id, v.id);
  EXPECT_EQ(back.status, v.status);
  EXPECT_EQ(back.reason, v.reason);
  EXPECT_EQ(back.check->tokens_compared, v.check->tokens_compared);
  EXPECT_THROW(validation_from_json({{"id", "x"}}), UsageError);

  Case c = tiny_case(Suite::kDecoder);
  c.kv = "fp8";
  nlohmann::json lossy = validation_to_json(validate_case(Fault::kLossy, c));
  EXPECT_EQ(validation_to_json(validation_from_json(lossy)), lossy);
  lossy["accuracy"]["logits"] = 1;
  EXPECT_THROW(validation_from_json(lossy), UsageError);
  lossy.erase("accuracy");
  EXPECT_FALSE(validation_from_json(lossy).accuracy) << "a peer need not name it";
}

}  // namespace
}  // namespace tandem
