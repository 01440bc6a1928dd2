// The precision axis on the reference: what a form of the weights loses, through the whole path of a worker.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>

#include "harness/run/worker.h"
#include "reference/engine/reference_engine.h"

namespace tandem {
namespace {

/// Axes of a case that differ from the default.
struct Form {
  Precision precision = Precision::kBf16;
  std::string kv = "same";
  std::string head = "same";
  std::string calibration = "none";
  std::string sparsity = "dense";
};

Record measured(Suite suite, const Form& form) {
  const EngineRegistry registry = {
      .make = [](const std::string&, const EngineOptions&) -> std::unique_ptr<Engine> {
        return std::make_unique<reference::ReferenceEngine>();
      },
      .device_usable = [](int, std::string*) { return false; },
      .l2_bytes = [](int) { return std::optional<double>(); }};
  Case c;
  c.suite = suite;
  c.engine = "reference";
  c.model = "tiny";
  c.batch = 1;
  c.src = 9;
  c.tgt = 5;
  c.weights = "seed:0,outliers";
  c.precision = form.precision;
  c.kv = form.kv;
  c.head = form.head;
  c.calibration = form.calibration;
  c.sparsity = form.sparsity;
  c = canonical(c);
  const WorkerOptions options;  // named: g++ 12 warns of an unnamed one
  Worker worker(registry, options);
  return worker.measure_case(c, worker.validate_case(c));
}

// Breaks when a lossy form is timed without its accuracy, a case of batch 1 states that of one token, or fewer bits seem to
// lose less.
TEST(PrecisionAxis, LossyFormsCarryTheirAccuracy) {
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  for (const Suite suite : kModelSuites) {
    double w8a16 = 0;
    for (const Form& form : {Form{Precision::kW8a16},
                             {Precision::kW4a16},
                             {Precision::kInt8},
                             {Precision::kFp8},
                             {Precision::kFp8, "16bit", "16bit"},
                             {Precision::kW4a16, "same", "same", "awq"},
                             {Precision::kInt8, "same", "same", "smoothquant"},
                             {Precision::kBf16, "int8"},
                             {Precision::kBf16, "fp8"}}) {
      if (suite == Suite::kEncoder && form.kv != "same") continue;  // it has no cache
      SCOPED_TRACE(fmt::format("{} {} kv {} {}", suite_name(suite), precision_name(form.precision), form.kv,
                               form.calibration));
      const Record r = measured(suite, form);
      ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
      ASSERT_TRUE(r.accuracy);
      EXPECT_TRUE(r.accuracy->synthetic_weights);
      EXPECT_LT(r.accuracy->relative_error, 1);
      EXPECT_EQ(r.accuracy->tokens, 256);
      EXPECT_EQ(r.accuracy->kl.has_value(), suite != Suite::kEncoder);
      EXPECT_EQ(r.accuracy->free_tokens_agree.has_value(), suite != Suite::kEncoder);
      if (form.precision == Precision::kW8a16) w8a16 = r.accuracy->relative_error;
      const bool weights_in_fewer = form.precision == Precision::kW4a16 || form.precision == Precision::kFp8;
      EXPECT_GT(r.accuracy->relative_error, weights_in_fewer ? w8a16 : 0);
    }
    EXPECT_FALSE(measured(suite, {}).accuracy);
    EXPECT_FALSE(measured(suite, {.precision = Precision::kBf16, .kv = "16bit"}).accuracy);
  }
}

// Breaks when a pruned form is timed without its accuracy, or its record does not say what was removed and what it had to read.
TEST(PruningAxis, PrunedFormsCarryTheirAccuracyAndWhatWasRemoved) {
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  const Record dense = measured(Suite::kDecoder, {.precision = Precision::kFp32});
  EXPECT_FALSE(dense.pruned);
  for (const char* sparsity : {"2:4", "unstructured:0.5", "threshold:0.05", "heads:0.5", "ffn:0.5",
                               "layers:0.5", "unstructured:0.5+heads:0.5+layers:0.5"}) {
    SCOPED_TRACE(sparsity);
    const Record r = measured(Suite::kDecoder, {.precision = Precision::kFp32, .sparsity = sparsity});
    ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
    ASSERT_TRUE(r.accuracy && r.pruned && r.fraction_kept);
    EXPECT_GT(r.accuracy->relative_error, 0);
    EXPECT_LT(*r.fraction_kept, 1);
    ASSERT_FALSE(r.pruned->removed.empty());
    const RemovedPart& weights = r.pruned->removed.front();
    EXPECT_EQ(weights.what, "weights");
    EXPECT_NEAR(*r.fraction_kept, 1 - static_cast<double>(weights.removed) / static_cast<double>(weights.of),
                1e-12);
    EXPECT_LT(*r.bytes, *dense.bytes) << "a floor of the dense model";
    const Record back = record_from_json(nlohmann::json::parse(record_to_json(r).dump()));
    EXPECT_EQ(back.pruned->removed, r.pruned->removed);
  }
}

}  // namespace
}  // namespace tandem
