// The engine's own small kernels, and the operations of suite_kernels, suite_limits and suite_memory.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/test_seed.h"
#include "kernels/common/device_buffer.h"
#include "kernels/engine/engine_kernels.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

struct SelectResult {
  std::vector<int32_t> ids, tokens, finished;
  int32_t position = 0;
  int32_t running = 0;
  std::vector<float> biased;
};

SelectResult select(const std::vector<float>& logits, int rows, int vocab, int stride,
                    const std::vector<float>& bias, std::vector<int32_t> finished, bool eos) {
  const auto device_logits = DeviceBuffer::of(logits);
  const auto device_bias = DeviceBuffer::of(bias);
  const auto device_finished = DeviceBuffer::of(finished);
  const auto ids = DeviceBuffer::of(std::vector<int32_t>(rows, -7));
  const auto tokens = DeviceBuffer::of(std::vector<int32_t>(rows * 3, -7));
  const auto position = DeviceBuffer::of(std::vector<int32_t>{1});
  const auto running = DeviceBuffer::of(std::vector<int32_t>{-7});
  const auto arrived = DeviceBuffer::of(std::vector<int32_t>{0});
  const DeviceBuffer biased(static_cast<int64_t>(rows) * vocab * 4);
  launch_select({.rows = rows,
                 .vocab = vocab,
                 .logits = device_logits.data<float>(),
                 .logits_stride = stride,
                 .bias_dtype = DType::kF32,
                 .bias = bias.empty() ? nullptr : device_bias.data(),
                 .biased = biased.data<float>(),
                 .next_ids = ids.data<int32_t>(),
                 .tokens = tokens.data<int32_t>(),
                 .tokens_stride = 3,
                 .position = position.data<int32_t>(),
                 .stop_at_eos = eos,
                 .eos_id = 5,
                 .pad_id = 2,
                 .finished = device_finished.data<int32_t>(),
                 .running = running.data<int32_t>(),
                 .arrived = arrived.data<int32_t>()},
                nullptr);
  EXPECT_EQ(arrived.to_host<int32_t>()[0], 0);
  return {ids.to_host<int32_t>(),         tokens.to_host<int32_t>(),     device_finished.to_host<int32_t>(),
          position.to_host<int32_t>()[0], running.to_host<int32_t>()[0], biased.to_host<float>()};
}

// A tie, a NaN, a tail of the row or the bookkeeping that the selection gets wrong.
TEST(Select, ChoosesAndKeepsBooks) {
  TANDEM_NEED_DEVICE();
  std::mt19937 rng(static_cast<unsigned>(test_seed()));
  std::normal_distribution<float> normal;
  for (const int vocab : {1, 7, 131, 513, 32003}) {
    const int rows = 66;
    const int stride = (vocab + 7) / 8 * 8;
    std::vector<float> logits(static_cast<size_t>(rows) * stride, 1e30f);  // padding must not win
    std::vector<float> bias(vocab);
    for (float& b : bias) b = normal(rng);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < vocab; ++i) logits[r * stride + i] = normal(rng);
    }
    std::vector<int32_t> finished(rows, 0);
    finished[3] = 1;
    const SelectResult got = select(logits, rows, vocab, stride, bias, finished, true);
    int running = 0;
    for (int r = 0; r < rows; ++r) {
      int best = 0;
      for (int i = 0; i < vocab; ++i) {
        ASSERT_EQ(got.biased[static_cast<size_t>(r) * vocab + i], logits[r * stride + i] + bias[i]);
        if (logits[r * stride + i] + bias[i] > logits[r * stride + best] + bias[best]) best = i;
      }
      const int want = r == 3 ? 2 : best;
      EXPECT_EQ(got.ids[r], want) << "vocab " << vocab << " row " << r;
      EXPECT_EQ(got.tokens[r * 3 + 1], want);
      EXPECT_EQ(got.tokens[r * 3], -7);
      EXPECT_EQ(got.finished[r], r == 3 || want == 5 ? 1 : 0);
      running += got.finished[r] == 0 ? 1 : 0;
    }
    EXPECT_EQ(got.position, 2);
    EXPECT_EQ(got.running, running);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float low = -std::numeric_limits<float>::infinity();
  const SelectResult odd =
      select({nan, 3, 3, nan, low, low, low, low, nan, nan, nan, nan}, 3, 4, 4, {}, {0, 0, 0}, false);
  EXPECT_EQ(odd.ids, (std::vector<int32_t>{1, 0, 0}))
      << "lowest of equals, NaN never, nothing but NaN gives 0";
  EXPECT_EQ(odd.running, 3);
}

// Weights rounded otherwise than on the host would make every check of a precision wrong.
TEST(Round, MatchesTheHost) {
  TANDEM_NEED_DEVICE();
  std::mt19937 rng(static_cast<unsigned>(test_seed()));
  std::vector<float> values(100000);
  for (float& v : values) v = std::bit_cast<float>(static_cast<uint32_t>(rng()));
  for (const auto& [precision, host] :
       {std::pair{Precision::kTf32, +[](float v) { return round_to_tf32(v); }},
        std::pair{Precision::kFp16, +[](float v) { return fp16_to_float(float_to_fp16(v)); }},
        std::pair{Precision::kBf16, +[](float v) { return bf16_to_float(float_to_bf16(v)); }}}) {
    const auto device = DeviceBuffer::of(values);
    launch_round(device.data<float>(), static_cast<int64_t>(values.size()), precision, nullptr);
    const std::vector<float> got = device.to_host<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) {
        EXPECT_TRUE(std::isnan(got[i]));
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(host(values[i])))
            << precision_name(precision) << " of " << values[i];
      }
    }
  }
}

/// Prepares, repeats and checks an operation; says what it measured.
void expect_op_works(CudaEngine& engine, const Case& c, const ModelConfig& config) {
  SCOPED_TRACE(fmt::format("{} {} {} {}", c.op, c.kernel, precision_name(c.precision), c.batch));
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
        for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
          Case c;
          c.suite = Suite::kKernels;
          c.op = name;
          c.model = model;
          c.kernel = kernel;
          c.precision = precision;
          c.batch = 5;
          c.src = 33;
          c.tgt = 19;
          try {
            engine.check_supported(c);
          } catch (const ImpossibleCase&) {
            continue;  // no library computes it
          }
          expect_op_works(engine, c, config);
        }
      }
    }
  }
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
