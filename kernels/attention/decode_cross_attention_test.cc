#include "kernels/attention/decode_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
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

class DecodeCrossAttention : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { TANDEM_NEED_DEVICE(); }
  ScopedEnv arch_{"TANDEM_ARCH", GetParam()};
  std::mt19937_64 random_{test_seed()};
  int below(int n) { return static_cast<int>(random_() % n); }
};

struct CrossCase {
  DType dtype = DType::kBF16;
  std::optional<DType> kv = {};
  int heads = 2;
  int head_dim = 64;
  std::vector<int> lengths;
  int rows_per_source = 1;
  bool head_major = false;
  float scale = 0.125f;
  int workers = 0;
  bool some_finished = false;
  bool poison_odd = false;
};

void run_cross(const CrossCase& c, uint64_t seed) {
  const DType kv_type = c.kv.value_or(c.dtype);
  const bool codes = kv_type != c.dtype;
  std::string trace = std::string(dtype_name(c.dtype)) + " of " + std::string(dtype_name(kv_type)) + " dim " +
                      std::to_string(c.head_dim) + " rows " + std::to_string(c.rows_per_source) +
                      " workers " + std::to_string(c.workers) + " lengths";
  for (int n : c.lengths) trace += " " + std::to_string(n);
  SCOPED_TRACE(trace);
  const int sources = static_cast<int>(c.lengths.size());
  const int rows = sources * c.rows_per_source;
  const int inner = c.heads * c.head_dim;
  std::vector<int32_t> offsets(sources + 1, 0);
  std::partial_sum(c.lengths.begin(), c.lengths.end(), offsets.begin() + 1);
  const int tokens = offsets.back() + 40;  // NaN after the last source
  const int64_t token_stride = c.head_major ? c.head_dim : 4 * inner;
  const int64_t head_stride = c.head_major ? static_cast<int64_t>(tokens) * c.head_dim : c.head_dim;
  const int64_t v_at = c.head_major ? static_cast<int64_t>(tokens) * inner : inner;
  const size_t kv_size = static_cast<size_t>(tokens) * (c.head_major ? 2 : 4) * inner;
  std::vector<float> kv = random_values(c.dtype, kv_size, seed, 1.5f);
  const auto element = [&](int token, int head) { return token * token_stride + head * head_stride; };
  for (int h = 0; h < c.heads; ++h) {
    const auto poison = [&](int token) {
      std::fill_n(kv.begin() + element(token, h), c.head_dim, kNan);
      std::fill_n(kv.begin() + v_at + element(token, h), c.head_dim, kNan);
    };
    for (int token = offsets.back(); token < tokens; ++token) poison(token);
    for (int s = 1; s < sources && c.poison_odd; s += 2) {
      for (int token = offsets[s]; token < offsets[s + 1]; ++token) poison(token);
    }
  }
  const int64_t q_stride = inner + 24;
  const int64_t out_stride = inner + 8;
  std::vector<float> q = random_values(c.dtype, static_cast<size_t>(rows * q_stride), seed + 1, 1.5f);
  std::vector<int32_t> finished(rows, 0);
  for (int r = 0; r < rows && c.some_finished; ++r) {
    // Source 0 is finished whole, the others here and there.
    finished[r] = r < c.rows_per_source || random_bits(seed, r) % 3 == 0 ? 1 : 0;
    if (finished[r] != 0) std::fill_n(q.begin() + r * q_stride, q_stride, kNan);
  }
  // Each head of a token is a group, so the scales lie as the codes do.
  HostCodes host;
  if (codes) {
    for (size_t i = 0; i < kv.size(); i += 3 * static_cast<size_t>(c.head_dim)) {
      const float factor = std::ldexp(1.0f, static_cast<int>(random_bits(seed, i) % 16) - 12);
      for (int e = 0; e < c.head_dim && i + e < kv.size(); ++e)
        kv[i + e] = round_to(c.dtype, kv[i + e] * factor);
    }
    host = host_codes(kv, c.head_dim, kv_type);
    kv = host.values;
  }
  const DeviceBuffer device_kv = codes ? DeviceBuffer::of(host.codes) : upload(c.dtype, kv);
  const DeviceBuffer scales = DeviceBuffer::of(host.scales);
  const DeviceBuffer device_q = upload(c.dtype, q);
  const DeviceBuffer device_offsets = DeviceBuffer::of(offsets);
  const DeviceBuffer device_finished = DeviceBuffer::of(finished);
  const std::vector<float> blank(static_cast<size_t>(rows * out_stride), kNan);
  const DeviceBuffer out[2] = {upload(c.dtype, blank), upload(c.dtype, blank)};
  const int longest = std::max(1, *std::max_element(c.lengths.begin(), c.lengths.end()));
  for (const DeviceBuffer& to : out) {
    launch_decode_cross_attention({.dtype = c.dtype,
                                   .kv_dtype = c.kv,
                                   .q = device_q.data(),
                                   .q_stride = q_stride,
                                   .k = device_kv.data(),
                                   .v = device_kv.data<char>() + tensor_bytes(kv_type, v_at),
                                   .token_stride = token_stride,
                                   .head_stride = head_stride,
                                   .k_scales = codes ? scales.data<float>() : nullptr,
                                   .v_scales = codes ? scales.data<float>() + v_at / c.head_dim : nullptr,
                                   .scale_token_stride = token_stride / c.head_dim,
                                   .scale_head_stride = head_stride / c.head_dim,
                                   .offsets = device_offsets.data<int32_t>(),
                                   .out = to.data(),
                                   .out_stride = out_stride,
                                   .finished = c.some_finished ? device_finished.data<int32_t>() : nullptr,
                                   .sources = sources,
                                   .rows_per_source = c.rows_per_source,
                                   .heads = c.heads,
                                   .head_dim = c.head_dim,
                                   .max_source_length = longest,
                                   .scale = c.scale,
                                   .workers = c.workers},
                                  nullptr);
  }
  const std::vector<float> got = download(c.dtype, out[0]);
  EXPECT_EQ(out[0].to_host<uint8_t>(), out[1].to_host<uint8_t>()) << "two runs differ";
  RelativeError error;
  for (int r = 0; r < rows; ++r) {
    const int s = r / c.rows_per_source;
    if (c.poison_odd && s % 2 == 1) continue;
    const bool zero = finished[r] != 0 || c.lengths[s] == 0;
    for (int h = 0; h < c.heads; ++h) {
      std::vector<double> want(c.head_dim, 0.0);
      if (!zero) {
        want = attend(
            q.data() + r * q_stride + h * c.head_dim, c.lengths[s], c.head_dim, c.scale,
            [&](int j) { return kv.data() + element(offsets[s] + j, h); },
            [&](int j) { return kv.data() + v_at + element(offsets[s] + j, h); }, [](int) { return 0.0; });
      }
      RelativeError of_pair;
      for (int i = 0; i < c.head_dim; ++i) {
        const float value = got[r * out_stride + h * c.head_dim + i];
        error.add(value, want[i]);
        of_pair.add(value, want[i]);
        ASSERT_TRUE(!zero || value == 0.0f) << "row " << r;
      }
      ASSERT_LE(of_pair.value(), kPairTolerance) << "row " << r << " head " << h;
    }
    for (int64_t i = inner; i < out_stride; ++i)
      ASSERT_TRUE(std::isnan(got[r * out_stride + i])) << "wrote padding";
  }
  EXPECT_LE(error.value(), tolerance(c.dtype));
}

// Lengths around the tiles and the shares of a warp, over every way to split them.
TEST_P(DecodeCrossAttention, Lengths) {
  for (const DType dtype : kTypes) {
    for (const int workers : {0, 1, 2, 4, 8, 16, 32}) {
      run_cross(
          {.dtype = dtype, .lengths = {1, 2, 15, 16, 17, 31, 33, 64, 65, 0, 127, 300}, .workers = workers},
          random_());
    }
  }
}

// Both layouts of the projected source, every head size.
TEST_P(DecodeCrossAttention, HeadSizesAndLayouts) {
  for (const DType dtype : kTypes) {
    for (const int dim : {8, 16, 24, 32, 64, 80, 128}) {
      for (const bool head_major : {false, true}) {
        run_cross({.dtype = dtype,
                   .heads = 3,
                   .head_dim = dim,
                   .lengths = {1 + below(100), 1 + below(40), 1 + below(200)},
                   .head_major = head_major,
                   .workers = 1 << below(6)},
                  random_());
      }
    }
  }
}

// Eight warps are a block of long heads: of a row, of beams, with heads that no block divides.
TEST_P(DecodeCrossAttention, LongHeads) {
  for (const DType dtype : kTypes) {
    for (const int workers : {0, 8, 16}) {
      for (const int rows : {1, 4, 9}) {
        run_cross({.dtype = dtype,
                   .heads = 3,
                   .head_dim = workers == 16 ? 80 : 128,
                   .lengths = {1, 2, 15, 16, 17, 127, 128, 129, 0, 200},
                   .rows_per_source = rows,
                   .workers = workers,
                   .some_finished = rows == 4},
                  random_());
      }
    }
  }
}

// Beams share one pass over the source: a mixed-up row shows at every number of beams, within a pass and over several.
TEST_P(DecodeCrossAttention, Beams) {
  for (const DType dtype : kTypes) {
    for (const int rows : {2, 3, 4, 5, 7, 8, 9, 17}) {
      run_cross({.dtype = dtype,
                 .head_dim = rows % 2 == 0 ? 64 : 128,
                 .lengths = {1 + below(150), 1, 1 + below(90)},
                 .rows_per_source = rows,
                 .workers = 1 << below(6),
                 .some_finished = rows % 3 == 0},
                random_());
    }
  }
}

// A finished row is skipped, its live neighbours are not.
TEST_P(DecodeCrossAttention, Finished) {
  for (const DType dtype : kTypes) {
    for (const int rows : {1, 4}) {
      run_cross({.dtype = dtype,
                 .lengths = {50, 1 + below(80), 1 + below(80), 40, 33},
                 .rows_per_source = rows,
                 .workers = rows,
                 .some_finished = true},
                random_());
    }
  }
}

// The next source begins where this one ends: NaN there must not reach this one.
TEST_P(DecodeCrossAttention, NeighboursDoNotLeak) {
  for (const DType dtype : kTypes) {
    for (const int workers : {1, 8}) {
      run_cross({.dtype = dtype,
                 .lengths = {1 + below(100), 20, 1 + below(60), 70, 1, 1, 100},
                 .workers = workers,
                 .poison_odd = true},
                random_());
    }
  }
}

// Codes: lengths around the tiles over every way to split them, both layouts and with them both places of scales, every
// head size, beams, rows that ended, and neighbours whose scales are NaN.
TEST_P(DecodeCrossAttention, Codes) {
  for (const DType kv : kCodeTypes) {
    for (const int workers : {0, 1, 2, 4, 8, 16, 32}) {
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        run_cross({.dtype = dtype,
                   .kv = kv,
                   .lengths = {1, 2, 15, 16, 17, 31, 33, 64, 65, 0, 127, 300},
                   .workers = workers},
                  random_());
      }
    }
    for (const int dim : {8, 16, 24, 32, 64, 80, 128}) {
      for (const bool head_major : {false, true}) {
        run_cross({.dtype = head_major ? DType::kF16 : DType::kBF16,
                   .kv = kv,
                   .heads = 4,  // values begin on 16 bytes after the keys
                   .head_dim = dim,
                   .lengths = {1 + below(100), 1 + below(40), 1 + below(200)},
                   .head_major = head_major,
                   .workers = 1 << below(6)},
                  random_());
      }
    }
    for (const int rows : {2, 3, 4, 5, 7, 8, 9, 17}) {
      run_cross({.kv = kv,
                 .head_dim = rows % 2 == 0 ? 64 : 128,
                 .lengths = {1 + below(150), 1, 1 + below(90)},
                 .rows_per_source = rows,
                 .workers = 1 << below(6),
                 .some_finished = rows % 3 == 0},
                random_());
    }
    for (const int workers : {1, 8}) {
      run_cross({.kv = kv,
                 .lengths = {1 + below(100), 20, 1 + below(60), 70, 1, 1, 100},
                 .workers = workers,
                 .poison_odd = true},
                random_());
    }
  }
}

// More pairs than a multiprocessor has warps (see DecodeSelfAttention.ManyPairs), of sources as long as one another or not, empty,
// finished, or full of NaN: what the warp's last pair left must not reach the next.
TEST_P(DecodeCrossAttention, ManyPairs) {
  if (std::string_view(GetParam()) == "sm80") GTEST_SKIP() << "the kernel of sm90";
  const auto lengths = [&](int sources, int longest) {
    std::vector<int> some(sources);
    for (int& n : some) n = below(longest + 1);
    return some;
  };
  std::vector<int> every(513);
  std::iota(every.begin(), every.end(), 1);
  run_cross({.lengths = every, .workers = 1}, random_());
  for (const std::optional<DType> kv :
       {std::optional<DType>{}, std::optional{DType::kF8}, std::optional{DType::kI8}}) {
    std::vector<int> edges = lengths(63, 90);
    for (const int at : {16, 32, 64, 128, 256, 512}) {
      for (const int by : {-1, 0, 1}) edges[below(63)] = at + by;
    }
    run_cross({.kv = kv, .heads = 12, .lengths = edges, .workers = 1}, random_());
    run_cross({.kv = kv, .heads = 32, .lengths = lengths(64, 50), .workers = 1, .some_finished = true},
              random_());
    run_cross({.dtype = DType::kF16,
               .kv = kv,
               .heads = 32,
               .head_dim = 128,
               .lengths = lengths(64, 40),
               .workers = 1,
               .some_finished = true},
              random_());
    run_cross({.kv = kv,
               .heads = 4,
               .head_dim = 128,
               .lengths = lengths(301, 40),
               .head_major = true,
               .workers = 1,
               .poison_odd = true},
              random_());
    for (const int rows : {4, 9}) {  // a source's rows in one pass, in two
      run_cross({.kv = kv,
                 .heads = 4,
                 .head_dim = rows == 4 ? 128 : 32,
                 .lengths = lengths(301, 40),
                 .rows_per_source = rows,
                 .workers = 1,
                 .some_finished = true},
                random_());
    }
  }
}

// Requests before the previous kernel has ended must not read what that kernel makes: compare chains of cross- and
// self-attention, each reading its predecessor's output, with and without overlap.
void run_chain(int batch, int workers, uint64_t seed) {
  constexpr int kHeads = 4;
  constexpr int kDim = 64;
  constexpr int kInner = kHeads * kDim;
  constexpr int kLength = 96;
  const DeviceBuffer kv =
      upload(DType::kBF16, random_values(DType::kBF16, batch * kLength * 2 * kInner, seed, 1.0f));
  std::vector<int32_t> offsets(batch + 1);
  for (int b = 0; b <= batch; ++b) offsets[b] = b * kLength;
  const DeviceBuffer device_offsets = DeviceBuffer::of(offsets);
  const DeviceBuffer position = DeviceBuffer::of(std::vector<int32_t>{kLength / 2});
  const std::vector<float> cache = random_values(DType::kBF16, batch * kInner * kLength, seed + 1, 1.0f);
  const std::vector<float> start = random_values(DType::kBF16, batch * kInner, seed + 2, 1.0f);
  const TestStream stream;
  std::vector<std::vector<uint8_t>> results;
  for (int round = 0; round < 8; ++round) {
    const bool dependent = round > 0;
    const bool ready = round > 1;
    const DeviceBuffer x = upload(DType::kBF16, start);
    const DeviceBuffer y = upload(DType::kBF16, start);
    const DeviceBuffer k_cache = upload(DType::kBF16, cache);
    const DeviceBuffer v_cache = upload(DType::kBF16, cache);
    TimedGraph graph(stream, [&](cudaStream_t s) {
      for (int step = 0; step < 20; ++step) {
        launch_decode_cross_attention({.q = x.data(),
                                       .q_stride = kInner,
                                       .k = kv.data(),
                                       .v = kv.data<char>() + 2 * kInner,
                                       .token_stride = 2 * kInner,
                                       .head_stride = kDim,
                                       .offsets = device_offsets.data<int32_t>(),
                                       .out = y.data(),
                                       .out_stride = kInner,
                                       .sources = batch,
                                       .heads = kHeads,
                                       .head_dim = kDim,
                                       .max_source_length = kLength,
                                       .scale = 0.5f,
                                       .workers = workers,
                                       .dependent = dependent && step > 0,
                                       .kv_ready = ready},
                                      s);
        launch_decode_self_attention({.q = y.data(),
                                      .k = y.data(),
                                      .v = y.data(),
                                      .qkv_stride = kInner,
                                      .k_cache = k_cache.data(),
                                      .v_cache = v_cache.data(),
                                      .out = x.data(),
                                      .out_stride = kInner,
                                      .position = position.data<int32_t>(),
                                      .batch = batch,
                                      .heads = kHeads,
                                      .head_dim = kDim,
                                      .capacity = kLength,
                                      .scale = 0.5f,
                                      .workers = workers,
                                      .dependent = dependent,
                                      .kv_ready = ready},
                                     s);
      }
    });
    graph.launch();
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    results.push_back(x.to_host<uint8_t>());
  }
  for (const auto& result : results) EXPECT_EQ(result, results.front());
}

TEST_P(DecodeCrossAttention, DependentChain) {
  run_chain(6, 2, random_());
  run_chain(6, 1, random_());
}

// The same of warps that go on to a second pair, and with it to a second query.
TEST_P(DecodeCrossAttention, DependentChainOfManyPairs) {
  run_chain(401, 1, random_());
}

INSTANTIATE_TEST_SUITE_P(Paths, DecodeCrossAttention, ::testing::Values("sm90", "sm80"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tandem::kernels
