#include "reference/engine/op_workloads.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"
#include "harness/sweep/case.h"
#include "harness/sweep/sweep_spec.h"
#include "reference/engine/reference_engine.h"

namespace tandem::reference {
namespace {

Case op_case(Suite suite, const std::string& op) {
  Case c;
  c.suite = suite;
  c.op = op;
  c.model = "tiny";
  c.batch = 3;
  c.src = 9;
  c.tgt = 5;
  c.precision = Precision::kFp32;
  c.engine = "reference";
  return c;
}

// Breaks when an operation of the CPU is timed without passing its own check, or has no bytes to make a rate of.
TEST(Operations, EveryOneRunsAndPassesItsCheck) {
  ReferenceEngine engine;
  const ModelConfig config = load_model("tiny");
  int ran = 0;
  for (Suite suite : {Suite::kLimits, Suite::kKernels, Suite::kMemory}) {
    for (const std::string& name : suite_ops(suite)) {
      if (suite == Suite::kLimits && (name == "empty_node" || name == "attention")) continue;
      SCOPED_TRACE(name);
      OpWorkload op = engine.prepare_op(op_case(suite, name), config);
      EXPECT_GT(op.workload->repeat().total_us, 0);
      EXPECT_GT(op.workload->repeat().total_us, 0);
      const CheckResult r = op.check();
      EXPECT_TRUE(r.ok()) << r.error << " over " << r.tolerance << ": " << r.where;
      EXPECT_TRUE(suite == Suite::kMemory || op.bytes_read > 0);
      ++ran;
    }
  }
  EXPECT_EQ(ran, 5 + 11 + 5);
}

// Breaks when all memory levels are one: below Level-1 a warm load makes the weights again, with their bits the same.
TEST(Operations, EveryMemoryLevelLoads) {
  ReferenceEngine engine;
  for (const char* level : {"level1", "level2", "gpu"}) {
    for (const std::string& name : suite_ops(Suite::kMemory)) {
      Case c = op_case(Suite::kMemory, name);
      c.memory = level;
      OpWorkload op = engine.prepare_op(c, load_model("tiny"));
      op.workload->repeat();
      EXPECT_TRUE(op.check().ok()) << level << " " << name;
    }
  }
}

// Breaks when what needs a device, or a product in a precision that the CPU does not have, is not named.
TEST(Operations, NamesWhatNeedsADevice) {
  ReferenceEngine engine;
  const ModelConfig config = load_model("tiny");
  EXPECT_THROW(engine.prepare_op(op_case(Suite::kLimits, "empty_node"), config), ImpossibleCase);
  Case c = op_case(Suite::kLimits, "gemm");
  c.precision = Precision::kBf16;
  EXPECT_THROW(engine.prepare_op(c, config), ImpossibleCase);
}

}  // namespace
}  // namespace tandem::reference
