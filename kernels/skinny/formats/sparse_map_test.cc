// The index arithmetic of sparse weights, walked on the CPU by what the instructions are defined to do.
#include "kernels/skinny/formats/sparse_map.h"

#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <set>
#include <vector>

#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {
namespace {

// Two elements in one place, or a hole, would multiply a weight with another k's x.
TEST(SparseMap, EveryElementHasAPlaceOfItsOwn) {
  for (const int lanes : {4, 32}) {
    std::set<int> places;
    const int elements = 3 * 16 * lanes;
    for (int i = 0; i < elements; ++i) {
      const int place = TwoOfFourMap::place(i, lanes);
      ASSERT_GE(place, 0);
      ASSERT_LT(place, elements);
      ASSERT_TRUE(places.insert(place).second);
      const int from = i / 8 * 8;
      ASSERT_EQ(place, TwoOfFourMap::place(from, lanes) + TwoOfFourMap::word_step(i % 8 / 2) + i % 2);
    }
  }
}

/// mma.sp m16n8k32 as the PTX ISA defines it, for rows lane / 4 and lane / 4 + 8 of a and column n of b; elements are ints.
struct SparseProduct {
  int a[32][4][2];  // [lane][register][element]
  int b[32][4][2];
  uint32_t metadata[32];

  int sum(int row, int n, int selector) const {
    int total = 0;
    for (int stored = 0; stored < 16; ++stored) {
      const int lane = row % 8 * 4 + stored % 8 / 2;
      const int value = a[lane][row / 8 + 2 * (stored / 8)][stored % 2];
      const uint32_t word = metadata[row % 8 * 4 + 2 * selector + stored / 8];
      const int index = static_cast<int>(word >> (16 * (row / 8) + 2 * (stored % 8)) & 3);
      const int k = stored / 2 * 4 + index;
      total += value * b[4 * n + k % 8 / 2][k / 8][k % 2];
    }
    return total;
  }
};

// Words, metadata and x as a warp of the kernel of one row takes them: each group of four lanes must get the products of its own
// 64 k of both weight rows, on the tile's diagonal. Wrong nibbles or another order of x give other sums.
TEST(SparseMap, DiagonalsOfSparseProductsAreTheRows) {
  std::mt19937 engine(7);
  for (int draw = 0; draw < 50; ++draw) {
    constexpr int kUnit = 512;
    std::vector<int> x(kUnit), staged(kUnit), dense[2] = {std::vector<int>(kUnit), std::vector<int>(kUnit)};
    std::vector<int> stored[2];
    std::vector<uint8_t> metadata[2] = {std::vector<uint8_t>(kUnit / 8), std::vector<uint8_t>(kUnit / 8)};
    for (int i = 0; i < kUnit; ++i) {
      x[i] = static_cast<int>(engine() % 201) - 100;
      staged[TwoOfFourMap::place(i, 32)] = x[i];
    }
    for (int row = 0; row < 2; ++row) {
      for (int four = 0; four < kUnit / 4; ++four) {
        constexpr int kPairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
        for (const int index : kPairs[engine() % 6]) {
          const int at = static_cast<int>(stored[row].size());
          metadata[row][at / 4] |= static_cast<uint8_t>(index << (2 * (at % 4)));
          stored[row].push_back(static_cast<int>(engine() % 201) - 100);
          dense[row][4 * four + index] = stored[row].back();
        }
      }
    }
    SparseProduct product[2];
    uint32_t own[32], pairs[32];
    for (int lane = 0; lane < 32; ++lane) {
      own[lane] = 0;
      for (int i = 0; i < 4; ++i)
        own[lane] |= static_cast<uint32_t>(metadata[i / 2][2 * lane + i % 2]) << (8 * i);
    }
    for (int lane = 0; lane < 32; ++lane)
      pairs[lane] = TwoOfFourMap::exchange_nibbles(own[lane], own[lane ^ 1], MmaMap::thread(lane));
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t indices =
          TwoOfFourMap::exchange_bytes(pairs[lane], pairs[lane ^ 2], MmaMap::thread(lane));
      for (int which = 0; which < 2; ++which) {
        product[which].metadata[lane] = indices;
        for (int r = 0; r < 4; ++r) {
          for (int e = 0; e < 2; ++e) {
            product[which].a[lane][r][e] = stored[r % 2][8 * lane + 4 * which + 2 * (r / 2) + e];
            product[which].b[lane][r][e] = staged[(which * 32 + lane) * 8 + 2 * r + e];
          }
        }
      }
    }
    for (int group = 0; group < 8; ++group) {
      for (int row = 0; row < 2; ++row) {
        int want = 0;
        for (int i = 64 * group; i < 64 * (group + 1); ++i) want += dense[row][i] * x[i];
        ASSERT_EQ(product[0].sum(group + 8 * row, group, 0) + product[1].sum(group + 8 * row, group, 1),
                  want);
      }
    }
  }
}

// What stands for groups past the end must be indices that rise.
TEST(SparseMap, NothingIsValidMetadata) {
  for (int nibble = 0; nibble < 4; ++nibble) {
    const uint32_t pair = uint32_t{TwoOfFourMap::kNothing} >> (4 * nibble) & 15;
    EXPECT_LT(pair & 3, pair >> 2);
  }
}

// Every nibble at even and odd places: an element that takes a neighbour's value, or keeps one where there is none.
TEST(SparseMap, ExpandsEveryNibble) {
  const uint16_t values[6] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666};
  const auto word = [&](int i) {
    return static_cast<uint32_t>(values[2 * i]) | static_cast<uint32_t>(values[2 * i + 1]) << 16;
  };
  for (uint32_t nibble = 0; nibble < 16; ++nibble) {
    for (uint32_t odd = 0; odd < 2; ++odd) {
      for (uint32_t above : {0u, 0xfffffff0u}) {  // bits of later elements
        const auto four =
            BitmapMap::expand(word(0), word(1), word(2), 100 + 2 * odd, nibble | above,
                              BitmapMap::selectors(static_cast<int>(nibble)), BitmapMap::kTaken);
        const uint32_t words[2] = {four.low, four.high};
        uint32_t next = odd;
        for (int i = 0; i < 4; ++i) {
          const uint32_t got = words[i / 2] >> (16 * (i % 2)) & 0xffff;
          ASSERT_EQ(got, nibble >> i & 1 ? values[next] : 0) << nibble << " " << odd << " " << i;
          next += nibble >> i & 1;
        }
      }
    }
  }
}

// All k of a unit's rows must be somebody's, once.
TEST(SparseMap, ChunksCoverAUnit) {
  for (int row = 0; row < 2; ++row) {
    std::set<int> seen;
    for (int chunk = 0; chunk < BitmapMap::kChunks; ++chunk) {
      for (int lane = 0; lane < 32; ++lane) {
        const int word = BitmapMap::word_lane(lane, row, chunk);
        ASSERT_EQ(word / BitmapMap::kWordsOfRow, row);
        const int k = BitmapMap::first_k(lane, chunk);
        ASSERT_EQ(k, word % BitmapMap::kWordsOfRow * 32 + BitmapMap::shift(lane));
        for (int i = 0; i < 4; ++i) ASSERT_TRUE(seen.insert(k + i).second);
      }
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(BitmapMap::kUnit));
  }
  EXPECT_EQ(kBitmapRing<2> % 16, 0u);
}

}  // namespace
}  // namespace tandem::kernels
