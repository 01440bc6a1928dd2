#include "kernels/skinny/stats/stats_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "harness/model/config.h"
#include "kernels/skinny/wide/wide_plan.h"

namespace tandem::kernels {
namespace {

constexpr SkinnyCard kH200;
constexpr int kWarp = 32;

/// Rows [m, width] in fp32 and their statistics in double.
struct Stream {
  int m;
  int width;
  std::vector<float> values;

  Stream(std::mt19937& random, int rows, int columns, float mean) : m(rows), width(columns) {
    std::normal_distribution<float> normal(0.0f, 1.0f);
    for (int b = 0; b < m; ++b) {
      const float offset = mean * normal(random);
      for (int j = 0; j < width; ++j) values.push_back(offset + normal(random));
    }
  }
  double mean(int b, int first, int count) const {
    double sum = 0;
    for (int j = 0; j < count; ++j) sum += values[b * width + first + j];
    return sum / count;
  }
  double squares(int b, int first, int count, double mean) const {
    double sum = 0;
    for (int j = 0; j < count; ++j) {
      const double apart = values[b * width + first + j] - mean;
      sum += apart * apart;
    }
    return sum;
  }
};

struct Pair {
  float mean = NAN;
  float squares = NAN;
  int writes = 0;
};

/// Walks a plan's finish as a product that writes does: whose lanes meet, and what they write. [width / 64, m]
std::vector<Pair> written(const WidePlan& p, const Stream& s, bool centred, const std::string& what) {
  std::vector<Pair> pairs(static_cast<size_t>(p.n / kStatsColumns) * p.m);
  std::vector<int> finished(static_cast<size_t>(p.m) * p.n);
  for (int tile = 0; tile < p.tiles; ++tile) {
    for (int rank = 0; rank < p.cluster(); ++rank) {
      const int rows = wide_owned_rows(p, rank);
      for (int warp = 0; warp < 4 * p.groups; ++warp) {
        std::vector<WideColumns> at;
        for (int lane = 0; lane < kWarp; ++lane) at.push_back(wide_columns(p, tile, kWarp * warp + lane));
        for (int turn = 0;; ++turn) {
          int passes = 0;
          ColumnStats stats[kWarp];
          for (int lane = 0; lane < kWarp; ++lane) {
            const int row = at[lane].row + turn * at[lane].step;
            passes += row - at[lane].lead < rows ? 1 : 0;
            // Lanes without output exchange too, what they have must not matter.
            float v[4] = {1e30f, -1e30f, 1e30f, 1e30f};
            if (row < rows && at[lane].valid == 4) {
              const int b = (rank << p.share_shift) + row;
              for (int i = 0; i < 4; ++i) {
                v[i] = s.values[b * p.n + at[lane].column + i];
                ++finished[b * p.n + at[lane].column + i];
              }
            }
            stats[lane] = quad_stats(v[0], v[1], v[2], v[3], centred);
          }
          EXPECT_TRUE(passes == 0 || passes == kWarp) << what << ": lanes wait for others for ever";
          if (passes == 0) break;
          for (int count = 4; count < kStatsColumns; count *= 2) {
            ColumnStats merged[kWarp];
            for (int lane = 0; lane < kWarp; ++lane) {
              const int other = lane ^ count / 4;
              EXPECT_EQ(at[lane].row, at[other].row) << what;
              EXPECT_EQ(at[lane].column / kStatsColumns, at[other].column / kStatsColumns) << what;
              merged[lane] = merged_stats(stats[lane], stats[other], count);
            }
            std::copy_n(merged, kWarp, stats);
          }
          for (int lane = 0; lane < kWarp; ++lane) {
            const int row = at[lane].row + turn * at[lane].step;
            if (row >= rows || at[lane].valid <= 0 || at[lane].column % kStatsColumns != 0) continue;
            Pair& pair = pairs.at(stats_at(at[lane].column, (rank << p.share_shift) + row, p.m));
            pair.mean = stats[lane].sum / kStatsColumns;
            pair.squares = stats[lane].squares;
            ++pair.writes;
          }
        }
      }
    }
  }
  for (int count : finished) EXPECT_EQ(count, 1) << what;
  return pairs;
}

/// Walks a block's consumers as a product that takes does: mean and variance of the rows it finishes, `blocks` pairs a row.
std::vector<RowMoments> taken(const WidePlan& p, int rank, const std::vector<Pair>& pairs, int blocks,
                              const std::string& what) {
  const int rows = wide_owned_rows(p, rank);
  const int lanes = 1 << row_stats_shift(p);
  const int threads = p.groups * kWideGroupThreads;
  EXPECT_LE(lanes, kWarp) << what << ": the lanes of a row are of one warp";
  EXPECT_GE(lanes, 1) << what;
  EXPECT_GE(threads / lanes, p.share()) << what << ": a row without threads";
  std::vector<RowMoments> found(static_cast<size_t>(rows), {NAN, NAN});
  for (int row = 0; row < rows; ++row) {
    const int b = std::min((rank << p.share_shift) + row, p.m - 1);
    const float first = pairs[b].mean;
    std::vector<RowSums> sums(static_cast<size_t>(lanes));
    std::vector<int> read(static_cast<size_t>(blocks));
    for (int part = 0; part < lanes; ++part) {
      for (int block = part; block < blocks; block += lanes) {
        const Pair& pair = pairs.at(static_cast<size_t>(block) * p.m + b);
        sums[part].take(pair.mean - first, pair.squares);
        ++read[block];
      }
    }
    for (int count : read) EXPECT_EQ(count, 1) << what;
    for (int bit = 1; bit < lanes; bit <<= 1) {
      std::vector<RowSums> next = sums;
      for (int part = 0; part < lanes; ++part) next[part].take(sums[part ^ bit]);
      sums = next;
    }
    found[row] = row_moments(sums[0], first, 1.0f / static_cast<float>(blocks));
  }
  return found;
}

std::string text(const SkinnyConfig& c, const SkinnyProblem& p) {
  return config_text(c) + " m " + std::to_string(p.m) + " n " + std::to_string(p.n) + " k " +
         std::to_string(p.k) + (p.gated ? " gated" : "");
}

// Lanes that met with another row's or other columns, a pair of nobody or two blocks, or lanes that leave the loop while others
// exchange (a kernel that hangs) would show here for every cut; so would a variance that cancels under a large mean.
TEST(StatsMap, WrittenPairsAreThoseOfTheColumns) {
  std::mt19937 random(7);
  long plans = 0;
  for (int n : {64, 192, 512, 768, 1024}) {
    for (int m : {5, 8, 17, 33, 63, 64}) {
      const SkinnyProblem problem{.m = m, .n = n, .k = 1024, .stats = true};
      const float mean = plans % 2 == 0 ? 20.0f : 0.0f;
      const Stream s(random, m, n, mean);
      const auto configs = wide_configs(problem, kH200);
      ASSERT_FALSE(configs.empty());
      for (const SkinnyConfig& c : configs) {
        const std::string what = text(c, problem);
        for (const bool centred : {true, false}) {
          const auto pairs = written(plan_wide(c, problem, kH200), s, centred, what);
          for (int block = 0; block < n / kStatsColumns; ++block) {
            for (int b = 0; b < m; ++b) {
              const Pair& pair = pairs[static_cast<size_t>(block) * m + b];
              ASSERT_EQ(pair.writes, 1) << what;
              const int first = block * kStatsColumns;
              const double want = centred ? s.mean(b, first, kStatsColumns) : 0.0;
              const double squares = s.squares(b, first, kStatsColumns, want);
              ASSERT_NEAR(pair.mean, want, 1e-6 * (1 + std::abs(want))) << what;
              ASSERT_NEAR(pair.squares, squares, 5e-6 * squares) << what;
            }
          }
          if (HasFailure()) return;
        }
        ++plans;
      }
    }
  }
  EXPECT_GT(plans, 200);
}

// A pair left out or taken twice, a row that no thread reads, or a row's mean taken from another would be a wrong norm.
TEST(StatsMap, TakenRowsAreThoseOfTheStream) {
  std::mt19937 random(8);
  long plans = 0;
  for (int k : {64, 192, 512, 768, 1024, 2048, 4096}) {
    for (int m : {5, 8, 17, 33, 63, 64}) {
      const Stream s(random, m, k, 20.0f);
      for (const bool centred : {true, false}) {
        std::vector<Pair> pairs;
        const int blocks = k / kStatsColumns;
        for (int block = 0; block < blocks; ++block) {
          for (int b = 0; b < m; ++b) {
            const double mean = centred ? s.mean(b, block * kStatsColumns, kStatsColumns) : 0.0;
            const double squares = s.squares(b, block * kStatsColumns, kStatsColumns, mean);
            pairs.push_back({static_cast<float>(mean), static_cast<float>(squares), 1});
          }
        }
        for (const bool gated : {false, true}) {
          const SkinnyProblem problem{.m = m, .n = 320, .k = k, .gated = gated, .stats = true};
          for (const SkinnyConfig& c : wide_configs(problem, kH200)) {
            const WidePlan p = plan_wide(c, problem, kH200);
            const std::string what = text(c, problem);
            for (int rank = 0; rank < p.cluster(); ++rank) {
              const auto moments = taken(p, rank, pairs, blocks, what);
              for (size_t row = 0; row < moments.size(); ++row) {
                const int b = (rank << p.share_shift) + static_cast<int>(row);
                const double mean = centred ? s.mean(b, 0, k) : 0.0;
                const double variance = s.squares(b, 0, k, mean) / k;
                ASSERT_NEAR(moments[row].mean, mean, 1e-6 * (1 + std::abs(mean))) << what;
                ASSERT_NEAR(moments[row].variance, variance, 1e-5 * variance) << what;
              }
            }
            ++plans;
          }
        }
      }
    }
  }
  EXPECT_GT(plans, 1000);
}

// The worst first pair, a mean far from all others': as many times the variance is lost as there are pairs, and still it is known
// to a tenth of what bf16 holds. And rows that are constant, whose variance must not fall below zero.
TEST(StatsMap, RowsOfAnyKindHaveAVariance) {
  const auto moments = [](const std::vector<Pair>& pairs) {
    RowSums sums;
    for (const Pair& pair : pairs) sums.take(pair.mean - pairs.front().mean, pair.squares);
    return row_moments(sums, pairs.front().mean, 1.0f / static_cast<float>(pairs.size()));
  };
  std::vector<Pair> far(64, {1.0f, 64.0f, 1});
  far.front().mean = 1e4f;
  const double mean = (1e4 + 63) / 64;
  const double variance = 1 + 63.0 / 64 / 64 * (1e4 - 1) * (1e4 - 1);
  EXPECT_NEAR(moments(far).mean, mean, 1e-4);
  EXPECT_NEAR(moments(far).variance, variance, 1e-4 * variance);

  std::vector<Pair> constant(12, {0.1f, 0.0f, 1});
  EXPECT_EQ(moments(constant).variance, 0.0f);
  EXPECT_EQ(moments(constant).mean, 0.1f);
  constant[5].mean = std::nextafter(0.1f, 1.0f);
  EXPECT_GE(moments(constant).variance, 0.0f);
  constant[5].squares = NAN;
  EXPECT_TRUE(std::isnan(moments(constant).variance)) << "a NaN in the stream must not become a number";
}

// Rows' statistics over the biases or the barriers would be a wrong result or a launch that hangs; without statistics nothing may move.
TEST(StatsMap, SharedMemoryHasRoom) {
  for (int m : {5, 17, 64}) {
    for (const bool gated : {false, true}) {
      const SkinnyProblem problem{.m = m, .n = 1024, .k = 1024, .gated = gated, .stats = true};
      SkinnyProblem plain = problem;
      plain.stats = false;
      for (const SkinnyConfig& c : wide_configs(problem, kH200)) {
        const WidePlan p = plan_wide(c, problem, kH200);
        const WidePlan without = plan_wide(c, plain, kH200);
        EXPECT_GE(p.stats_offset, p.bias_offset + 4 * kWideEnds * p.tile_rows()) << text(c, problem);
        EXPECT_GE(p.barrier_offset, p.stats_offset + 2 * 8 * p.share()) << text(c, problem);
        EXPECT_EQ(p.stats_offset % 16, 0) << text(c, problem);
        EXPECT_LE(p.shared_bytes, kH200.shared_bytes) << text(c, problem);
        EXPECT_EQ(without.barrier_offset, without.bias_offset + 4 * without.tile_rows()) << text(c, problem);
      }
    }
  }
}

// The chooser must find a wide config wherever the plan asks, and no other kind may run what only wide kernels know.
TEST(StatsMap, TheChoiceIsWide) {
  for (int m : {5, 8, 9, 16, 17, 33, 64}) {
    for (const auto& [n, k] : std::vector<std::pair<int, int>>{
             {512, 512}, {512, 2048}, {768, 768}, {1024, 1024}, {4096, 1024}, {1024, 4096}, {1024, 16384}}) {
      const SkinnyProblem problem{.m = m, .n = n, .k = k, .stats = true};
      const SkinnyConfig c = choose_skinny(problem, kH200);
      EXPECT_EQ(c.kind, SkinnyConfig::Kind::kWide) << text(c, problem);
      EXPECT_EQ(config_problem(c, problem, kH200), "") << text(c, problem);
      for (const SkinnyConfig& one : all_configs(problem, kH200))
        EXPECT_EQ(one.kind, SkinnyConfig::Kind::kWide);
    }
  }
  EXPECT_FALSE(skinny_stats_supports(DType::kBF16, 4, 1024, 1024));
  EXPECT_FALSE(skinny_stats_supports(DType::kF16, 8, 1024, 1024));
  EXPECT_FALSE(skinny_stats_supports(DType::kBF16, 8, 1024, 1024, DType::kI8));
  EXPECT_TRUE(skinny_stats_supports(DType::kBF16, 64, 1024, 1024));
}

}  // namespace
}  // namespace tandem::kernels
