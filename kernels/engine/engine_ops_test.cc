// The operations of suite_kernels, suite_limits and suite_memory.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/arch.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

/// Prepares, repeats and checks an operation; says what it measured.
void expect_op_works(CudaEngine& engine, const Case& c, const ModelConfig& config) {
  SCOPED_TRACE(fmt::format("{} {} {} {} kv {} {}", c.model, c.op, c.kernel, precision_name(c.precision), c.kv,
                           c.batch));
  OpWorkload op = engine.prepare_op(c, config);
  double us = 0;
  for (int i = 0; i < 3; ++i) us = op.workload->repeat().total_us;
  EXPECT_GT(us, 0);
  const CheckResult result = op.check();
  EXPECT_TRUE(result.ok()) << result.reference << ": " << result.error << " over " << result.tolerance << " "
                           << result.where;
}

// An operation that computes something else than it says is timed for nothing.
TEST(KernelOps, EachComputesWhatItSays) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({});
  for (const char* model : {"tiny", "t5-small", "flan-t5-base"}) {
    const ModelConfig config = load_model(model);
    for (const std::string& name : suite_ops(Suite::kKernels)) {
      for (const char* kernel : {"own", "library"}) {
        for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp8,
                                          Precision::kInt8, Precision::kW8a16, Precision::kW4a16}) {
          for (const char* kv : {"same", "fp8", "int8"}) {
            Case c;
            c.suite = Suite::kKernels;
            c.op = name;
            c.model = model;
            c.kernel = kernel;
            c.precision = precision;
            c.kv = kv;
            c.batch = 5;
            c.src = 33;
            c.tgt = 19;
            if (std::string_view(kv) != "same" && !axis_used(c.suite, name, "kv")) continue;
            try {
              engine.check_supported(c);
            } catch (const ImpossibleCase&) {
              continue;  // no library computes it, or nothing of it is quantised
            }
            expect_op_works(engine, c, config);
          }
        }
      }
    }
  }
}

/// Products of 333 rows of each model by `kernel` in each precision.
void expect_many_rows_work(const char* kernel, const std::vector<const char*>& models,
                           const std::vector<Precision>& precisions) {
  CudaEngine engine({});
  for (const char* model : models) {
    for (const char* op : {"gemm_qkv", "gemm_out", "gemm_ffn_up", "gemm_ffn_down"}) {
      for (const Precision precision : precisions) {
        Case c;
        c.suite = Suite::kKernels;
        c.op = op;
        c.model = model;
        c.kernel = kernel;
        c.precision = precision;
        c.batch = 333;
        engine.check_supported(c);
        expect_op_works(engine, c, load_model(model));
      }
    }
  }
}

// Products of an encoder's size go through the library, with passes around it for the quantised formats.
TEST(KernelOps, ManyRows) {
  TANDEM_NEED_DEVICE();
  expect_many_rows_work("library", {"tiny", "flan-t5-base"},
                        on_this_card({Precision::kBf16, Precision::kFp8, Precision::kInt8, Precision::kW8a16,
                                      Precision::kW4a16}));
}

// The same by the own kernel, which a plan could give operands or an epilogue of another product.
TEST(KernelOps, ManyRowsOwn) {
  TANDEM_NEED_DEVICE();
  if (!current_arch().sm90a) GTEST_SKIP() << "needs sm_90a";
  expect_many_rows_work("own", {"tiny", "bart-base", "flan-t5-base"}, {Precision::kBf16, Precision::kFp16});
}

// Every operation that the suites name must be known to the engine.
TEST(MemoryOps, EachLevelLoadsAllocatesAndReturns) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({});
  const ModelConfig config = load_model("tiny");
  for (const std::string& name : suite_ops(Suite::kMemory)) {
    for (const char* level : {"gpu", "level2", "level1"}) {
      Case c;
      c.suite = Suite::kMemory;
      c.op = name;
      c.model = "tiny";
      c.memory = level;
      c.batch = 2;
      c.src = c.tgt = 16;
      expect_op_works(engine, c, config);
    }
  }
}

// The ceilings under every floor; their own tests check the values.
TEST(LimitOps, GiveTimesAndChecks) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({});
  const ModelConfig config = load_model("tiny");
  for (const std::string& name : suite_ops(Suite::kLimits)) {
    Case c;
    c.suite = Suite::kLimits;
    c.op = name;
    c.precision = Precision::kBf16;
    expect_op_works(engine, c, config);
  }
}

}  // namespace
}  // namespace tandem::kernels
