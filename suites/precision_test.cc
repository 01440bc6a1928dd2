// The precision axis on the reference: what a form of the weights loses, through the whole path of a worker.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>

#include "harness/run/worker.h"
#include "reference/engine/reference_engine.h"

namespace tandem {
namespace {

Record measured(Suite suite, Precision precision) {
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
  c.batch = 2;
  c.src = 9;
  c.tgt = 5;
  c.weights = "seed:0,outliers";
  c.precision = precision;
  c = canonical(c);
  Worker worker(registry, {});
  return worker.measure_case(c, worker.validate_case(c));
}

// Breaks when a lossy form is timed without its accuracy, or when fewer bits seem to lose less.
TEST(PrecisionAxis, WeightOnlyFormsCarryTheirAccuracy) {
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  for (const Suite suite : kModelSuites) {
    double before = 0;
    for (const Precision precision : {Precision::kW8a16, Precision::kW4a16}) {
      SCOPED_TRACE(fmt::format("{} {}", suite_name(suite), precision_name(precision)));
      const Record r = measured(suite, precision);
      ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
      ASSERT_TRUE(r.accuracy);
      EXPECT_TRUE(r.accuracy->synthetic_weights);
      EXPECT_GT(r.accuracy->relative_error, before);
      EXPECT_LT(r.accuracy->relative_error, 1);
      EXPECT_EQ(r.accuracy->kl.has_value(), suite != Suite::kEncoder);
      before = r.accuracy->relative_error;
    }
    EXPECT_FALSE(measured(suite, Precision::kBf16).accuracy);
  }
}

// Activations in 8 bits are not the reference's yet: values of the weights alone would be another model.
TEST(PrecisionAxis, QuantisedActivationsAreSkippedWithTheirReason) {
  const Record r = measured(Suite::kDecoder, Precision::kFp8);
  EXPECT_EQ(r.status, Status::kSkipped);
  EXPECT_EQ(r.reason, "precision: engine 'reference' computes fp32 tf32 fp16 bf16 w8a16 w4a16, not 'fp8'");
}

}  // namespace
}  // namespace tandem
