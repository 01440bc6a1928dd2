#include "kernels/skinny/skinny_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_plan.h"

namespace tandem::kernels {
namespace {

// Parts that overlapped or left a gap would add a product twice or lose it.
TEST(SkinnyMap, PartsTileTheRange) {
  for (int shift = 0; shift <= 3; ++shift) {
    for (int total = 0; total <= 130; ++total) {
      EXPECT_EQ(part_begin(total, shift, 0), 0);
      EXPECT_EQ(part_begin(total, shift, 1 << shift), total);
      for (int i = 0; i < 1 << shift; ++i) {
        const int length = part_begin(total, shift, i + 1) - part_begin(total, shift, i);
        EXPECT_GE(length, total >> shift);
        EXPECT_LE(length, (total + (1 << shift) - 1) >> shift);
      }
    }
  }
}

/// The instruction as the PTX ISA lays its fragments out: D[16][8] += A[16][16] B[16][8], from per-lane registers of pairs.
struct Fragments {
  std::array<std::array<int, 2>, 4> a[32];
  std::array<std::array<int, 2>, 2> b[32];
};
void mma_by_the_book(const Fragments& f, std::array<int, 4> (&d)[32]) {
  int a[16][16];
  int b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      a[g][2 * t + i] = f.a[lane][0][i];
      a[g + 8][2 * t + i] = f.a[lane][1][i];
      a[g][2 * t + 8 + i] = f.a[lane][2][i];
      a[g + 8][2 * t + 8 + i] = f.a[lane][3][i];
      b[2 * t + i][g] = f.b[lane][0][i];
      b[2 * t + 8 + i][g] = f.b[lane][1][i];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * (r / 2);
      const int column = 2 * (lane % 4) + r % 2;
      for (int k = 0; k < 16; ++k) d[lane][r] += a[row][k] * b[k][column];
    }
  }
}

// The 16-byte loads are used as fragments without any shuffle: if the two operands disagreed about k, or a k were used
// twice, every product on tensor cores would be wrong.
TEST(SkinnyMap, SixteenByteLoadsAreFragments) {
  std::array<std::array<int, MmaMap::kUnit>, 16> x;
  std::array<std::array<int, MmaMap::kUnit>, 8> w;
  int value = 1;
  auto next = [&] { return value = (value * 37 + 11) % 101; };
  for (auto& row : x) std::generate(row.begin(), row.end(), next);
  for (auto& row : w) std::generate(row.begin(), row.end(), next);

  std::array<int, 4> d[32] = {};
  for (int step = 0; step < 2; ++step) {
    Fragments f;
    for (int lane = 0; lane < 32; ++lane) {
      const int row = MmaMap::group(lane);
      auto pair = [&](const auto& from, int half) {
        const int k = MmaMap::load_k(lane) + 2 * MmaMap::word(step, half);
        return std::array<int, 2>{from[k], from[k + 1]};
      };
      f.a[lane] = {pair(x[row], 0), pair(x[row + 8], 0), pair(x[row], 1), pair(x[row + 8], 1)};
      f.b[lane] = {pair(w[row], 0), pair(w[row], 1)};
    }
    mma_by_the_book(f, d);
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      const auto& a = x[MmaMap::acc_row(lane, r)];
      const auto& b = w[MmaMap::acc_column(lane, r)];
      EXPECT_EQ(d[lane][r], std::inner_product(a.begin(), a.end(), b.begin(), 0))
          << "lane " << lane << " register " << r;
    }
  }
}

// The reduction of several sums at once leaves each in other lanes: a wrong lane would store another row's sum.
TEST(SkinnyMap, TransposingReductionEndsWhereItSays) {
  for (int values : {1, 2, 4, 8, 16, 32}) {
    std::vector<std::vector<long>> acc(32, std::vector<long>(values));
    std::vector<long> want(values);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < values; ++i)
        want[i] += acc[lane][i] = (lane + 1) * 1000003L + i * 7919L * (lane + 3);
    }
    // As DotCore::store does it.
    int width = values;
    for (int bit = 16; bit > 0; bit >>= 1) {
      const auto before = acc;
      if (width > 1) width >>= 1;
      const bool halves = values > 1 && (32 / bit) <= values;
      for (int lane = 0; lane < 32; ++lane) {
        if (!halves) {
          acc[lane][0] = before[lane][0] + before[lane ^ bit][0];
          continue;
        }
        const int keep = (lane & bit) != 0 ? width : 0;
        for (int i = 0; i < width; ++i) acc[lane][i] = before[lane][i + keep] + before[lane ^ bit][i + keep];
      }
    }
    std::vector<int> writers(values);
    for (int lane = 0; lane < 32; ++lane) {
      const int index = reduced_value(lane, values);
      ASSERT_LT(index, values);
      EXPECT_EQ(acc[lane][0], want[index]) << values << " values, lane " << lane;
      if (reduced_writer(lane, values)) ++writers[index];
    }
    for (int i = 0; i < values; ++i) EXPECT_EQ(writers[i], 1) << values << " values, value " << i;
  }
}

// A warp's count that is off by one element would shift the mean of every row.
TEST(SkinnyMap, ChunksOfWarpsAddUp) {
  for (int warps : {4, 8, 16}) {
    for (int chunks = 0; chunks <= 2100; ++chunks) {
      std::vector<int> counts(static_cast<size_t>(warps));
      for (int c = 0; c < chunks; ++c) ++counts[static_cast<size_t>(c % (warps * 32) / 32)];
      for (int w = 0; w < warps; ++w) ASSERT_EQ(chunks_of_warp(chunks, warps, w), counts[w]) << chunks;
    }
  }
}

// The order of candidates must be total, or the arg-max would depend on which block finishes first.
TEST(SkinnyMap, BetterIsAStrictTotalOrder) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, int>> all = {{-inf, 3},  {-inf, 1}, {-1.0f, 0}, {0.0f, 9},
                                                  {-0.0f, 8}, {2.0f, 5}, {2.0f, 4}};
  for (const auto& a : all) {
    for (const auto& b : all) {
      const bool ab = better(a.first, a.second, b.first, b.second);
      const bool ba = better(b.first, b.second, a.first, a.second);
      EXPECT_EQ(ab || ba, a != b) << a.first << " " << b.first;
      EXPECT_FALSE(ab && ba);
    }
    EXPECT_FALSE(better(std::nanf(""), 0, a.first, a.second));
  }
  EXPECT_TRUE(better(2.0f, 4, 2.0f, 5));
}

constexpr SkinnyCard kH200;
constexpr SkinnyCard kA100{.multiprocessors = 108, .shared_bytes = 166912, .sm90a = false};
constexpr SkinnyCard kSmall{.multiprocessors = 3, .shared_bytes = 101376, .sm90a = true};

std::string text(const SkinnyConfig& c, const SkinnyProblem& p) {
  return config_text(c) + " m " + std::to_string(p.m) + " n " + std::to_string(p.n) + " k " +
         std::to_string(p.k) + (p.gated ? " gated" : "") + (p.norm ? " norm" : "") + (p.head ? " head" : "");
}

/// Walks a plan as the kernels do: every weight must be read by one warp of one block, every output written by one block.
void check_walk(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  const SkinnyPlan p = plan_skinny(c, problem, card);
  const std::string what = text(c, problem);
  const int w_rows = problem.gated ? 2 * problem.n : problem.n;
  std::vector<int> reads(static_cast<size_t>(w_rows) * p.units);
  const int stride = p.grid_x >> p.cluster_shift;
  ASSERT_EQ(p.grid_x % p.cluster(), 0) << what;
  for (int block = 0; block < p.grid_x; ++block) {
    const UnitRange slice = slice_units(p, block % p.cluster());
    for (int tile = block >> p.cluster_shift; tile < p.tiles; tile += stride) {
      for (int warp = 0; warp < c.warps; ++warp) {
        const int group = warp >> p.wk_shift;
        for (int chunk = 0; chunk < p.chunks; ++chunk) {
          const UnitRange range = chunk_range(p, slice, chunk);
          const UnitRange mine = warp_units(p, range, warp & (p.warps_k() - 1));
          if (c.kind == SkinnyConfig::Kind::kRow) {
            ASSERT_LE(mine.end - mine.begin, kRowUnits) << what << ": more than the registers hold";
          }
          for (int unit = mine.begin; unit < mine.end; ++unit) {
            for (int j = 0; j < c.rows; ++j) {
              const bool pair = c.kind == SkinnyConfig::Kind::kRow;
              const int r = pair ? row_of_pair(p, group, j) : group * c.rows + j;
              const int row = weight_row(p, tile, r);
              ASSERT_LT(row, w_rows) << what;
              const int outputs = p.tile_outputs();
              const bool real = tile * outputs + r % outputs < p.n;
              if (real) ++reads[static_cast<size_t>(row) * p.units + unit];
              // What epilogues assume: row `local + outputs` of a gated tile is the up row of `local`.
              if (real && p.gated) {
                EXPECT_EQ(row, tile * outputs + r % outputs + (r >= outputs ? p.n : 0)) << what;
              }
            }
          }
        }
      }
    }
  }
  for (int count : reads) ASSERT_EQ(count, 1) << what;

  std::vector<int> owners(static_cast<size_t>(p.batch) << p.output_shift());
  for (int rank = 0; rank < p.cluster(); ++rank) {
    for (int i = 0; i < p.share(); ++i) {
      const size_t output = static_cast<size_t>(rank << p.share_shift) + i;
      if (p.cluster() > 1 && output < owners.size()) ++owners[output];
    }
  }
  if (p.cluster() > 1) {
    for (int count : owners) ASSERT_EQ(count, 1) << what;
    EXPECT_EQ(p.grid_x, p.tiles * p.cluster()) << what << ": the exchange serves one tile";
  }
  EXPECT_GE(p.grid_y * c.batch, problem.m) << what;
  if (problem.head) {
    EXPECT_LE(p.grid_x, kHeadMaxBlocks) << what;
  }
}

/// The same for the kernel of one row.
void check_shared_of_row(const SkinnyPlan& p, const SkinnyProblem& problem, const std::string& what) {
  const int bytes = static_cast<int>(dtype_bytes(problem.dtype));
  EXPECT_GE(p.x_stride, p.units * p.unit) << what;
  EXPECT_GE(p.red_offset, p.x_stride * bytes) << what;
  EXPECT_GE(p.bias_offset, p.red_offset + (problem.norm ? 4 * problem.k : 0)) << what;
  EXPECT_GE(p.norm_offset, p.bias_offset + kRowMaxWarps * 8 + 2 * kRowMaxWarps * 2 * 4) << what;
  EXPECT_GE(p.shared_bytes, p.norm_offset + (problem.norm ? 2 * bytes * problem.k : 0)) << what;
  for (int offset : {p.red_offset, p.bias_offset, p.norm_offset}) EXPECT_EQ(offset % 16, 0) << what;
}

/// Regions in shared memory: in order, aligned, large enough, and within the card.
void check_shared(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  const SkinnyPlan p = plan_skinny(c, problem, card);
  const std::string what = text(c, problem);
  const int bytes = static_cast<int>(dtype_bytes(problem.dtype));
  EXPECT_LE(p.shared_bytes, card.shared_bytes) << what;
  if (c.kind == SkinnyConfig::Kind::kRow) return check_shared_of_row(p, problem, what);
  const bool mma = c.kind == SkinnyConfig::Kind::kMma;
  const int staged = problem.norm ? p.units : p.resident ? ceil_div(p.units, p.cluster()) : p.chunk_units;
  EXPECT_GE(p.x_stride, staged * p.unit) << what;
  EXPECT_EQ(p.x_stride * bytes / 64 % 2, 1) << what;
  EXPECT_EQ(p.x_stride * bytes % 64, 0) << what;
  if (p.resident) {
    EXPECT_LE(p.chunks, kSkinnyStages) << what;
  }
  EXPECT_GE(p.chunks * p.chunk_units, ceil_div(p.units, p.cluster())) << what;
  if (!mma || problem.norm) {
    EXPECT_EQ(p.chunks, 1) << what;
  }
  EXPECT_GE(p.ring_offset, (p.resident ? 1 : kSkinnyStages) * c.batch * p.x_stride * bytes) << what;
  const int ring = mma ? kSkinnyWarps * mma_depth(c.rows) * c.rows / 8 * 512 : 0;
  EXPECT_GE(p.red_offset, p.ring_offset + ring) << what;
  const int pass_rows = std::min(c.batch, kSkinnyPassRows);
  EXPECT_GE(p.bias_offset, p.red_offset + 4 * p.warps_k() * pass_rows * p.red_ld) << what;
  if (problem.norm) {
    EXPECT_GE(p.bias_offset, p.red_offset + 4 * p.norm_warps * problem.k) << what;
    EXPECT_GE(p.norm_warps, 1) << what;
    EXPECT_LE(p.norm_warps, kSkinnyWarps) << what;
    EXPECT_GE(p.recv_offset, p.norm_offset + 2 * bytes * problem.k) << what;
  }
  EXPECT_GE(p.norm_offset, p.bias_offset + 4 * p.tile_rows()) << what;
  if (p.cluster() > 1) {
    EXPECT_GE(p.barrier_offset, p.recv_offset + 4 * p.recv_floats()) << what;
  }
  EXPECT_GE(p.shared_bytes, p.barrier_offset + (mma ? 8 * (kSkinnyStages + 1) : 0)) << what;
  for (int offset :
       {p.ring_offset, p.red_offset, p.bias_offset, p.norm_offset, p.recv_offset, p.barrier_offset}) {
    EXPECT_EQ(offset % 16, 0) << what;
  }
  EXPECT_LE(p.tile_rows(), kSkinnyThreads) << what << ": a thread a row loads the bias";
}

// A weight skipped or read twice, an output of nobody or two blocks, or overlapping shared memory would be a wrong result.
TEST(SkinnyPlan, EveryConfigCoversEverySizeOnce) {
  long plans = 0;
  for (const SkinnyCard& card : {kH200, kSmall}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& [n, k] :
           std::vector<std::pair<int, int>>{{1, 8}, {7, 24}, {37, 264}, {130, 520}, {300, 2056}}) {
        for (int m : {1, 3, 8, 13, 33, 64}) {
          for (const auto& [gated, norm, head] :
               {std::array{false, false, false}, std::array{true, false, false},
                std::array{false, true, false}, std::array{false, false, true}}) {
            const SkinnyProblem problem{
                .dtype = dtype, .m = m, .n = n, .k = k, .gated = gated, .norm = norm, .head = head};
            if (norm && !skinny_norm_supports(m, k)) continue;
            const auto configs = all_configs(problem, card);
            ASSERT_FALSE(configs.empty()) << text({}, problem);
            for (const SkinnyConfig& c : configs) {
              if (c.kind == SkinnyConfig::Kind::kWide) continue;  // wide_map_test.cc
              check_walk(c, problem, card);
              check_shared(c, problem, card);
              ++plans;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(plans, 1000);
}

// A size without a config would stop a model from running.
TEST(SkinnyPlan, EverySupportedSizeHasAConfig) {
  const std::vector<std::pair<int, int>> sizes = {
      {1, 8},        {512, 512},   {2048, 512},  {768, 3072},  {1024, 1024},   {3072, 1024}, {1024, 16384},
      {16384, 1024}, {8192, 2048}, {2048, 8192}, {1000, 1000}, {32000, 32768}, {50265, 768}, {256206, 2048}};
  for (const SkinnyCard& card : {kH200, kA100}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const auto& [n, k] : sizes) {
        for (int m : {1, 2, 3, 4, 5, 8, 12, 16, 31, 32, 47, 64}) {
          for (const bool norm : {false, true}) {
            if (norm && !skinny_norm_supports(m, k)) continue;
            for (const bool head : {false, true}) {
              for (const bool gated : {false, true}) {
                if (head && gated) continue;
                const SkinnyProblem problem{
                    .dtype = dtype, .m = m, .n = n, .k = k, .gated = gated, .norm = norm, .head = head};
                ASSERT_TRUE(skinny_supports(dtype, m, n, k));
                const SkinnyConfig c = choose_skinny(problem, card);
                EXPECT_EQ(config_problem(c, problem, card), "") << text(c, problem);
                EXPECT_EQ(c.cluster > 1 && !card.sm90a, false);
                if (c.kind != SkinnyConfig::Kind::kWide) check_shared(c, problem, card);
              }
            }
          }
        }
      }
    }
  }
}

// Rows whose 16-byte pieces met in a bank would halve the rate at which x is read (and the sums are stored).
TEST(SkinnyPlan, StridesSpreadOverTheBanks) {
  for (int k : {32, 64, 512, 768, 1000, 1024, 4096}) {
    for (const SkinnyConfig& c : all_configs({.m = 16, .n = 256, .k = k}, kH200)) {
      if (c.kind != SkinnyConfig::Kind::kMma) continue;
      const SkinnyPlan p = plan_skinny(c, {.m = 16, .n = 256, .k = k}, kH200);
      for (int first = 0; first < 32; first += 8) {  // 8 lanes read 16 bytes each at a time
        std::set<int> banks;
        for (int lane = first; lane < first + 8; ++lane) {
          const int byte = (MmaMap::group(lane) * p.x_stride + MmaMap::load_k(lane)) * 2;
          for (int i = 0; i < 4; ++i) banks.insert((byte / 4 + i) % 32);
        }
        EXPECT_EQ(banks.size(), 32u) << config_text(c) << " k " << k;
      }
      for (int first = 0; first < 32; first += 16) {  // 16 lanes store 8 bytes each at a time
        std::set<int> banks;
        for (int lane = first; lane < first + 16; ++lane) {
          const int word = MmaMap::acc_row(lane, 0) * p.red_ld + MmaMap::acc_column(lane, 0);
          banks.insert({word % 32, (word + 1) % 32});
        }
        EXPECT_EQ(banks.size(), 32u) << config_text(c) << " k " << k;
      }
    }
  }
}

// The reasons must name what is wrong: they reach the user who asked for a config.
TEST(SkinnyPlan, SaysWhatIsWrongWithAConfig) {
  const SkinnyProblem problem{.m = 8, .n = 64, .k = 64};
  SkinnyConfig c{.kind = SkinnyConfig::Kind::kMma,
                 .rows = 16,
                 .batch = 8,
                 .warps_n = 8,
                 .cluster = 1,
                 .blocks_per_sm = 2};
  EXPECT_EQ(config_problem(c, problem, kH200), "");
  auto with = [&](auto change) {
    SkinnyConfig other = c;
    change(other);
    return config_problem(other, problem, kH200);
  };
  EXPECT_NE(with([](auto& o) { o.rows = 12; }), "");
  EXPECT_NE(with([](auto& o) { o.warps_n = 3; }), "");
  EXPECT_NE(with([](auto& o) { o.cluster = 16; }), "");
  EXPECT_NE(with([](auto& o) { o.blocks_per_sm = 0; }), "");
  c.cluster = 2;
  EXPECT_EQ(config_problem(c, problem, kH200), "");
  EXPECT_NE(config_problem(c, problem, kA100), "");
  EXPECT_NE(config_problem(c, {.m = 8, .n = 64, .k = 64, .head = true}, kH200), "");
  EXPECT_NE(config_problem(c, {.m = 9, .n = 64, .k = 64}, kH200), "");
  EXPECT_NE(config_problem(c, {.dtype = DType::kF32, .m = 8, .n = 64, .k = 64}, kH200), "");
}

// The engine asks before it plans: what is refused here goes to the library.
TEST(SkinnyShape, SaysWhatItSupports) {
  EXPECT_TRUE(skinny_supports(DType::kBF16, 64, 50265, 768));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 65, 1024, 1024));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 0, 1024, 1024));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 1, 1024, 1020));
  EXPECT_FALSE(skinny_supports(DType::kI8, 1, 1024, 1024));
  EXPECT_FALSE(skinny_supports(DType::kF32, 1, 1024, kSkinnyMaxK + 8));
  EXPECT_TRUE(norm_prologue_pays(1, 1024));
  EXPECT_FALSE(norm_prologue_pays(64, 1024));
  for (int m = 1; m <= kSkinnyMaxRows; ++m) {
    for (int k = 8; k <= 4096; k += 8) {
      if (norm_prologue_pays(m, k)) {
        EXPECT_TRUE(skinny_norm_supports(m, k));
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
