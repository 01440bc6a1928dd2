#include "kernels/skinny/choose/skinny_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/host_device.h"
#include "kernels/skinny/args.h"
#include "kernels/skinny/formats/weight_format.h"

namespace tandem::kernels {
namespace {

constexpr SkinnyCard kH200;
constexpr SkinnyCard kA100{.multiprocessors = 108, .shared_bytes = 166912, .sm90a = false};
constexpr SkinnyCard kSmall{.multiprocessors = 3, .shared_bytes = 101376, .sm90a = true};

std::string text(const SkinnyConfig& c, const SkinnyProblem& p) {
  return config_text(c) + " m " + std::to_string(p.m) + " n " + std::to_string(p.n) + " k " +
         std::to_string(p.k) + " w " + std::string(dtype_name(p.weights())) + (p.gated ? " gated" : "") +
         (p.norm ? " norm" : "") + (p.head ? " head" : "");
}

/// Types and formats, without sizes.
std::vector<SkinnyProblem> stored_problems(const std::vector<DType>& plain) {
  std::vector<SkinnyProblem> all;
  for (DType type : plain) all.push_back({.dtype = type});
  for (const auto& [weights, inputs] : std::vector<std::pair<DType, std::optional<DType>>>{
           {DType::kI8, {}}, {DType::kI4, {}}, {DType::kF8, DType::kF8}, {DType::kI8, DType::kI8}}) {
    all.push_back({.w_dtype = weights, .input_dtype = inputs});
  }
  for (const SparseWeights sparse : {SparseWeights::kTwoOfFour, SparseWeights::kBitmap})
    all.push_back({.sparse = sparse});
  return all;
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
          if (c.kind == SkinnyConfig::Kind::kRow && problem.sparse != SparseWeights::kBitmap) {
            ASSERT_LE((mine.end - mine.begin) * c.rows, 2 * kRowUnits)
                << what << ": more than the registers hold";
          }
          for (int unit = mine.begin; unit < mine.end; ++unit) {
            for (int j = 0; j < c.rows; ++j) {
              const bool pair = c.kind == SkinnyConfig::Kind::kRow;
              const int r = pair ? row_of_pair(p, group * c.rows / 2 + j / 2, j % 2) : group * c.rows + j;
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
  const WeightFormat format = weight_format(problem);
  EXPECT_GE(p.x_stride, p.units * p.unit) << what;
  EXPECT_GE(p.red_offset, p.x_stride * format.x_bytes) << what;
  EXPECT_GE(p.bias_offset, p.red_offset + (problem.norm ? 4 * problem.k : 0)) << what;
  EXPECT_GE(p.norm_offset, p.bias_offset + kRowPartsBytes) << what;
  EXPECT_GE(p.shared_bytes, p.norm_offset + (problem.norm ? 2 * bytes * problem.k : 0)) << what;
  for (int offset : {p.red_offset, p.bias_offset, p.norm_offset}) EXPECT_EQ(offset % 16, 0) << what;
}

/// Regions in shared memory: in order, aligned, large enough, and within the card.
void check_shared(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  const SkinnyPlan p = plan_skinny(c, problem, card);
  const std::string what = text(c, problem);
  const int bytes = static_cast<int>(dtype_bytes(problem.dtype));
  const WeightFormat format = weight_format(problem);
  EXPECT_LE(p.shared_bytes, card.shared_bytes) << what;
  if (c.kind == SkinnyConfig::Kind::kRow) return check_shared_of_row(p, problem, what);
  const bool mma = c.kind == SkinnyConfig::Kind::kMma;
  const int staged = problem.norm ? p.units : p.resident ? ceil_div(p.units, p.cluster()) : p.chunk_units;
  EXPECT_GE(p.x_stride, staged * p.unit) << what;
  EXPECT_EQ(p.x_stride * format.x_bytes / 64 % 2, 1) << what;
  EXPECT_EQ(p.x_stride * format.x_bytes % 64, 0) << what;
  if (p.resident) {
    EXPECT_LE(p.chunks, kSkinnyStages) << what;
  }
  EXPECT_GE(p.chunks * p.chunk_units, ceil_div(p.units, p.cluster())) << what;
  if (!mma || problem.norm) {
    EXPECT_EQ(p.chunks, 1) << what;
  }
  const int stages = p.resident ? 1 : kSkinnyStages;
  const int row_bytes = p.x_stride * format.x_bytes;
  EXPECT_GE(p.ring_offset, stages * (format.plain() ? c.batch : p.batch) * row_bytes) << what;
  if (mma) {  // what a core reads of x must not lie where other warps' weights arrive meanwhile: a race
    const int last_row = format.plain() ? c.batch - 1 : MmaMap::x_row(31, c.batch / 8 - 1, p.m);
    EXPECT_GE(p.ring_offset, (stages - 1) * p.buffer_elements * format.x_bytes + (last_row + 1) * row_bytes)
        << what;
  }
  const int slot = c.rows / 8 * 512 + (format.group_scales ? 128 : 0);
  const int ring = mma ? kSkinnyWarps * mma_depth(c.rows) * slot : 0;
  EXPECT_GE(p.red_offset, p.ring_offset + ring) << what;
  const int pass_rows = std::min(c.batch, kSkinnyPassRows);
  EXPECT_GE(p.bias_offset, p.red_offset + 4 * p.warps_k() * pass_rows * p.red_ld) << what;
  if (problem.norm) {
    EXPECT_GE(p.bias_offset, p.red_offset + 4 * p.norm_warps * problem.k) << what;
    EXPECT_GE(p.norm_warps, 1) << what;
    EXPECT_LE(p.norm_warps, kSkinnyWarps) << what;
    EXPECT_GE(p.recv_offset, p.norm_offset + 2 * bytes * problem.k) << what;
  }
  const int ends = 4 * p.tile_rows() * (format.plain() ? 1 : 2);
  EXPECT_GE(p.norm_offset, p.bias_offset + ends) << what;
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
    for (const SkinnyProblem& stored : stored_problems({DType::kF32, DType::kBF16})) {
      for (auto [n, k] :
           std::vector<std::pair<int, int>>{{1, 8}, {7, 24}, {37, 264}, {130, 520}, {300, 2056}}) {
        if (stored.w_dtype || stored.sparse != SparseWeights::kNone) k = round_up(k, 32);
        for (int m : {1, 3, 8, 13, 33, 64}) {
          if (m > 1 && stored.input_dtype) continue;  // come as codes: wide_map_test.cc
          if (!skinny_supports(stored.dtype, m, n, k, stored.sparse)) continue;
          for (const auto& [gated, norm, head] :
               {std::array{false, false, false}, std::array{true, false, false},
                std::array{false, true, false}, std::array{false, false, true}}) {
            const SkinnyProblem problem{.dtype = stored.dtype,
                                        .w_dtype = stored.w_dtype,
                                        .input_dtype = stored.input_dtype,
                                        .m = m,
                                        .n = n,
                                        .k = k,
                                        .gated = gated,
                                        .norm = norm,
                                        .head = head,
                                        .sparse = stored.sparse};
            if (norm && !skinny_norm_supports(m, k)) continue;
            if (head && (stored.weights() == DType::kI4 || stored.sparse != SparseWeights::kNone)) continue;
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
    for (const SkinnyProblem& stored : stored_problems({DType::kF32, DType::kF16, DType::kBF16})) {
      for (auto [n, k] : sizes) {
        if (stored.w_dtype || stored.sparse != SparseWeights::kNone) k = round_up(k, 32);
        for (int m : {1, 2, 3, 4, 5, 8, 12, 16, 31, 32, 47, 64}) {
          if (m > 1 && stored.input_dtype) continue;  // come as codes: wide_map_test.cc
          if (!skinny_supports(stored.dtype, m, n, k, stored.sparse)) continue;
          for (const bool norm : {false, true}) {
            if (norm && !skinny_norm_supports(m, k)) continue;
            for (const bool head : {false, true}) {
              for (const bool gated : {false, true}) {
                if (head &&
                    (gated || stored.weights() == DType::kI4 || stored.sparse != SparseWeights::kNone))
                  continue;
                const SkinnyProblem problem{.dtype = stored.dtype,
                                            .w_dtype = stored.w_dtype,
                                            .input_dtype = stored.input_dtype,
                                            .m = m,
                                            .n = n,
                                            .k = k,
                                            .gated = gated,
                                            .norm = norm,
                                            .head = head,
                                            .sparse = stored.sparse};
                ASSERT_TRUE(skinny_supports(stored.dtype, m, n, k, stored.weights()));
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
  EXPECT_TRUE(skinny_supports(DType::kBF16, 64, 1024, 1040, DType::kI8));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 64, 1024, 1032, DType::kF8));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 64, 1024, 1040, DType::kI4));
  EXPECT_FALSE(skinny_supports(DType::kF16, 64, 1024, 1024, DType::kI8));
  EXPECT_FALSE(skinny_supports(DType::kBF16, 64, 1024, 1024, DType::kF32));
  EXPECT_TRUE(skinny_supports(DType::kF16, 64, 1024, 1032, DType::kF16));
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

// Without it: rows of 1024 codes, that fill half or a quarter of a warp's registers, would take twice or four times the rounds.
TEST(SkinnyPlan, ShortRowsOfCodesShareAWarp) {
  const auto rows_of = [](DType weights, int n, int k) {
    return choose_skinny({.w_dtype = weights, .m = 1, .n = n, .k = k}, {}).rows;
  };
  EXPECT_EQ(rows_of(DType::kI8, 12288, 1024), 4);
  EXPECT_EQ(rows_of(DType::kI4, 12288, 1024), 8);
  EXPECT_EQ(rows_of(DType::kI8, 12288, 4096), 2) << "a row fills the registers";
  EXPECT_EQ(rows_of(DType::kI8, 4096, 1024), 2) << "every multiprocessor is needed";
  EXPECT_EQ(rows_of(DType::kBF16, 12288, 512), 2) << "elements as they are come in pairs of rows alone";
}

}  // namespace
}  // namespace tandem::kernels
