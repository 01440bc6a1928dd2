#include "kernels/skinny/wide/wide_map.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kernels/skinny/formats/sparse_map.h"
#include "kernels/skinny/formats/weight_format.h"
#include "kernels/skinny/wide/wide_plan.h"

namespace tandem::kernels {
namespace {

constexpr SkinnyCard kH200;
constexpr SkinnyCard kSmall{.multiprocessors = 3, .shared_bytes = 101376};

std::string text(const SkinnyConfig& c, const SkinnyProblem& p) {
  return config_text(c) + " m " + std::to_string(p.m) + " n " + std::to_string(p.n) + " k " +
         std::to_string(p.k) + (p.gated ? " gated" : "") + (p.head ? " head" : "");
}

// An accumulator that went to another output's place, or to none, would be a wrong sum; a gate row whose up row is in
// another thread would never meet it.
TEST(WideMap, AccumulatorsCoverTheTileOnce) {
  for (const bool gated : {false, true}) {
    for (int groups : {1, 2}) {
      WidePlan p;
      p.n = 800;
      p.gated = gated;
      p.groups = groups;
      for (int tile : {0, 3}) {
        std::set<std::pair<int, int>> outputs;  // column, plane
        for (int warp = 0; warp < 4 * groups; ++warp) {
          for (int lane = 0; lane < 32; ++lane) {
            for (int half = 0; half < 2; ++half) {
              const WideOutput out = wide_output(gated, warp, lane, half);
              EXPECT_LT(out.column, p.tile_outputs());
              // The PTX ISA's accumulators of m64nN: row 16 warp + lane / 4, and that + 8.
              const int local = 16 * warp + lane / 4 + 8 * half;
              EXPECT_EQ(wide_weight_row(p, tile, local),
                        tile * p.tile_outputs() + out.column + out.plane * p.n);
              outputs.insert({out.column, out.plane});
            }
          }
        }
        EXPECT_EQ(outputs.size(), static_cast<size_t>(p.tile_rows()));
      }
    }
  }
  std::set<int> rows;
  for (int lane = 0; lane < 4; ++lane) {
    for (int j = 0; j < 8; ++j) {
      for (int i = 0; i < 2; ++i) {
        rows.insert(wide_batch_row(lane, j, i));
        EXPECT_EQ(wide_batch_row(lane, j, i + 2), wide_batch_row(lane + 4, j, i));
      }
    }
  }
  EXPECT_EQ(rows.size(), 64u);
}

// The copy engine writes a box of the map [n / 8][2][8][k] in that order: what it calls row e, half, r must be what the
// products take for that row of the tile.
TEST(WideMap, GatedBoxesHoldTheRowsOfTheTile) {
  for (int groups : {1, 2}) {
    WidePlan p;
    p.n = 264;
    p.gated = true;
    p.groups = groups;
    for (int tile = 0; tile < 9; ++tile) {
      int local = 0;
      for (int e = 0; e < p.tile_rows() / 16; ++e) {
        for (int half = 0; half < 2; ++half) {
          for (int r = 0; r < 8; ++r, ++local) {
            const int row = half * p.n + 8 * (tile * (p.tile_outputs() / 8) + e) + r;
            EXPECT_EQ(wide_weight_row(p, tile, local), row);
          }
        }
      }
    }
  }
}

/// Walks a plan as the kernel does.
void check_plan(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  const WidePlan p = plan_wide(c, problem, card);
  const std::string what = text(c, problem);
  const int w_rows = problem.gated ? 2 * problem.n : problem.n;
  ASSERT_EQ(p.grid % p.cluster(), 0) << what;
  const int stride = p.grid >> p.cluster_shift;
  std::vector<int> reads(static_cast<size_t>(w_rows) * p.units);
  int longest_slice = 0;
  int most_stages = 0;
  for (int block = 0; block < p.grid; ++block) {
    const UnitRange slice = wide_slice(p, block % p.cluster());
    ASSERT_GT(slice.end, slice.begin) << what << ": a block without work waits for ever";
    longest_slice = std::max(longest_slice, slice.end - slice.begin);
    int stages = 0;
    for (int tile = block >> p.cluster_shift; tile < p.tiles; tile += stride) {
      for (int unit = slice.begin; unit < slice.end; ++unit, ++stages) {
        for (int local = 0; local < p.tile_rows(); ++local) {
          const int column =
              p.gated ? wide_weight_row(p, tile, local) % p.n : wide_weight_row(p, tile, local);
          // Rows of eights past n / 8 are outside the map; in between, n is a multiple of 8.
          const int eight = tile * (p.tile_outputs() / 8) + local / 16;
          if (p.gated ? 8 * eight >= p.n : column >= p.n) continue;
          ++reads[static_cast<size_t>(wide_weight_row(p, tile, local)) * p.units + unit];
        }
      }
    }
    ASSERT_GT(stages, 0) << what;
    most_stages = std::max(most_stages, stages);
  }
  for (int count : reads) ASSERT_EQ(count, 1) << what;
  if (p.cluster() > 1) {
    EXPECT_EQ(stride, p.tiles) << what << ": the exchange serves one tile";
  }

  // Every row of x is finished by one block, and nothing lies outside the partial sums or over something else.
  std::vector<int> owners(static_cast<size_t>(p.m));
  for (int rank = 0; rank < p.cluster(); ++rank) {
    for (int b = 0; b < wide_owned_rows(p, rank); ++b) ++owners[(rank << p.share_shift) + b];
  }
  for (int count : owners) ASSERT_EQ(count, 1) << what;
  if (!problem.head) {
    if (p.cluster() == 1) {
      EXPECT_GE(p.share(), p.batch) << what << ": rows past m are stored over something else";
    }
    std::vector<int> used(static_cast<size_t>(p.sums_floats()));
    for (int source = 0; source < p.cluster(); ++source) {
      for (int plane = 0; plane < p.planes(); ++plane) {
        for (int b = 0; b < std::min(p.share(), p.m); ++b) {
          for (int column = 0; column < p.tile_outputs(); ++column) {
            const int at = wide_sum_at(p, source, plane, b, column);
            ASSERT_LT(at, p.sums_floats()) << what;
            ASSERT_EQ(used[at]++, 0) << what;
            EXPECT_EQ(at % 4, column % 4) << what << ": quads are read with one load";
          }
        }
      }
    }
  }

  // Shared memory: in order, aligned, large enough, within the card.
  EXPECT_GE(p.stages, std::min(2, most_stages)) << what;
  EXPECT_LE(p.stages, kWideMaxStages) << what;
  EXPECT_EQ(p.stage_bytes % kWideAlignment, 0) << what;
  EXPECT_EQ(p.x_bytes() % kWideAlignment, 0) << what;
  EXPECT_EQ(p.x_offset % kWideAlignment, 0) << what;
  const int stages_end = p.stages * p.stage_bytes;
  EXPECT_GE(p.x_offset, stages_end) << what;
  const int x_end = p.x_offset + (p.resident ? longest_slice * p.x_bytes() : 0);
  const int sums_bytes = problem.head ? 8 * 4 * p.groups * p.batch : 4 * p.sums_floats();
  if (p.sums_offset < x_end && p.sums_offset + sums_bytes > 0) {
    EXPECT_TRUE(!problem.head && p.cluster() == 1 && stride == p.tiles && sums_bytes <= p.x_offset)
        << what << ": sums over stages that are still in use";
  }
  if (p.bulk_sums) {
    std::vector<int> leaving(static_cast<size_t>(p.planes() * p.batch * p.ld));
    EXPECT_LE(static_cast<int>(4 * leaving.size()), p.x_offset) << what << ": leaving sums over x";
    for (int plane = 0; plane < p.planes(); ++plane) {
      for (int b = 0; b < p.batch; ++b) {
        for (int column = 0; column < p.tile_outputs(); ++column) {
          const int at = wide_leaving_at(p, plane, b, column);
          ASSERT_EQ(leaving.at(at)++, 0) << what;
          const int first = wide_leaving_at(p, plane, b & ~(p.share() - 1), 0);
          EXPECT_EQ(at - first, wide_sum_at(p, 0, 0, b, column))
              << what << ": an owner's rows leave as they lie there";
        }
      }
    }
  }
  EXPECT_GE(p.bias_offset, std::max(x_end, p.sums_offset + sums_bytes)) << what;
  const int ends = weight_format(problem).row_scales ? 2 : 1;
  EXPECT_GE(p.barrier_offset, p.bias_offset + 4 * ends * p.tile_rows()) << what;
  EXPECT_GE(p.shared_bytes, p.barrier_offset + 8 * (2 * p.stages + 1) + kWideAlignment) << what;
  EXPECT_LE(p.shared_bytes, card.shared_bytes) << what;
  for (int offset : {p.sums_offset, p.bias_offset, p.barrier_offset}) EXPECT_EQ(offset % 16, 0) << what;
  EXPECT_LE(p.tile_rows(), p.groups * kWideGroupThreads) << what << ": a thread a row loads the bias";
  EXPECT_GE(p.groups * kWideGroupThreads, problem.m) << what << ": a thread a row closes the step";
}

/// Sizes and features apart: what weights and x are stored as, and of how much k must be a multiple.
struct Stored {
  SkinnyProblem problem;
  int k_step;
};
const Stored kStored[] = {
    {{}, 8},
    {{.w_dtype = DType::kI8}, 16},
    {{.w_dtype = DType::kI4}, 32},
    {{.w_dtype = DType::kF8, .input_dtype = DType::kF8, .x_codes = true}, 16},
    {{.w_dtype = DType::kI8, .input_dtype = DType::kI8, .x_codes = true}, 16},
};

// A weight skipped or read twice, an output of nobody or two blocks, or overlapping shared memory would be a wrong result.
TEST(WidePlan, EveryConfigCoversEverySizeOnce) {
  long plans = 0;
  const SkinnyCard cards[] = {kH200, kSmall};
  for (const SkinnyCard& card : cards) {
    for (const Stored& stored : kStored) {
      for (const auto& [n, k] : std::vector<std::pair<int, int>>{
               {1, 8}, {7, 24}, {37, 264}, {130, 520}, {320, 1032}, {600, 4096}}) {
        for (int m : {1, 5, 8, 13, 17, 33, 64}) {
          for (const bool gated : {false, true}) {
            for (const bool head : {false, true}) {
              if (gated && (head || n % 8 != 0)) continue;
              if (head && stored.problem.weights() == DType::kI4) continue;
              SkinnyProblem problem = stored.problem;
              problem.m = m;
              problem.n = n;
              problem.k = round_up(k, stored.k_step);
              problem.gated = gated;
              problem.head = head;
              const auto configs = wide_configs(problem, card);
              // Two stages of 32 KiB of x need a real card's shared memory; others have the mma kernel.
              const bool small = &card != &cards[0] && problem.weights() == DType::kI4 && m > 32;
              ASSERT_TRUE(small || !configs.empty()) << text({}, problem);
              for (const SkinnyConfig& c : configs) {
                check_plan(c, problem, card);
                EXPECT_GT(estimate_us(c, problem, card), 0) << text(c, problem);
                ++plans;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(plans, 500);
}

// What a unit is in each format: a box of x that was too narrow would multiply half of the weights with the next unit's x.
TEST(WidePlan, UnitsAre128StoredBytes) {
  const std::pair<int, int> units[] = {
      {64, 1}, {128, 2}, {256, 4}, {128, 1}, {128, 1}};  // elements, boxes of x
  for (size_t i = 0; i < std::size(kStored); ++i) {
    SkinnyProblem problem = kStored[i].problem;
    problem.m = 8;
    problem.n = 64;
    problem.k = 1056;
    const WidePlan p = plan_wide(wide_configs(problem, kH200).front(), problem, kH200);
    EXPECT_EQ(p.unit, units[i].first);
    EXPECT_EQ(p.x_boxes, units[i].second);
    EXPECT_EQ(p.units, ceil_div(1056, p.unit));
  }
}

// Codes of x have no other kernel, and several rows come in no other way: a size without a config, or a card that pretends to
// have one, would stop a model or be wrong.
TEST(WidePlan, CodesOfXAreWideOrNothing) {
  SkinnyCard old = kH200;
  old.sm90a = false;
  for (const Stored& stored : kStored) {
    if (!stored.problem.x_codes) continue;
    for (const auto& [n, k] : std::vector<std::pair<int, int>>{{1, 16},
                                                               {1024, 1024},
                                                               {8192, 8192},
                                                               {1024, 16384},
                                                               {16384, 4096},
                                                               {256206, 1024},
                                                               {64, 32768}}) {
      for (int m : {1, 2, 8, 9, 33, 64}) {
        for (const bool head : {false, true}) {
          SkinnyProblem problem = stored.problem;
          problem.m = m;
          problem.n = n;
          problem.k = k;
          problem.head = head;
          const SkinnyConfig c = choose_skinny(problem, kH200);
          EXPECT_EQ(c.kind, SkinnyConfig::Kind::kWide) << text(c, problem);
          EXPECT_EQ(config_problem(c, problem, kH200), "") << text(c, problem);
          EXPECT_TRUE(all_configs(problem, old).empty());
          EXPECT_NE(config_problem(choose_skinny(problem, old), problem, old), "");
          problem.x_codes = false;  // to be quantised by the kernel: not this one's
          EXPECT_TRUE(wide_configs(problem, kH200).empty());
          EXPECT_EQ(all_configs(problem, kH200).empty(), m > 1) << text(c, problem);
        }
      }
    }
  }
}

// Weights that are unpacked: a lane must load the codes whose k the product has at that place of the operand (PTX ISA, "Register
// Fragments for wgmma.mma_async.m64nNk16": register i of a lane has row lane / 4 + 8 (i % 2), k 2 (lane % 4) + 8 (i / 2) and the
// next), x lying as it is.
TEST(WideMap, LanesUnpackTheirOwnCodes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int half = 0; half < 2; ++half) {
      const int k = 2 * (lane % 4) + 8 * half;
      for (int step = 0; step < 8; ++step) EXPECT_EQ(wide_pair_of_bytes(lane, step, half), 16 * step + k);
      for (int step = 0; step < 16; ++step) {
        const int byte = wide_pair_of_nibbles(lane, step, half);
        EXPECT_EQ(2 * byte, 16 * step + k);
        // What wide_unpack() takes of 16 bytes, the codes of two steps: byte lane % 4 of word 2 (step % 2) + half.
        EXPECT_EQ(byte, 16 * (step / 2) + 4 * (2 * (step % 2) + half) + lane % 4);
      }
    }
  }
}

// The swizzle is the copy engine's (PTX ISA, "Swizzling modes": the 16-byte pieces of a row are exchanged by the row's last three
// bits), and a warp's loads must not meet in a bank.
TEST(WideMap, SwizzledLoadsSpreadOverTheBanks) {
  std::set<int> places;
  for (int row = 0; row < 8; ++row) {
    for (int byte = 0; byte < 128; ++byte) {
      const int at = wide_swizzled(row, byte);
      EXPECT_EQ(at / 128, row);
      EXPECT_EQ(at % 128 / 16, byte / 16 ^ row);
      EXPECT_EQ(at % 16, byte % 16);
      places.insert(at);
    }
  }
  EXPECT_EQ(places.size(), 1024u);
  for (int step = 0; step < 8; ++step) {
    for (int half = 0; half < 2; ++half) {
      std::set<int> banks;
      for (int lane = 0; lane < 32; ++lane)
        banks.insert(wide_swizzled(lane / 4, wide_pair_of_bytes(lane, step, half)) / 4 % 32);
      EXPECT_EQ(banks.size(), 16u) << "two lanes share a word, no two words a bank";
    }
    std::set<int> pieces;
    for (int row = 0; row < 8; ++row) pieces.insert(wide_swizzled(row, 16 * step) / 16 % 8);
    EXPECT_EQ(pieces.size(), 8u);
  }
}

// Another unit's scale would be a wrong weight in every row of x.
TEST(WideMap, GroupScalesComeFromTheLaneThatLoadedThem) {
  for (int unit = 0; unit < 3 * kWideScaleUnits; ++unit) {
    const int in_batch = unit % kWideScaleUnits;
    const int first = wide_lane_group(wide_scale_lane(unit)) + 2 * wide_scale_word(unit);
    EXPECT_EQ(first, 2 * in_batch) << "the unit's first group";
  }
  EXPECT_EQ(4 * kWideLaneGroups, 2 * kWideScaleUnits);
}

// Stores of the sums that met in a bank would take several turns.
TEST(WidePlan, SumsSpreadOverTheBanks) {
  for (const bool gated : {false, true}) {
    for (int warps_n : {4, 8}) {
      const SkinnyProblem problem{.m = 64, .n = 512, .k = 512, .gated = gated};
      const SkinnyConfig c{.kind = SkinnyConfig::Kind::kWide,
                           .rows = 16,
                           .batch = 64,
                           .warps_n = warps_n,
                           .cluster = 1,
                           .blocks_per_sm = 1};
      const WidePlan p = plan_wide(c, problem, kH200);
      for (int warp = 0; warp < warps_n; ++warp) {
        for (int half = 0; half < 2; ++half) {
          std::set<int> banks;
          for (int lane = 0; lane < 32; ++lane) {
            const WideOutput out = wide_output(gated, warp, lane, half);
            banks.insert(wide_sum_at(p, 0, out.plane, wide_batch_row(lane, 3, 1), out.column) % 32);
          }
          EXPECT_EQ(banks.size(), 32u) << config_text(c);
        }
      }
    }
  }
}

// The reasons must name what is wrong: they reach the user who asked for a config.
TEST(WidePlan, SaysWhatIsWrongWithAConfig) {
  const SkinnyProblem problem{.m = 8, .n = 64, .k = 512};
  const SkinnyConfig good{.kind = SkinnyConfig::Kind::kWide,
                          .rows = 16,
                          .batch = 8,
                          .warps_n = 4,
                          .cluster = 8,
                          .blocks_per_sm = 2};
  EXPECT_EQ(config_problem(good, problem, kH200), "");
  auto with = [&](auto change) {
    SkinnyConfig other = good;
    change(other);
    return config_problem(other, problem, kH200);
  };
  EXPECT_NE(with([](auto& o) { o.rows = 8; }), "");
  EXPECT_NE(with([](auto& o) { o.batch = 4; }), "");
  EXPECT_NE(with([](auto& o) { o.warps_n = 2; }), "");
  EXPECT_NE(with([](auto& o) { o.cluster = 16; }), "") << "more blocks than units of k";
  EXPECT_NE(with([](auto& o) { o.cluster = 3; }), "");
  EXPECT_NE(with([](auto& o) { o.blocks_per_sm = 0; }), "");
  SkinnyCard old = kH200;
  old.sm90a = false;
  EXPECT_NE(config_problem(good, problem, old), "");
  EXPECT_NE(config_problem(good, {.m = 9, .n = 64, .k = 512}, kH200), "");
  EXPECT_NE(config_problem(good, {.dtype = DType::kF32, .m = 8, .n = 64, .k = 512}, kH200), "");
  EXPECT_NE(config_problem(good, {.m = 8, .n = 64, .k = 512, .norm = true}, kH200), "");
  EXPECT_NE(config_problem(good, {.m = 8, .n = 60, .k = 512, .gated = true}, kH200), "");
  EXPECT_NE(config_problem(good, {.m = 8, .n = 64, .k = 512, .head = true}, kH200), "");
  EXPECT_NE(config_problem(good, {.w_dtype = DType::kI8, .m = 8, .n = 64, .k = 512}, kH200), "") << "4 units";
  SkinnyConfig alone = good;
  alone.cluster = 1;
  EXPECT_EQ(config_problem(alone, {.w_dtype = DType::kI8, .m = 8, .n = 64, .k = 512}, kH200), "");
  EXPECT_NE(config_problem(alone, {.w_dtype = DType::kI4, .m = 8, .n = 64, .k = 512, .head = true}, kH200),
            "");
}

// The sparse product takes the metadata of rows g and g + 8 for 16 k from one thread, the lower row in the lower half (PTX ISA,
// wgmma.mma_async.sp m64nNk32): each stored value's two bits must come from where the copies put that value's.
TEST(WideMap, ThreadsHaveTheMetadataOfTheirValues) {
  for (int unit = 0; unit < kWideMetadataUnits; ++unit) {
    std::set<int> banks;
    for (int row = 0; row < 16; ++row) {
      for (int stored = 0; stored < 64; ++stored) {
        const int step = stored / 16;
        const int thread = 2 * (step % 2) + stored % 16 / 8;
        const int byte = wide_metadata_byte(thread, step / 2) + stored % 8 / 4;
        EXPECT_EQ(byte, stored / 4) << "two bits a value, in order";
      }
      EXPECT_EQ(wide_metadata_piece(row, unit) / kWideRowBytes, row);
      if (row < 8) banks.insert(wide_metadata_piece(row, unit) % kWideRowBytes / 16);
    }
    EXPECT_EQ(banks.size(), 8u);
  }
}

// 2:4: a unit is what 128 stored bytes stand for, its x two boxes, and only whole units have their metadata.
TEST(WidePlan, UnitsOfTwoOfFour) {
  const SkinnyProblem problem{.m = 8, .n = 256, .k = 1024, .sparse = SparseWeights::kTwoOfFour};
  const SkinnyConfig config{
      .kind = SkinnyConfig::Kind::kWide, .rows = 16, .batch = 8, .warps_n = 4, .cluster = 2};
  SkinnyConfig two = config;
  two.blocks_per_sm = 2;
  ASSERT_EQ(config_problem(two, problem, kH200), "");
  const WidePlan p = plan_wide(two, problem, kH200);
  EXPECT_EQ(p.unit, 128);
  EXPECT_EQ(p.units, 8);
  EXPECT_EQ(p.x_boxes, 2);
  EXPECT_GE(p.bias_offset - p.own_offset, 4 * kWideMetadataBytes);
  EXPECT_EQ(p.own_offset % 16, 0);
  SkinnyProblem odd = problem;
  odd.k = 1040;
  EXPECT_NE(config_problem(two, odd, kH200), "");
}

// A bitmap: stages are x alone, each warp has its ring, and the product's operand of a lane is four neighbours.
TEST(WidePlan, UnitsOfABitmap) {
  const SkinnyProblem problem{.m = 8, .n = 256, .k = 1000, .sparse = SparseWeights::kBitmap};
  SkinnyConfig config{.kind = SkinnyConfig::Kind::kWide, .rows = 16, .batch = 8, .warps_n = 4, .cluster = 2};
  config.blocks_per_sm = 3;
  ASSERT_EQ(config_problem(config, problem, kH200), "");
  const WidePlan p = plan_wide(config, problem, kH200);
  EXPECT_EQ(p.units, 16);
  EXPECT_EQ(p.stage_bytes, p.x_bytes());
  EXPECT_EQ(p.own_bytes, kBitmapRing<16>);
  EXPECT_GE(p.bias_offset - p.own_offset, 4 * kBitmapRing<16>);
  EXPECT_LE(3 * (p.shared_bytes + 1024), kH200.shared_bytes + 1024);
  SkinnyConfig other = config;
  other.batch = 32;
  EXPECT_NE(config_problem(other, problem, kH200), "");
  other = config;
  other.warps_n = 8;
  EXPECT_NE(config_problem(other, problem, kH200), "") << "the registers do not hold two groups";
  for (int t = 0; t < 4; ++t) {
    EXPECT_EQ(2 * wide_sorted_pair(t), 4 * t) << "k 2t, 2t + 1 of the product";
    EXPECT_EQ(2 * wide_sorted_pair(4 + t), 4 * t + 2) << "k 2t + 8, 2t + 9";
  }
}

// The grid's arg-max is a maximum of keys: if their order were not that of candidates, another token would be chosen.
TEST(WideMap, KeysOrderAsCandidatesDo) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, int>> all = {
      {-inf, 0}, {-inf, 7}, {-3.5f, 1}, {-1e-30f, 2},  {-0.0f, 3},    {0.0f, 4},    {0.0f, 2},    {1e-40f, 5},
      {2.0f, 5}, {2.0f, 4}, {3e38f, 9}, {inf, 256205}, {inf, 256204}, {-3e38f, 11}, {-1e-40f, 12}};
  for (const auto& [value, id] : all) {
    const uint64_t key = candidate_key(value, id);
    EXPECT_NE(key, 0u);
    EXPECT_EQ(key_value(key), value);
    EXPECT_EQ(key_id(key), id);
    for (const auto& [other, other_id] : all) {
      EXPECT_EQ(key > candidate_key(other, other_id), better(value, id, other, other_id))
          << value << " " << id << " against " << other << " " << other_id;
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
