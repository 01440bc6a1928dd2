// Norms by statistics on the device, one product at a time: what is written, what is taken, residuals.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/skinny/product_test.h"
#include "kernels/skinny/stats/stats_rows_test.h"

namespace tandem::kernels {
namespace {

const int kRows[] = {5, 8, 17, 31, 33, 48, 63, 64};

/// A product that writes, takes, or has a residual by statistics; large means stand for streams of real models.
struct StatsProduct {
  Product product;
  bool writes = false;
  bool takes = false;
  bool by_stats = false;
  float stream_mean = 0.0f;  // of what is normed, in standard deviations
  std::vector<float> scaled_gamma;
  std::vector<DeviceTensor> device;

  SkinnyParams& params() { return product.params; }
  std::string text() const {
    return product.text() + (writes ? " writes" : "") + (takes ? " takes" : "") +
           (by_stats ? " residual by statistics" : "") + fmt::format(" mean {}", stream_mean);
  }

  void draw(RandomValues& random) {
    SkinnyParams& p = params();
    product.with_residual = product.with_residual || by_stats;
    product.draw(random);
    device.reserve(16);
    const auto on_device = [&](const std::vector<float>& values, DType type) {
      device.emplace_back(values, type);
      return device.back().data();
    };
    std::vector<float> rows;  // what is multiplied, normed
    if (takes) {
      const auto gamma = random.normal(p.k, DType::kBF16, 1, 0.2f);
      const bool beta_there = p.x_norm == Norm::kLayer || random.coin();
      const auto beta =
          beta_there ? random.normal(p.k, DType::kBF16, 0, 0.2f) : std::vector<float>(p.k, 0.0f);
      const auto s = stream(random, p.m, p.k, p.k, DType::kF32);
      for (int b = 0; b < p.m; ++b) {
        for (int j = 0; j < p.k; ++j)
          product.x[b * p.ldx + j] = rounded(s[b * p.k + j] * gamma[j], DType::kBF16);
      }
      const NormOf norm(p.x_norm, p.eps, s, p.m, p.k, p.k);
      std::vector<float> sums(static_cast<size_t>(2) * product.w_rows());
      for (int r = 0; r < product.w_rows(); ++r) {
        double c1 = 0;
        double c2 = 0;
        for (int j = 0; j < p.k; ++j) {
          c1 += double{product.w[static_cast<int64_t>(r) * p.k + j]} * gamma[j];
          c2 += double{product.w[static_cast<int64_t>(r) * p.k + j]} * beta[j];
        }
        sums[r] = static_cast<float>(c1);
        sums[product.w_rows() + r] = static_cast<float>(c2);
      }
      p.x_stats =
          static_cast<const float*>(on_device(as_floats(pairs_of(p.x_norm, s, p.m, p.k, p.k)), DType::kF32));
      p.norm_sums = beta_there ? static_cast<const float*>(on_device(sums, DType::kF32)) : nullptr;
      for (int b = 0; b < p.m; ++b) {
        for (int j = 0; j < p.k; ++j)
          rows.push_back(static_cast<float>(
              (product.x[b * p.ldx + j] - norm.mean[b] * gamma[j]) * norm.scale[b] + beta[j]));
      }
    }
    std::vector<double> normed_residual;
    if (by_stats) {
      const auto gamma = random.normal(p.n, DType::kBF16, 1, 0.2f);
      const auto beta = random.normal(p.n, DType::kBF16, 0, 0.2f);
      const bool beta_there = random.coin();
      const Norm kind = random.coin() ? Norm::kLayer : Norm::kRms;
      product.residual = stream(random, p.m, p.n, p.ld_residual, product.residual_type());
      const NormOf norm(kind, p.residual_eps, product.residual, p.m, p.n, p.ld_residual);
      p.residual_stats = static_cast<const float*>(
          on_device(as_floats(pairs_of(kind, product.residual, p.m, p.n, p.ld_residual)), DType::kF32));
      p.residual_gamma = on_device(gamma, DType::kBF16);
      p.residual_beta = beta_there ? on_device(beta, DType::kBF16) : nullptr;
      for (int b = 0; b < p.m; ++b) {
        for (int j = 0; j < p.n; ++j)
          normed_residual.push_back((product.residual[b * p.ld_residual + j] - norm.mean[b]) * norm.scale[b] *
                                        gamma[j] +
                                    (beta_there ? beta[j] : 0));
      }
    } else if (writes && product.with_residual) {
      product.residual = stream(random, p.m, p.n, p.ld_residual, product.residual_type());
    }
    if (writes) {
      scaled_gamma = random.normal(p.n, DType::kBF16, 1, 0.2f);
      p.scaled_gamma = on_device(scaled_gamma, DType::kBF16);
    }
    product.finish_draw();
    if (takes) product.make_truth(rows);
    for (size_t i = 0; i < normed_residual.size(); ++i) {
      const auto b = static_cast<int64_t>(i) / p.n;
      product.truth[i] +=
          normed_residual[i] - product.residual[b * p.ld_residual + static_cast<int64_t>(i) % p.n];
    }
    // Sums in fp32 of numbers as large as the mean, of which the norm leaves a standard deviation.
    product.allowed = (p.y_float ? 3e-5 : 3e-3) + 5e-5 * stream_mean;
  }

  /// Standard deviation 1 about a mean that differs from row to row.
  std::vector<float> stream(RandomValues& random, int m, int width, int64_t ld, DType type) const {
    std::vector<float> s(static_cast<size_t>(m * ld));
    for (int b = 0; b < m; ++b) {
      const float mean = stream_mean * (random.coin() ? 1.0f : -0.75f);
      const auto row = random.normal(width, type, mean, 1.0f);
      std::copy(row.begin(), row.end(), &s[static_cast<size_t>(b * ld)]);
    }
    return s;
  }

  struct Written {
    std::vector<uint8_t> y, scaled, stats;
    bool operator==(const Written&) const = default;
  };
  /// Checks y against the truth.
  Written run(const SkinnyConfig* config, const std::string& what) {
    SkinnyParams& p = params();
    const DeviceTensor scaled(writes ? int64_t{p.m} * p.n : 0, DType::kBF16);
    const DeviceTensor stats(writes ? int64_t{2} * p.m * (p.n / kStatsColumns) : 0, DType::kF32);
    p.scaled_out = writes ? scaled.data() : nullptr;
    p.stats_out = writes ? static_cast<float*>(stats.data()) : nullptr;
    Written written{.y = product.check(config, what), .scaled = scaled.bytes(), .stats = stats.bytes()};
    p.scaled_out = nullptr;
    p.stats_out = nullptr;
    return written;
  }

  /// y against the truth, what else is written against the y that it is of, and the same bits again.
  void check(const SkinnyConfig* config, const std::string& what) {
    SkinnyParams& p = params();
    const Written first = run(config, what);
    EXPECT_EQ(run(config, what), first) << what << ": other bits in a second launch";
    if (!writes) return;
    if (config != nullptr && !takes && !by_stats) {  // the same sums in the same order
      const auto gamma = std::exchange(p.scaled_gamma, nullptr);
      const auto norm = std::exchange(p.stats_norm, std::nullopt);
      EXPECT_EQ(product.check(config, what), first.y) << what << ": y differs from that without statistics";
      p.scaled_gamma = gamma;
      p.stats_norm = norm;
    }
    std::vector<float> s = decoded(first.y, product.y_type());
    if (!p.y_float) {  // y in fp32 is what the others are made of
      const bool in_place = product.in_place;
      product.in_place = false;
      p.y_float = true;
      const Written exact = run(config, what + " (y_float)");
      s = decoded(exact.y, DType::kF32);
      p.y_float = false;
      product.in_place = in_place;
      EXPECT_EQ(exact.scaled, first.scaled) << what;
      EXPECT_EQ(exact.stats, first.stats) << what;
    }
    std::vector<float> want;
    for (int b = 0; b < p.m; ++b) {
      for (int j = 0; j < p.n; ++j) want.push_back(rounded(s[b * p.ldy + j] * scaled_gamma[j], DType::kBF16));
    }
    EXPECT_EQ(first.scaled, encoded(want, DType::kBF16)) << what << ": scaled_out";
    const auto pairs = pairs_of(*p.stats_norm, s, p.m, p.n, p.ldy);
    const auto got = decoded(first.stats, DType::kF32);
    for (size_t i = 0; i < pairs.size(); i += 2) {
      ASSERT_NEAR(got[i], pairs[i], 1e-6 * (1 + std::abs(pairs[i]))) << what << ": mean " << i / 2;
      ASSERT_NEAR(got[i + 1], pairs[i + 1], 1e-5 * pairs[i + 1]) << what << ": squares " << i / 2;
    }
  }
};

StatsProduct random_stats(RandomValues& random, int m, int n, int k, bool writes, bool takes, bool by_stats) {
  static constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kSilu};
  static const float kMeans[] = {0.0f, 2.0f, 20.0f};
  StatsProduct all;
  all.writes = writes;
  all.takes = takes;
  all.by_stats = by_stats;
  SkinnyParams& p = all.params();
  p.m = m;
  p.n = n;
  p.k = k;
  p.gated = !writes && !by_stats && random.between(0, 2) == 0;
  if (p.gated || (!writes && random.coin())) p.activation = random.one_of(kAll);
  if (writes) p.stats_norm = random.coin() ? Norm::kLayer : Norm::kRms;
  p.x_norm = random.coin() ? Norm::kLayer : Norm::kRms;
  p.eps = 1e-5f;
  p.residual_eps = 1e-6f;
  p.y_float = random.coin();
  all.stream_mean = random.one_of(kMeans);
  all.product.with_bias = random.coin();
  all.product.with_residual = random.between(0, 3) != 0;
  all.product.in_place = all.product.with_residual && random.coin();
  p.residual_float = random.coin();
  all.product.pad = static_cast<int>(random.between(0, 2));
  all.draw(random);
  return all;
}

/// The chosen config, and every one of a smaller product.
void check_all(RandomValues& random, int m, int n, int k, bool writes, bool takes, bool by_stats) {
  StatsProduct one = random_stats(random, m, n, k, writes, takes, by_stats);
  one.check(nullptr, one.text());
  if (int64_t{n} * k > 1024 * 1024) return;
  SkinnyProblem problem = one.product.problem();
  problem.stats = true;
  for (const SkinnyConfig& c : all_configs(problem, skinny_card())) {
    one.check(&c, one.text() + " " + config_text(c));
    if (::testing::Test::HasFailure()) return;  // thousands of lines help nobody
  }
}

// Pairs of other columns or rows, a variance that cancels under a large mean, or an operand rounded twice.
TEST(SkinnyStats, WritesTheScaledRowsAndTheirStatistics) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{64, 264},   {192, 72},    {512, 512},   {512, 2048},
                                       {768, 1000}, {1024, 1024}, {1024, 4096}, {2048, 2048}};
  for (const auto& [n, k] : sizes) {
    for (int m : {5, 17, 64, random.one_of(kRows)}) check_all(random, m, n, k, true, false, false);
  }
}

// A row normed with another's statistics, a mean left in, gate and up with each other's sums, or the bias normed as well.
TEST(SkinnyStats, TakesThem) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{8, 64},     {1000, 192},  {1536, 512},  {3072, 768},
                                       {512, 1024}, {3072, 1024}, {8192, 2048}, {1024, 4096}};
  for (const auto& [n, k] : sizes) {
    for (int m : {5, 33, 63, random.one_of(kRows)}) check_all(random, m, n, k, false, true, false);
  }
}

// A post-norm model's residual, alone and with all the rest, in place and not.
TEST(SkinnyStats, NormsItsResidual) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{64, 64}, {512, 512}, {768, 1024}, {1024, 4096}};
  for (const auto& [n, k] : sizes) {
    for (int m : {5, 17, 33, 64}) {
      check_all(random, m, n, k, false, false, true);
      check_all(random, m, n, k, true, false, true);
      check_all(random, m, n, k, true, true, true);
    }
  }
}

// Each wrong combination must be refused with its field's name; what was read or written instead would be anyone's memory. No
// device is needed.
TEST(SkinnyStats, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[256];
  auto* const floats = reinterpret_cast<float*>(memory);
  const SkinnyParams plain{.m = 8, .n = 64, .k = 64, .x = memory, .w = memory + 16, .y = memory + 32};
  SkinnyParams writes = plain;
  writes.scaled_out = memory + 48;
  writes.scaled_gamma = memory + 64;
  writes.stats_out = floats + 20;
  writes.stats_norm = Norm::kLayer;
  SkinnyParams takes = plain;
  takes.x_stats = floats + 24;
  takes.norm_sums = floats + 28;
  SkinnyParams norms = plain;
  norms.residual = memory + 128;
  norms.residual_stats = floats + 36;
  norms.residual_gamma = memory + 160;
  const auto refused = [&](const SkinnyParams& good, const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    expect_refused(field, [&] { launch_skinny(p, nullptr); });
  };
  for (const SkinnyParams& good : {writes, takes, norms}) {
    const char* field = good.stats_out != nullptr ? "stats_out"
                        : good.x_stats != nullptr ? "x_stats"
                                                  : "residual_stats";
    refused(good, field, [](auto& p) { p.m = 4; });
    refused(good, field, [](auto& p) { p.dtype = DType::kF16; });
    refused(good, field, [](auto& p) {
      p.w_dtype = DType::kI8;
      p.scales = memory;
    });
    refused(good, field, [](auto& p) {
      p.norm = Norm::kRms;
      p.gamma = memory;
    });
    refused(good, field, [](auto& p) { p.metadata = memory; });
  }
  refused(writes, "scaled_out", [](auto& p) { p.scaled_out = nullptr; });
  refused(writes, "scaled_out", [](auto& p) { p.scaled_out = memory + 50; });
  refused(writes, "scaled_out", [](auto& p) { p.scaled_out = const_cast<void*>(p.x); });
  refused(writes, "scaled_out", [](auto& p) { p.scaled_out = p.y; });
  refused(writes, "scaled_gamma", [](auto& p) { p.scaled_gamma = nullptr; });
  refused(writes, "scaled_gamma", [](auto& p) { p.scaled_gamma = memory + 2; });
  refused(writes, "stats_norm", [](auto& p) { p.stats_norm.reset(); });
  refused(writes, "stats_out", [](auto& p) { p.stats_out = reinterpret_cast<float*>(memory + 4); });
  refused(writes, "stats_out", [](auto& p) {
    p.x_stats = p.stats_out;
    p.x_norm = Norm::kRms;
  });
  refused(writes, "n ", [](auto& p) { p.n = 72; });
  refused(writes, "gated", [](auto& p) {
    p.gated = true;
    p.activation = Activation::kSilu;
  });
  refused(plain, "stats_norm", [](auto& p) { p.stats_norm = Norm::kRms; });
  refused(plain, "scaled_out", [](auto& p) { p.scaled_out = memory + 48; });
  refused(takes, "k ", [](auto& p) { p.k = 72; });
  refused(takes, "norm_sums", [](auto& p) { p.norm_sums = nullptr; });
  refused(takes, "x_stats", [](auto& p) { p.x_stats = reinterpret_cast<float*>(memory + 4); });
  refused(plain, "norm_sums", [](auto& p) { p.norm_sums = reinterpret_cast<float*>(memory); });
  refused(norms, "residual ", [](auto& p) { p.residual = nullptr; });
  refused(norms, "residual_gamma", [](auto& p) { p.residual_gamma = nullptr; });
  refused(norms, "n ", [](auto& p) { p.n = 72; });
  refused(plain, "residual_beta", [](auto& p) { p.residual_beta = memory; });
}

}  // namespace
}  // namespace tandem::kernels
