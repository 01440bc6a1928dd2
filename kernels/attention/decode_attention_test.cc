#include "kernels/attention/decode_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/model/batch.h"
#include "kernels/attention/attention_test_util.h"
#include "kernels/attention/relative_bias.h"
#include "kernels/common/codes_test_util.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

using namespace test;

const std::vector<DType> kTypes = {DType::kF32, DType::kF16, DType::kBF16};

class DecodeSelfAttention : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { TANDEM_NEED_DEVICE(); }
  ScopedEnv arch_{"TANDEM_ARCH", GetParam()};
  std::mt19937_64 random_{test_seed()};
  int below(int n) { return static_cast<int>(random_() % n); }
};

struct SelfCase {
  DType dtype = DType::kBF16;
  std::optional<DType> kv = {};
  int batch = 2;
  int heads = 2;
  int head_dim = 64;
  int capacity = 32;
  int steps = 32;
  int max_distance = 0;  ///< 0: no bias
  float scale = 0.125f;
  int workers = 0;
  bool ancestry = false;
  int finish_row = -1;  ///< this row is finished from the middle step on
};

/// Decodes step by step through one captured graph, from an empty cache full of NaN, and checks every output, that the
/// caches hold exactly what was appended, and that nothing else was written.
void run_self(const SelfCase& c, uint64_t seed) {
  const DType kv = c.kv.value_or(c.dtype);
  const bool codes = kv != c.dtype;
  SCOPED_TRACE(std::string(dtype_name(c.dtype)) + " cache " + std::string(dtype_name(kv)) + " dim " +
               std::to_string(c.head_dim) + " capacity " + std::to_string(c.capacity) + " workers " +
               std::to_string(c.workers) + " distance " + std::to_string(c.max_distance) + " ancestry " +
               std::to_string(c.ancestry));
  const int inner = c.heads * c.head_dim;
  const int64_t qkv_stride = 3 * inner + 8;
  const int64_t out_stride = inner + 8;
  const size_t cache_size = static_cast<size_t>(c.batch) * c.heads * c.capacity * c.head_dim;
  // 0xff is a code that no row has.
  const std::vector<uint8_t> blank_cache = codes ? std::vector<uint8_t>(cache_size, 0xff)
                                                 : to_bytes(c.dtype, std::vector<float>(cache_size, kNan));
  const DeviceBuffer k_cache = DeviceBuffer::of(blank_cache);
  const DeviceBuffer v_cache = DeviceBuffer::of(blank_cache);
  const std::vector<float> blank_scales(codes ? cache_size / c.head_dim : 0, kNan);
  const DeviceBuffer k_scales = DeviceBuffer::of(blank_scales);
  const DeviceBuffer v_scales = DeviceBuffer::of(blank_scales);
  const DeviceBuffer qkv(tensor_bytes(c.dtype, c.batch * qkv_stride));
  const DeviceBuffer out(tensor_bytes(c.dtype, c.batch * out_stride));
  const DeviceBuffer position(sizeof(int32_t));
  const DeviceBuffer finished = DeviceBuffer::of(std::vector<int32_t>(c.batch, 0));
  std::vector<int32_t> ancestry(static_cast<size_t>(c.batch) * c.capacity, -1);
  const DeviceBuffer device_ancestry = DeviceBuffer::of(ancestry);
  std::vector<float> table;
  DeviceBuffer distance;
  if (c.max_distance > 0) {
    table = random_values(DType::kF32, static_cast<size_t>(32) * c.heads, seed + 7, 2.0f);
    const DeviceBuffer device_table = DeviceBuffer::of(table);
    distance = DeviceBuffer(static_cast<int64_t>(sizeof(float)) * c.heads * (2 * c.max_distance + 1));
    launch_distance_bias({.table = device_table.data(),
                          .heads = c.heads,
                          .max_distance = c.max_distance,
                          .bidirectional = false,
                          .distance_bias = distance.data<float>()},
                         nullptr);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  }
  const DecodeSelfAttentionParams params{.dtype = c.dtype,
                                         .kv_dtype = c.kv,
                                         .q = qkv.data(),
                                         .k = qkv.data<char>() + tensor_bytes(c.dtype, inner),
                                         .v = qkv.data<char>() + tensor_bytes(c.dtype, 2 * inner),
                                         .qkv_stride = qkv_stride,
                                         .k_cache = k_cache.data(),
                                         .v_cache = v_cache.data(),
                                         .k_scales = k_scales.data<float>(),
                                         .v_scales = v_scales.data<float>(),
                                         .out = out.data(),
                                         .out_stride = out_stride,
                                         .position = position.data<int32_t>(),
                                         .finished = c.finish_row >= 0 ? finished.data<int32_t>() : nullptr,
                                         .ancestry = c.ancestry ? device_ancestry.data<int32_t>() : nullptr,
                                         .distance_bias = distance.data<float>(),
                                         .max_distance = c.max_distance,
                                         .batch = c.batch,
                                         .heads = c.heads,
                                         .head_dim = c.head_dim,
                                         .capacity = c.capacity,
                                         .scale = c.scale,
                                         .workers = c.workers};
  const TestStream stream;
  TimedGraph graph(stream, [&](cudaStream_t s) { launch_decode_self_attention(params, s); });

  std::vector<float> k_truth(cache_size, kNan);
  std::vector<float> v_truth(cache_size, kNan);
  std::vector<uint8_t> k_codes = blank_cache, v_codes = blank_cache;
  std::vector<float> k_scales_truth = blank_scales, v_scales_truth = blank_scales;
  const auto remember = [&](const float* values, size_t to, std::vector<float>& truth,
                            std::vector<uint8_t>& held, std::vector<float>& scales) {
    if (!codes) {
      std::copy_n(values, c.head_dim, truth.begin() + static_cast<int64_t>(to));
      return;
    }
    const HostCodes host = host_codes({values, static_cast<size_t>(c.head_dim)}, c.head_dim, kv);
    std::ranges::copy(host.values, truth.begin() + static_cast<int64_t>(to));
    std::ranges::copy(host.codes, held.begin() + static_cast<int64_t>(to));
    scales[to / c.head_dim] = host.scales[0];
  };
  const auto at = [&](int row, int head, int token) {
    return ((static_cast<size_t>(row) * c.heads + head) * c.capacity + token) * c.head_dim;
  };
  RelativeError error;
  for (int step = 0; step < c.steps; ++step) {
    std::vector<float> now =
        random_values(c.dtype, static_cast<size_t>(c.batch * qkv_stride), seed + 100 + step, 1.5f);
    const bool finishing = c.finish_row >= 0 && step >= c.steps / 2;
    if (codes) {  // some keys and values are zeros, some queries and keys far larger or smaller than others
      for (int r = 0; r < c.batch; ++r) {
        float* row = now.data() + r * qkv_stride;
        if (step % 7 == 3) std::fill_n(row + inner, c.head_dim, 0.0f);
        if (step % 5 == 2) std::fill_n(row + 2 * inner, c.head_dim, 0.0f);
        if (step % 4 == 1) {
          for (int i = 0; i < inner; ++i) {
            row[i] = round_to(c.dtype, row[i] * 64.0f);
            row[inner + i] = round_to(c.dtype, row[inner + i] * 0x1p-6f);
          }
        }
        if (step % 6 == 1) {
          for (int i = 0; i < inner; ++i)
            row[2 * inner + i] = round_to(c.dtype, row[2 * inner + i] * 0x1p-10f);
        }
      }
    }
    if (finishing) std::fill_n(now.begin() + c.finish_row * qkv_stride, qkv_stride, kNan);
    const auto now_bytes = to_bytes(c.dtype, now);
    TANDEM_CUDA_CHECK(cudaMemcpy(qkv.data(), now_bytes.data(), now_bytes.size(), cudaMemcpyHostToDevice));
    const auto blank = to_bytes(c.dtype, std::vector<float>(static_cast<size_t>(c.batch * out_stride), kNan));
    TANDEM_CUDA_CHECK(cudaMemcpy(out.data(), blank.data(), blank.size(), cudaMemcpyHostToDevice));
    TANDEM_CUDA_CHECK(cudaMemcpy(position.data(), &step, sizeof(step), cudaMemcpyHostToDevice));
    if (finishing) {
      const int32_t flag = 1;
      TANDEM_CUDA_CHECK(
          cudaMemcpy(finished.data<int32_t>() + c.finish_row, &flag, sizeof(flag), cudaMemcpyHostToDevice));
    }
    if (c.ancestry) {  // any table whose entries name rows that were alive then; entries from `position` on are not read
      for (int r = 0; r < c.batch; ++r) {
        for (int t = 0; t < step; ++t) {
          const auto any = static_cast<int>(random_bits(seed, (step * 131 + r) * 4099 + t) % c.batch);
          ancestry[r * c.capacity + t] = any == c.finish_row ? (any + 1) % c.batch : any;
        }
      }
      TANDEM_CUDA_CHECK(cudaMemcpy(device_ancestry.data(), ancestry.data(), ancestry.size() * sizeof(int32_t),
                                   cudaMemcpyHostToDevice));
    }
    graph.launch();
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));

    const std::vector<float> got = download(c.dtype, out);
    for (int r = 0; r < c.batch; ++r) {
      const bool alive = !(finishing && r == c.finish_row);
      for (int h = 0; h < c.heads; ++h) {
        const float* row = now.data() + r * qkv_stride + h * c.head_dim;
        if (alive) {
          remember(row + inner, at(r, h, step), k_truth, k_codes, k_scales_truth);
          remember(row + 2 * inner, at(r, h, step), v_truth, v_codes, v_scales_truth);
        }
      }
      for (int h = 0; h < c.heads; ++h) {
        const float* row = now.data() + r * qkv_stride + h * c.head_dim;
        const auto source = [&](int t) { return c.ancestry && t < step ? ancestry[r * c.capacity + t] : r; };
        std::vector<double> want(c.head_dim, 0.0);
        if (alive) {
          want = attend(
              row, step + 1, c.head_dim, c.scale, [&](int t) { return &k_truth[at(source(t), h, t)]; },
              [&](int t) { return &v_truth[at(source(t), h, t)]; },
              [&](int t) {
                return c.max_distance == 0
                           ? 0.0
                           : static_cast<double>(
                                 table[relative_bucket(t - step, false, 32, c.max_distance) * c.heads + h]);
              });
        }
        RelativeError of_pair;
        for (int i = 0; i < c.head_dim; ++i) {
          const float value = got[r * out_stride + h * c.head_dim + i];
          error.add(value, want[i]);
          of_pair.add(value, want[i]);
          ASSERT_TRUE(alive || value == 0.0f) << "a finished row";
        }
        // Of a large query one key takes all: where its value is zeros, what is left is less than codes are rounded by.
        ASSERT_TRUE((codes && step % 4 == 1) || of_pair.value() <= (codes ? 2 : 1) * kPairTolerance)
            << of_pair.value() << " row " << r << " head " << h << " step " << step;
      }
      for (int64_t i = inner; i < out_stride; ++i)
        ASSERT_TRUE(std::isnan(got[r * out_stride + i])) << "wrote padding";
    }
  }
  EXPECT_LE(error.value(), tolerance(c.dtype));
  if (codes) {
    expect_codes(k_cache.to_host<uint8_t>(), k_codes, "the key cache");
    expect_codes(v_cache.to_host<uint8_t>(), v_codes, "the value cache");
    expect_scales(k_scales.to_host<float>(), k_scales_truth, "the keys' scales");
    expect_scales(v_scales.to_host<float>(), v_scales_truth, "the values' scales");
    return;
  }
  EXPECT_EQ(k_cache.to_host<uint8_t>(), to_bytes(c.dtype, k_truth)) << "the key cache";
  EXPECT_EQ(v_cache.to_host<uint8_t>(), to_bytes(c.dtype, v_truth)) << "the value cache";
}

// From the first token on, every length, over every way to split it.
TEST_P(DecodeSelfAttention, EveryStep) {
  for (const DType dtype : kTypes) {
    for (const int workers : {0, 1, 2, 4, 8, 16, 32}) {
      run_self({.dtype = dtype, .batch = 3, .capacity = 150, .steps = 150, .workers = workers}, random_());
    }
  }
}

// Every head size takes a path of its own.
TEST_P(DecodeSelfAttention, HeadSizes) {
  for (const DType dtype : kTypes) {
    for (const int dim : {8, 16, 24, 32, 40, 64, 80, 96, 128}) {
      run_self({.dtype = dtype,
                .heads = 3,
                .head_dim = dim,
                .capacity = 90,
                .steps = 70 + below(20),
                .workers = 2},
               random_());
    }
    for (const int w : {8, 16, 32})  // eight warps are a block of long heads
      run_self({.dtype = dtype, .head_dim = 128, .capacity = 140, .steps = 140, .workers = w}, random_());
  }
}

// T5 in the decoder: unidirectional buckets, also beyond the maximum distance.
TEST_P(DecodeSelfAttention, RelativeBias) {
  for (const DType dtype : kTypes) {
    for (const int dim : {32, 64, 128}) {
      run_self({.dtype = dtype,
                .head_dim = dim,
                .capacity = 200,
                .steps = 160,
                .max_distance = 40,
                .scale = 0.3f,
                .workers = dim == 64 ? 4 : 0},
               random_());
    }
  }
}

// A finished row must cost nothing and disturb nothing, whatever its rows hold.
TEST_P(DecodeSelfAttention, FinishedRow) {
  for (const DType dtype : kTypes) {
    for (const int workers : {1, 4}) {
      run_self({.dtype = dtype, .batch = 4, .capacity = 64, .steps = 50, .workers = workers, .finish_row = 2},
               random_());
    }
  }
}

// Beam search re-uses another row's past without copying it.
TEST_P(DecodeSelfAttention, Ancestry) {
  for (const DType dtype : kTypes) {
    for (const int dim : {32, 64, 128}) {
      run_self({.dtype = dtype,
                .batch = 5,
                .head_dim = dim,
                .capacity = 100,
                .steps = 90,
                .workers = 2,
                .ancestry = true},
               random_());
    }
  }
}

// A cache of codes: every length and every way to split it with both types that one kernel serves, every head size, bias, rows
// that ended, another row's past. The codes and scales that a step appends must be the host's, or the reference computes another model.
TEST_P(DecodeSelfAttention, Codes) {
  for (const DType kv : kCodeTypes) {
    for (const int workers : {0, 1, 2, 4, 8, 16, 32}) {
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        run_self({.dtype = dtype, .kv = kv, .batch = 3, .capacity = 150, .steps = 150, .workers = workers},
                 random_());
      }
    }
    for (const int dim : {8, 16, 24, 32, 40, 64, 80, 96, 128}) {
      run_self({.dtype = dim % 3 == 0 ? DType::kF16 : DType::kBF16,
                .kv = kv,
                .heads = 3,
                .head_dim = dim,
                .capacity = 91,
                .steps = 70 + below(20),
                .workers = 1 << below(3)},
               random_());
    }
    for (const int dim : {32, 64, 128}) {
      run_self({.kv = kv,
                .batch = 5,
                .head_dim = dim,
                .capacity = 101,
                .steps = 90,
                .max_distance = dim == 64 ? 40 : 0,
                .workers = 2,
                .ancestry = true},
               random_());
      run_self({.kv = kv, .batch = 4, .head_dim = dim, .capacity = 64, .steps = 50, .finish_row = 2},
               random_());
    }
  }
}

// A warp goes from pair to pair and requests the next one's keys at this one's last tile: what one leaves in the next shows here.
TEST_P(DecodeSelfAttention, ManyPairs) {
  if (std::string_view(GetParam()) == "sm80") GTEST_SKIP() << "the kernel of sm90";
  for (const std::optional<DType> kv :
       {std::optional<DType>{}, std::optional{DType::kF8}, std::optional{DType::kI8}}) {
    run_self({.kv = kv, .batch = 63, .heads = 12, .capacity = 70, .steps = 34, .workers = 1}, random_());
    run_self({.kv = kv, .batch = 64, .heads = 32, .head_dim = 128, .capacity = 21, .steps = 20, .workers = 1},
             random_());
    run_self({.dtype = DType::kF16,
              .kv = kv,
              .batch = 61,
              .heads = 29,
              .head_dim = 64,
              .capacity = 36,
              .steps = 34,
              .max_distance = 20,
              .workers = 1,
              .finish_row = 17},
             random_());
    run_self({.kv = kv,
              .batch = 67,
              .heads = 17,
              .head_dim = 128,
              .capacity = 24,
              .steps = 20,
              .max_distance = 18,
              .workers = 1,
              .ancestry = true,
              .finish_row = 66},
             random_());
    run_self({.kv = kv,
              .batch = 150,
              .heads = 14,
              .head_dim = 32,
              .capacity = 35,
              .steps = 34,
              .workers = 1,
              .finish_row = 0},
             random_());
    run_self({.kv = kv, .batch = 111, .heads = 11, .head_dim = 80, .capacity = 19, .steps = 18, .workers = 1},
             random_());
  }
}

// A NaN in one head's key or value of codes must stay NaN there, and reach no other head or row.
TEST_P(DecodeSelfAttention, NanStaysWhereItIs) {
  constexpr int kBatch = 3, kHeads = 2, kDim = 64, kInner = kHeads * kDim, kLength = 40;
  for (const DType kv : kCodeTypes) {
    for (const int what : {1, 2}) {  // the key, the value
      const DeviceBuffer cache[2] = {DeviceBuffer(kBatch * kInner * kLength),
                                     DeviceBuffer(kBatch * kInner * kLength)};
      const DeviceBuffer scales[2] = {DeviceBuffer(4 * kBatch * kHeads * kLength),
                                      DeviceBuffer(4 * kBatch * kHeads * kLength)};
      const DeviceBuffer out(2 * kBatch * kInner);
      for (int step = 0; step < kLength; ++step) {
        std::vector<float> now =
            random_values(DType::kBF16, static_cast<size_t>(kBatch) * 3 * kInner, random_(), 1.0f);
        if (step == 20) now[3 * kInner + what * kInner + kDim + 5] = kNan;  // row 1, head 1
        const DeviceBuffer qkv = upload(DType::kBF16, now);
        const DeviceBuffer position = DeviceBuffer::of(std::vector<int32_t>{step});
        launch_decode_self_attention({.kv_dtype = kv,
                                      .q = qkv.data(),
                                      .k = qkv.data<char>() + 2 * kInner,
                                      .v = qkv.data<char>() + 4 * kInner,
                                      .qkv_stride = 3 * kInner,
                                      .k_cache = cache[0].data(),
                                      .v_cache = cache[1].data(),
                                      .k_scales = scales[0].data<float>(),
                                      .v_scales = scales[1].data<float>(),
                                      .out = out.data(),
                                      .out_stride = kInner,
                                      .position = position.data<int32_t>(),
                                      .batch = kBatch,
                                      .heads = kHeads,
                                      .head_dim = kDim,
                                      .capacity = kLength},
                                     nullptr);
        const std::vector<float> got = download(DType::kBF16, out);
        for (int i = 0; i < kBatch * kInner; ++i) {
          const bool bad = step >= 20 && i / kDim == kHeads + 1;
          ASSERT_EQ(std::isnan(got[i]), bad) << "element " << i << " at step " << step;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, DecodeSelfAttention, ::testing::Values("sm90", "sm80"),
                         [](const auto& info) { return std::string(info.param); });

// A wrong field must be named before anything runs.
TEST(DecodeAttentionErrors, NameTheField) {
  alignas(16) static char memory[16];
  int32_t number[2] = {0, 1};
  const DecodeSelfAttentionParams self{.q = memory,
                                       .k = memory,
                                       .v = memory,
                                       .qkv_stride = 192,
                                       .k_cache = memory,
                                       .v_cache = memory,
                                       .out = memory,
                                       .out_stride = 64,
                                       .position = number,
                                       .batch = 1,
                                       .heads = 1,
                                       .head_dim = 64,
                                       .capacity = 8};
  const DecodeCrossAttentionParams cross{.q = memory,
                                         .q_stride = 64,
                                         .k = memory,
                                         .v = memory,
                                         .token_stride = 128,
                                         .head_stride = 64,
                                         .offsets = number,
                                         .out = memory,
                                         .out_stride = 64,
                                         .sources = 1,
                                         .heads = 1,
                                         .head_dim = 64,
                                         .max_source_length = 8};
  const auto message = [](auto launcher, const auto& p) {
    try {
      launcher(p, nullptr);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  auto bad_self = self;
  bad_self.qkv_stride = 60;
  EXPECT_NE(message(launch_decode_self_attention, bad_self).find("qkv_stride is 60"), std::string::npos);
  bad_self = self;
  bad_self.position = nullptr;
  EXPECT_NE(message(launch_decode_self_attention, bad_self).find("position is null"), std::string::npos);
  bad_self = self;
  bad_self.workers = 3;
  EXPECT_NE(message(launch_decode_self_attention, bad_self).find("workers is 3"), std::string::npos);
  float scales = 0;
  bad_self = self;
  bad_self.kv_dtype = DType::kF16;
  EXPECT_NE(message(launch_decode_self_attention, bad_self).find("kv_dtype is f16"), std::string::npos);
  bad_self.kv_dtype = DType::kF8;
  bad_self.k_scales = &scales;
  EXPECT_NE(message(launch_decode_self_attention, bad_self).find("k_scales and v_scales"), std::string::npos);
  auto bad_cross = cross;
  bad_cross.kv_dtype = DType::kI8;
  bad_cross.k_scales = bad_cross.v_scales = &scales;
  bad_cross.head_stride = 72;
  EXPECT_NE(message(launch_decode_cross_attention, bad_cross).find("head_stride is 72"), std::string::npos);
  bad_cross = cross;
  bad_cross.rows_per_source = 0;
  EXPECT_NE(message(launch_decode_cross_attention, bad_cross).find("rows_per_source is 0"),
            std::string::npos);
  bad_cross = cross;
  bad_cross.token_stride = 63;
  EXPECT_NE(message(launch_decode_cross_attention, bad_cross).find("token_stride is 63"), std::string::npos);
  bad_cross = cross;
  bad_cross.head_dim = 136;
  EXPECT_NE(message(launch_decode_cross_attention, bad_cross).find("head_dim is 136"), std::string::npos);
}

}  // namespace
}  // namespace tandem::kernels
