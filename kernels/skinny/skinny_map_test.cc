#include "kernels/skinny/skinny_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <vector>

#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/formats/weight_format.h"

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

// A staged row that no lane reads would be missing from the product; a read past them meets what other warps write.
TEST(SkinnyMap, EveryStagedRowIsReadAndNoneBeyond) {
  for (int tiles : {1, 2, 4, 8}) {
    for (int rows = 1; rows <= 8 * tiles; ++rows) {
      for (int tile = 0; tile < tiles; ++tile) {
        for (int lane = 0; lane < 32; ++lane) {
          const int column = 8 * tile + lane / 4;
          const int row = MmaMap::x_row(lane, tile, rows);
          if (column < rows) {
            EXPECT_EQ(row, column) << rows;
          } else {
            EXPECT_LT(row, rows) << column;
          }
        }
      }
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

/// How quantised weights are stored and what they are multiplied with.
struct Stored {
  std::optional<DType> weights;
  std::optional<DType> inputs;
};
constexpr Stored kStored[] = {{},
                              {DType::kI8, std::nullopt},
                              {DType::kI4, std::nullopt},
                              {DType::kF8, DType::kF8},
                              {DType::kI8, DType::kI8}};

// A lane must find the x of its own codes where it reads, 16 bytes after 16 bytes, and no two elements may share a place.
TEST(SkinnyMap, StagedPiecesAreThoseOfTheLane) {
  for (const Stored& stored : kStored) {
    const WeightFormat f = weight_format({.w_dtype = stored.weights, .input_dtype = stored.inputs});
    const int piece = 16 / f.x_bytes;
    ASSERT_EQ(f.pieces() * piece, f.elements());
    for (int lanes : {MmaMap::kLanes, 32}) {
      const int unit = lanes * f.elements();
      std::vector<int> staged(static_cast<size_t>(3 * unit), -1);
      for (int k = 0; k < 3 * unit; ++k) {
        int& place = staged.at(static_cast<size_t>(staged_at(k, lanes, f.pieces(), piece)));
        EXPECT_EQ(place, -1);
        place = k;
      }
      for (int u = 0; u < 3; ++u) {
        for (int lane = 0; lane < lanes; ++lane) {
          for (int e = 0; e < f.elements(); ++e) {
            const int from = u * unit + (e / piece * lanes + lane) * piece + e % piece;
            EXPECT_EQ(staged[static_cast<size_t>(from)], u * unit + lane * f.elements() + e);
          }
        }
      }
    }
    EXPECT_EQ(MmaMap::kLanes * f.elements() == kScaleGroup, f.group_scales);
  }
}

// The kernel of one row takes from a tile what four lanes multiplied with their own x: another place has other lanes' x.
TEST(SkinnyMap, DiagonalHoldsEachGroupsSum) {
  Fragments f{};
  std::array<int, 4> d[32] = {};
  int want[2][8] = {};
  for (int lane = 0; lane < 32; ++lane) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 2; ++i) {
        const int x = 1 + lane * 7 + half * 3 + i;
        f.b[lane][half][i] = x;
        for (int row = 0; row < 2; ++row) {
          const int w = 5 + lane * lane + half + 2 * i + 1000 * row;
          f.a[lane][2 * half + row][i] = w;
          want[row][MmaMap::group(lane)] += x * w;
        }
      }
    }
  }
  mma_by_the_book(f, d);
  int held[8] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if (!DiagonalMap::holds(lane)) continue;
    ++held[MmaMap::group(lane)];
    for (int row = 0; row < 2; ++row) {
      const int index = DiagonalMap::index(lane) + 2 * row;
      EXPECT_EQ(d[lane][static_cast<size_t>(index)], want[row][MmaMap::group(lane)]) << lane;
    }
  }
  for (int count : held) EXPECT_EQ(count, 1);
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

}  // namespace
}  // namespace tandem::kernels
