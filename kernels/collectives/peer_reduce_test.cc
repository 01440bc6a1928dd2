#include "kernels/collectives/peer_reduce.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "harness/base/error.h"
#include "kernels/collectives/peer_tensors_test_util.h"

namespace tandem::kernels {
namespace {

// Without it: a sum is wrong in its tail, over several parts or rows, in another order than that of ranks, or differs from rank
// to rank, in either algorithm, at 2, 4 and 8 ranks.
TEST(PeerReduce, SumsInRankOrderOnEveryRank) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for_all_ranks(kSmall, [&](const LocalRanks& all) {
    for (const DType dtype : kFloatTypes) {
      const int64_t unit = kPiece / dtype_bytes(dtype);
      for (const int64_t pieces : {1, 31, 128, 129, 1000, 4096, 5000, 40000}) {
        for (const PeerAlgorithm algorithm : kAlgorithms) {
          const bool in_place = random.coin();
          const auto x = values_of_ranks(all.size(), pieces * unit, dtype, random);
          const Tensors from = tensors(all, x, dtype);
          const Tensors to = poisoned(all, pieces * unit, dtype);
          all.each([&](int r) {
            launch_all_reduce(all.view(r),
                              {.algorithm = algorithm,
                               .dtype = dtype,
                               .count = pieces * unit,
                               .x = from[r]->data(),
                               .y = (in_place ? from : to)[r]->data()},
                              all.stream(r));
          });
          all.synchronize();
          const std::string what = std::string(name(algorithm)) + " " + std::string(dtype_name(dtype)) + " " +
                                   std::to_string(pieces);
          expect_everywhere(all, in_place ? from : to, encoded(host_sum(x, dtype), dtype), what);
          if (!in_place) {
            for (int r = 0; r < all.size(); ++r)
              EXPECT_TRUE(bytes(all, from, r) == encoded(x[r], dtype)) << what << ": x must stay";
          }
        }
      }
    }
  });
}

/// One norm over reduced rows, its operands equal on all ranks but for x.
struct NormCase {
  NormParams params;
  bool with_bias = false;
  bool with_residual = true;
  bool with_sum = true;
  bool sum_in_place = false;
  bool y_in_place = false;
  bool with_codes = false;
};

void check_norm(const LocalRanks& all, PeerAlgorithm algorithm, const NormCase& c, RandomValues& random) {
  NormParams p = c.params;
  const DType dtype = p.dtype;
  const int64_t count = p.rows * p.d;
  const auto x = values_of_ranks(all.size(), count, dtype, random);
  const auto residual = random.normal(count, p.stream_dtype);
  const auto gamma = random.normal(p.d, dtype, 1, 0.2f);
  const auto beta = random.normal(p.d, dtype);
  const auto bias = random.normal(p.d, dtype);
  struct Operands {
    DeviceTensor x, residual, gamma, beta, bias, sum, y, codes, scales;
  };
  const auto operands = [&](const std::vector<float>& rows) {
    return std::make_unique<Operands>(Operands{.x = {rows, dtype},
                                               .residual = {residual, p.stream_dtype},
                                               .gamma = {gamma, dtype},
                                               .beta = {beta, dtype},
                                               .bias = {bias, dtype},
                                               .sum = {count, p.stream_dtype},
                                               .y = {count, dtype},
                                               .codes = {count, DType::kF8},
                                               .scales = {p.rows, DType::kF32}});
  };
  const auto params = [&](const Operands& o) {
    NormParams q = p;
    q.x = o.x.data();
    if (c.with_residual) q.residual = o.residual.data();
    if (c.with_sum) q.sum = (c.sum_in_place ? o.residual : o.sum).data();
    if (c.with_bias) q.bias = o.bias.data();
    q.gamma = o.gamma.data();
    q.beta = p.norm == Norm::kLayer ? o.beta.data() : nullptr;
    q.y = (c.y_in_place ? o.x : o.y).data();
    if (c.with_codes) {
      q.codes = o.codes.data();
      q.scales = static_cast<float*>(o.scales.data());
    }
    return q;
  };
  struct Results {
    std::vector<uint8_t> y, sum, codes, scales;
    bool operator==(const Results&) const = default;
  };
  const auto results = [&](const Operands& o) {
    return Results{.y = (c.y_in_place ? o.x : o.y).bytes(),
                   .sum = (c.sum_in_place ? o.residual : o.sum).bytes(),
                   .codes = o.codes.bytes(),
                   .scales = o.scales.bytes()};
  };

  const auto plain = operands(host_sum(x, dtype));
  launch_norm(params(*plain), nullptr);
  const Results want = results(*plain);

  std::vector<std::unique_ptr<Operands>> ranks(static_cast<size_t>(all.size()));
  all.each([&](int r) {
    ranks[r] = operands(x[r]);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());  // the ranks' streams do not wait for the poison
  });
  all.each([&](int r) { launch_all_reduce_norm(all.view(r), algorithm, params(*ranks[r]), all.stream(r)); });
  all.synchronize();
  all.each([&](int r) {
    const Results got = results(*ranks[r]);
    const std::string what = std::string(name(algorithm)) + " " + std::string(dtype_name(dtype)) +
                             " stream " + std::string(dtype_name(p.stream_dtype)) + " " +
                             std::to_string(p.rows) + " x " + std::to_string(p.d) + ", " + all.text() +
                             ": rank " + std::to_string(r) + " ";
    EXPECT_TRUE(got.y == want.y) << what << "y";
    EXPECT_TRUE(got.sum == want.sum) << what << "sum";
    EXPECT_TRUE(got.codes == want.codes) << what << "codes";
    EXPECT_TRUE(got.scales == want.scales) << what << "scales";
  });
}

// Without it: the fused norm is not the norm of the sum, bit for bit: a width, a row beyond the grid, a part, an optional
// operand or a shared buffer is wrong.
TEST(PeerReduce, FusedNormIsTheNormOfTheSum) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for_all_ranks(kSmall, [&](const LocalRanks& all) {
    for (const auto& [rows, d] :
         {std::pair{1, 1024}, {2, 512}, {9, 1024}, {64, 1024}, {33, 768}, {5, 2048}, {3, 8}, {700, 64}}) {
      for (const DType dtype : kFloatTypes) {
        for (const PeerAlgorithm algorithm : kAlgorithms) {
          NormCase c;
          c.params = {.dtype = dtype,
                      .x_dtype = dtype,
                      .stream_dtype = random.coin() ? dtype : DType::kF32,
                      .norm = random.coin() ? Norm::kLayer : Norm::kRms,
                      .rows = rows,
                      .d = d,
                      .eps = random.coin() ? 1e-5f : 1e-6f};
          c.with_bias = random.coin();
          c.with_residual = random.coin();
          c.with_sum = random.coin();
          c.sum_in_place = c.with_residual && random.coin();
          c.y_in_place = random.coin();
          c.with_codes = dtype == DType::kBF16 && random.coin();
          check_norm(all, algorithm, c, random);
        }
      }
    }
  });
}

// Without it: ranks' shares land in each other's places, or the last part of one is lost.
TEST(PeerReduce, GathersInRankOrder) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for_all_ranks(kSmall, [&](const LocalRanks& all) {
    for (const int64_t count : {1, 2, 5, 128, 1000, 16384}) {
      const auto x = values_of_ranks(all.size(), count, DType::kF32, random);
      std::vector<float> want;
      for (const auto& share : x) want.insert(want.end(), share.begin(), share.end());
      const bool in_place = random.coin();
      const Tensors from = tensors(all, x, DType::kF32);
      const Tensors to = poisoned(all, count * all.size(), DType::kF32);
      all.each([&](int r) {
        float* own = static_cast<float*>(to[r]->data()) + r * count;
        if (in_place) {
          TANDEM_CUDA_CHECK(cudaMemcpyAsync(own, from[r]->data(), static_cast<size_t>(4 * count),
                                            cudaMemcpyDeviceToDevice, all.stream(r)));
        }
        launch_all_gather(all.view(r), in_place ? own : from[r]->data(), 4 * count, to[r]->data(), false,
                          all.stream(r));
      });
      all.synchronize();
      expect_everywhere(all, to, encoded(want, DType::kF32), "gather " + std::to_string(count));
    }
  });
}

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Without it: a rank that never comes hangs the others for ever, or is not named; or the group goes on with garbage.
TEST(PeerReduce, RankThatNeverComesIsNamedInTime) {
  TANDEM_NEEDS_DEVICE();
  PeerOptions options = kSmall;
  options.wait_s = 0.2;
  for (const PeerAlgorithm algorithm : kAlgorithms) {
    for_all_ranks(options, [&](const LocalRanks& all) {
      const int missing = all.size() - 1;
      const int64_t count = 16384;
      const auto x = std::vector(static_cast<size_t>(all.size()), std::vector<float>(count, 1.0f));
      const Tensors from = tensors(all, x, DType::kF32);
      const auto launch_rest = [&](const Tensors& to) {
        all.each([&](int r) {
          if (r == missing) return;
          launch_all_reduce(all.view(r),
                            {.algorithm = algorithm,
                             .dtype = DType::kF32,
                             .count = count,
                             .x = from[r]->data(),
                             .y = to[r]->data()},
                            all.stream(r));
        });
        all.synchronize();
      };
      const Tensors first = poisoned(all, count, DType::kF32);
      const double waited = seconds_of([&] { launch_rest(first); });
      EXPECT_GE(waited, 0.1) << all.text();
      EXPECT_LE(waited, 2.0) << all.text();
      for (int r = 0; r < missing; ++r)
        EXPECT_EQ(all.memory(r).lost(), missing) << all.text() << ": rank " << r;
      const Tensors later = poisoned(all, count, DType::kF32);
      EXPECT_LE(seconds_of([&] {
                  for (int i = 0; i < 50; ++i) launch_rest(later);
                }),
                1.0)
          << all.text() << ": a lost group must not wait again";
      const std::vector<uint8_t> untouched(static_cast<size_t>(4 * count), 0xff);
      for (int r = 0; r < missing; ++r) EXPECT_TRUE(bytes(all, later, r) == untouched) << all.text();
    });
  }
}

// Without it: a rank that is only late is given up.
TEST(PeerReduce, LateRankIsWaitedFor) {
  TANDEM_NEEDS_DEVICE();
  for_all_ranks(kSmall, [&](const LocalRanks& all) {
    for (const PeerAlgorithm algorithm : kAlgorithms) {
      const int64_t count = 4096;
      const auto x = std::vector(static_cast<size_t>(all.size()), std::vector<float>(count, 1.0f));
      const Tensors t = tensors(all, x, DType::kF32);
      all.each([&](int r) {
        if (r == all.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        launch_all_reduce(all.view(r),
                          {.algorithm = algorithm,
                           .dtype = DType::kF32,
                           .count = count,
                           .x = t[r]->data(),
                           .y = t[r]->data()},
                          all.stream(r));
      });
      all.synchronize();
      expect_everywhere(all, t, encoded(host_sum(x, DType::kF32), DType::kF32), name(algorithm));
    }
  });
}

// Without it: wrong parameters reach the device and hang or fail there, far from their cause.
TEST(PeerReduce, RefusesWrongParameters) {
  alignas(16) char memory[64] = {};
  PeerView peers{.layout = {.ranks = 2, .oneshot_bytes = 1 << 16, .twoshot_bytes = 1 << 16}};
  peers.arena[0] = peers.arena[1] = memory;
  const AllReduceParams good{.dtype = DType::kF32, .count = 4, .x = memory, .y = memory};
  const auto refused = [&](auto change) {
    PeerView v = peers;
    AllReduceParams p = good;
    change(v, p);
    EXPECT_THROW(launch_all_reduce(v, p, nullptr), UsageError);
  };
  refused([](PeerView& v, AllReduceParams&) { v.layout.ranks = 3; });
  refused([](PeerView& v, AllReduceParams&) { v.rank = 2; });
  refused([](PeerView& v, AllReduceParams&) { v.sharing = 0; });
  refused([](PeerView& v, AllReduceParams&) { v.arena[1] = nullptr; });
  refused([](PeerView& v, AllReduceParams&) { v.layout.oneshot_bytes = 16; });
  refused([](PeerView&, AllReduceParams& p) { p.dtype = DType::kI8; });
  refused([](PeerView&, AllReduceParams& p) { p.count = 3; });
  refused([](PeerView&, AllReduceParams& p) { p.count = -4; });
  refused([](PeerView&, AllReduceParams& p) { p.x = nullptr; });
  refused([&](PeerView&, AllReduceParams& p) { p.y = memory + 4; });

  const NormParams norm{.dtype = DType::kF32,
                        .x_dtype = DType::kF32,
                        .stream_dtype = DType::kF32,
                        .rows = 1,
                        .d = 4,
                        .x = memory,
                        .gamma = memory,
                        .y = memory};
  const auto refused_norm = [&](auto change) {
    NormParams p = norm;
    change(p);
    EXPECT_THROW(launch_all_reduce_norm(peers, PeerAlgorithm::kOneShot, p, nullptr), UsageError);
  };
  refused_norm([](NormParams& p) { p.d = 3; });
  refused_norm([](NormParams& p) { p.d = 4096; });
  refused_norm([](NormParams& p) { p.gamma = nullptr; });
  refused_norm([&](NormParams& p) { p.residual = memory + 4; });
  refused_norm([](NormParams& p) {
    p.dtype = p.stream_dtype = DType::kBF16;
    p.d = 8;
  });
  EXPECT_THROW(launch_all_gather(peers, memory, 6, memory, false, nullptr), UsageError);
  EXPECT_THROW(launch_all_gather(peers, memory + 2, 8, memory, false, nullptr), UsageError);
  EXPECT_THROW(launch_all_gather(peers, memory, 1 << 20, memory, false, nullptr), UsageError);
  EXPECT_TRUE(all_reduce_norm_fits(DType::kBF16, 4096));
  EXPECT_FALSE(all_reduce_norm_fits(DType::kBF16, 4104));
}

}  // namespace
}  // namespace tandem::kernels
