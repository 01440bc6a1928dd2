#include "kernels/attention/encoder_attention.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/model/batch.h"
#include "kernels/attention/attention_check.h"
#include "kernels/attention/attention_test_util.h"
#include "kernels/attention/relative_bias.h"
#include "kernels/common/arch.h"

namespace tandem::kernels {
namespace {

using namespace test;

struct Case {
  DType dtype = DType::kBF16;
  int heads = 2;
  int head_dim = 64;
  std::vector<int> lengths;
  bool causal = false;
  int max_distance = 0;  ///< 0: no bias
  float scale = 0.125f;
  int tail = 5;             ///< rows of NaN after the last sequence
  double loosen = 1;        ///< of the tolerance
  bool poison_odd = false;  ///< sequences 1, 3, ... hold NaN everywhere: the others must not notice
};

std::string describe(const Case& c) {
  std::string s = std::string(dtype_name(c.dtype)) + " heads " + std::to_string(c.heads) + " dim " +
                  std::to_string(c.head_dim) + (c.causal ? " causal" : "") + " distance " +
                  std::to_string(c.max_distance) + " lengths";
  for (int n : c.lengths) s += " " + std::to_string(n);
  return s;
}

/// Runs the case, compares with double loops, checks that nothing else was written and that a second run has equal bits.
void run(const Case& c, uint64_t seed) {
  SCOPED_TRACE(describe(c));
  const int inner = c.heads * c.head_dim;
  const int batch = static_cast<int>(c.lengths.size());
  std::vector<int32_t> offsets(batch + 1, 0);
  std::partial_sum(c.lengths.begin(), c.lengths.end(), offsets.begin() + 1);
  const int tokens = offsets.back();
  const int64_t stride = 3 * inner;
  std::vector<float> qkv = random_values(c.dtype, static_cast<size_t>(tokens + c.tail) * stride, seed, 1.5f);
  std::fill(qkv.begin() + tokens * stride, qkv.end(), kNan);
  for (int b = 1; b < batch && c.poison_odd; b += 2) {
    std::fill(qkv.begin() + offsets[b] * stride, qkv.begin() + offsets[b + 1] * stride, kNan);
  }
  const int64_t out_stride = inner + 16;
  const std::vector<float> blank(static_cast<size_t>(tokens + c.tail) * out_stride, kNan);

  const DeviceBuffer device_qkv = upload(c.dtype, qkv);
  const DeviceBuffer device_offsets = DeviceBuffer::of(offsets);
  DeviceBuffer out[2] = {upload(c.dtype, blank), upload(c.dtype, blank)};
  DeviceBuffer distance;
  std::vector<float> table;
  if (c.max_distance > 0) {
    table = random_values(DType::kF32, static_cast<size_t>(32) * c.heads, seed + 1, 2.0f);
    const DeviceBuffer device_table = DeviceBuffer::of(table);
    distance = DeviceBuffer(static_cast<int64_t>(sizeof(float)) * c.heads * (2 * c.max_distance + 1));
    launch_distance_bias({.table = device_table.data(),
                          .heads = c.heads,
                          .max_distance = c.max_distance,
                          .distance_bias = distance.data<float>()},
                         nullptr);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  }
  for (const DeviceBuffer& to : out) {
    launch_encoder_attention({.dtype = c.dtype,
                              .q = device_qkv.data(),
                              .k = device_qkv.data<char>() + tensor_bytes(c.dtype, inner),
                              .v = device_qkv.data<char>() + tensor_bytes(c.dtype, 2 * inner),
                              .out = to.data(),
                              .q_stride = stride,
                              .k_stride = stride,
                              .v_stride = stride,
                              .out_stride = out_stride,
                              .offsets = device_offsets.data<int32_t>(),
                              .batch = batch,
                              .tokens = tokens + c.tail,
                              .max_source = *std::max_element(c.lengths.begin(), c.lengths.end()),
                              .heads = c.heads,
                              .head_dim = c.head_dim,
                              .scale = c.scale,
                              .distance_bias = distance.data<float>(),
                              .max_distance = c.max_distance,
                              .causal = c.causal},
                             nullptr);
  }
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  const std::vector<float> got = download(c.dtype, out[0]);
  EXPECT_EQ(out[0].to_host<uint8_t>(), out[1].to_host<uint8_t>()) << "two runs differ";

  RelativeError error;
  for (int b = 0; b < batch; ++b) {
    if (c.poison_odd && b % 2 == 1) continue;
    for (int q = 0; q < c.lengths[b]; ++q) {
      for (int h = 0; h < c.heads; ++h) {
        const auto part = [&](int token, int which) {
          return qkv.data() + (offsets[b] + token) * stride + which * inner + h * c.head_dim;
        };
        const std::vector<double> want = attend(
            part(q, 0), c.causal ? q + 1 : c.lengths[b], c.head_dim, c.scale,
            [&](int j) { return part(j, 1); }, [&](int j) { return part(j, 2); },
            [&](int j) {
              return c.max_distance == 0
                         ? 0.0
                         : static_cast<double>(
                               table[relative_bucket(j - q, true, 32, c.max_distance) * c.heads + h]);
            });
        for (int i = 0; i < c.head_dim; ++i) {
          error.add(got[(offsets[b] + q) * out_stride + h * c.head_dim + i], want[i]);
        }
      }
    }
  }
  EXPECT_LE(error.value(), tolerance(c.dtype) * c.loosen);
  for (int row = 0; row < tokens + c.tail; ++row) {
    for (int64_t i = row < tokens ? inner : 0; i < out_stride; ++i) {
      ASSERT_TRUE(std::isnan(got[row * out_stride + i])) << "wrote row " << row << " column " << i;
    }
  }
}

const std::vector<DType> kTypes = {DType::kF32, DType::kF16, DType::kBF16};

class EncoderAttention : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { TANDEM_NEED_DEVICE(); }
  ScopedEnv arch_{"TANDEM_ARCH", GetParam()};
  std::mt19937_64 random_{test_seed()};
  int below(int n) { return static_cast<int>(random_() % n); }
};

// Tile ends: one key too many or too few shows at lengths around the tile sizes.
TEST_P(EncoderAttention, LengthsAroundTiles) {
  for (const DType dtype : kTypes) {
    for (const int dim : {64, 128}) {
      run({.dtype = dtype,
           .heads = 2,
           .head_dim = dim,
           .lengths = {1, 63, 64, 65, 127, 128, 129, 2, 200},
           .scale = 0.1f},
          random_());
    }
  }
}

// Every head size takes a path of its own (padding, chunks a row); a wrong one mixes neighbouring heads.
TEST_P(EncoderAttention, HeadSizes) {
  for (const DType dtype : kTypes) {
    for (const int dim : {8, 16, 32, 40, 48, 64, 72, 80, 96, 128}) {
      run({.dtype = dtype,
           .heads = 3,
           .head_dim = dim,
           .lengths = {1 + below(90), 1 + below(140)},
           .scale = 0.2f},
          random_());
    }
  }
}

// T5: the bias by distance, in near tiles and in far ones on both sides, with scale 1.
TEST_P(EncoderAttention, RelativeBias) {
  for (const DType dtype : kTypes) {
    for (const int dim : {32, 64, 128}) {
      for (const int max_distance : {20, 128}) {
        run({.dtype = dtype,
             .heads = 2,
             .head_dim = dim,
             .lengths = {1 + below(400), 500, 1 + below(30)},
             .max_distance = max_distance,
             .scale = 0.3f},
            random_());
      }
    }
    run({.dtype = dtype, .heads = 1, .head_dim = 64, .lengths = {333}, .max_distance = 1024, .scale = 0.5f},
        random_());
  }
}

// Prefill: a query that sees one key too many is offset by one.
TEST_P(EncoderAttention, Causal) {
  for (const DType dtype : kTypes) {
    for (const int dim : {16, 64, 128}) {
      for (const int max_distance : {0, 64}) {
        run({.dtype = dtype,
             .heads = 2,
             .head_dim = dim,
             .lengths = {1, 64, 129, 1 + below(300)},
             .causal = true,
             .max_distance = max_distance,
             .scale = 0.15f},
            random_());
      }
    }
  }
}

// Keys and values of the neighbouring sequence lie in the same tiles: NaN there must not reach this sequence.
TEST_P(EncoderAttention, NeighboursDoNotLeak) {
  for (const DType dtype : kTypes) {
    for (const int dim : {32, 64, 128}) {
      for (const bool causal : {false, true}) {
        run({.dtype = dtype,
             .heads = 2,
             .head_dim = dim,
             .lengths = {1 + below(100), 70, 1 + below(200), 1, 3, 128, 130},
             .causal = causal,
             .poison_odd = true},
            random_());
      }
    }
  }
}

// Many small sequences of random length, many heads: the grid's ends and early exits.
TEST_P(EncoderAttention, RandomRagged) {
  for (const DType dtype : kTypes) {
    for (int round = 0; round < 3; ++round) {
      std::vector<int> lengths(static_cast<size_t>(1 + below(12)));
      for (int& n : lengths) n = below(5) == 0 ? 0 : 1 + below(180);
      lengths.push_back(1 + below(50));
      run({.dtype = dtype, .heads = 1 + below(5), .head_dim = below(2) == 0 ? 64 : 128, .lengths = lengths},
          random_());
    }
  }
}

// More query tiles than multiprocessors: blocks that go on to a second tile start from the state that the first one left.
TEST_P(EncoderAttention, ManyTiles) {
  for (const int dim : {64, 128}) {
    std::vector<int> lengths(36);
    for (int& n : lengths) n = 1 + below(170);
    lengths[3] = 260;
    run({.heads = 6, .head_dim = dim, .lengths = lengths, .max_distance = dim == 64 ? 30 : 0}, random_());
  }
}

// Scores in the hundreds, as T5's unscaled products are: exponentials must not overflow.
TEST_P(EncoderAttention, LargeScores) {
  for (const DType dtype : kTypes) {
    // fp32 rounds a score of 200 by 1e-5, which is the relative error of its exponential.
    run({.dtype = dtype, .heads = 2, .head_dim = 64, .lengths = {150}, .scale = 4.0f, .loosen = 5},
        random_());
  }
}

// A later kernel of a dependent chain reads this one's output: a missing wait shows as a difference between two chains.
TEST_P(EncoderAttention, DependentChain) {
  constexpr int kTokens = 300;
  constexpr int kInner = 256;
  const std::vector<float> start = random_values(DType::kBF16, kTokens * kInner, random_(), 1.0f);
  const DeviceBuffer offsets = DeviceBuffer::of(std::vector<int32_t>{0, 170, 300});
  std::vector<std::vector<uint8_t>> results;
  const TestStream stream;
  for (int round = 0; round < 6; ++round) {
    DeviceBuffer x = upload(DType::kBF16, start);
    DeviceBuffer y = upload(DType::kBF16, start);
    for (int step = 0; step < 20; ++step) {
      launch_encoder_attention({.dtype = DType::kBF16,
                                .q = x.data(),
                                .k = x.data(),
                                .v = x.data(),
                                .out = y.data(),
                                .q_stride = kInner,
                                .k_stride = kInner,
                                .v_stride = kInner,
                                .out_stride = kInner,
                                .offsets = offsets.data<int32_t>(),
                                .batch = 2,
                                .tokens = kTokens,
                                .max_source = 170,
                                .heads = 4,
                                .head_dim = 64,
                                .scale = 0.125f,
                                .dependent = round > 0},
                               stream);
      std::swap(x, y);
    }
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    results.push_back(x.to_host<uint8_t>());
  }
  for (const auto& result : results) EXPECT_EQ(result, results.front());
}

INSTANTIATE_TEST_SUITE_P(Paths, EncoderAttention, ::testing::Values("sm90", "sm80"),
                         [](const auto& info) { return std::string(info.param); });

// A lost compile definition would send every call down the plain path, correct and half as fast.
TEST(EncoderAttentionPaths, Sm90TakesTheFastOne) {
  TANDEM_NEED_DEVICE();
  int major = 0;
  int minor = 0;
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  const ScopedEnv unset("TANDEM_ARCH", nullptr);
  EXPECT_EQ(current_arch().sm90a, major == 9 && minor == 0) << "on compute capability 9.0 build for 90a";
  const ScopedEnv forced("TANDEM_ARCH", "sm80");
  EXPECT_FALSE(current_arch().sm90a);
}

// A table entry of the wrong bucket or head is a wrong bias everywhere.
TEST(DistanceBias, IsTheTableByDistance) {
  TANDEM_NEED_DEVICE();
  const uint64_t seed = test_seed();
  for (const DType dtype : kTypes) {
    for (const bool bidirectional : {true, false}) {
      for (const int max_distance : {20, 128, 777}) {
        constexpr int kHeads = 3;
        constexpr int kStride = 5;  // another rank's heads lie after this rank's
        const std::vector<float> table = random_values(dtype, 32 * kStride, seed, 1.0f);
        const DeviceBuffer device_table = upload(dtype, table);
        const int entries = 2 * max_distance + 1;
        const DeviceBuffer out = DeviceBuffer::of(std::vector<float>(kHeads * entries, kNan));
        launch_distance_bias({.dtype = dtype,
                              .table = device_table.data(),
                              .heads = kHeads,
                              .table_stride = kStride,
                              .max_distance = max_distance,
                              .bidirectional = bidirectional,
                              .distance_bias = out.data<float>()},
                             nullptr);
        const std::vector<float> got = out.to_host<float>();
        for (int h = 0; h < kHeads; ++h) {
          for (int d = -max_distance; d <= max_distance; ++d) {
            const int bucket = relative_bucket(d, bidirectional, 32, max_distance);
            ASSERT_EQ(got[h * entries + d + max_distance], table[bucket * kStride + h]) << "distance " << d;
          }
        }
      }
    }
  }
}

// A wrong field must be named before anything runs.
TEST(EncoderAttentionErrors, NameTheField) {
  alignas(16) static char memory[16];
  int32_t offsets[2] = {0, 1};
  const EncoderAttentionParams good{.q = memory,
                                    .k = memory,
                                    .v = memory,
                                    .out = memory,
                                    .q_stride = 64,
                                    .k_stride = 64,
                                    .v_stride = 64,
                                    .out_stride = 64,
                                    .offsets = offsets,
                                    .batch = 1,
                                    .tokens = 1,
                                    .max_source = 1,
                                    .heads = 1,
                                    .head_dim = 64};
  const auto message = [](const EncoderAttentionParams& p) {
    try {
      launch_encoder_attention(p, nullptr);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EncoderAttentionParams bad = good;
  bad.head_dim = 65;
  EXPECT_NE(message(bad).find("head_dim is 65"), std::string::npos);
  bad = good;
  bad.k_stride = 60;
  EXPECT_NE(message(bad).find("k_stride is 60"), std::string::npos);
  bad = good;
  bad.v = nullptr;
  EXPECT_NE(message(bad).find("v is null"), std::string::npos);
  bad = good;
  bad.q = memory + 2;
  EXPECT_NE(message(bad).find("q must be 16-byte aligned"), std::string::npos);
  bad = good;
  bad.dtype = DType::kI8;
  EXPECT_NE(message(bad).find("dtype is i8"), std::string::npos);
  bad = good;
  bad.scale = 0;
  EXPECT_NE(message(bad).find("scale"), std::string::npos);
}

}  // namespace
}  // namespace tandem::kernels
