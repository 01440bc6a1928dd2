#include "kernels/attention/attention_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <vector>

#include "harness/base/testing/test_seed.h"
#include "harness/model/batch.h"

namespace tandem::kernels {
namespace {

// A bucket off by one distance gives T5 plausible but wrong text.
TEST(RelativeBias, StartsReproduceEveryBucket) {
  for (const bool bidirectional : {true, false}) {
    for (const int buckets : {4, 8, 16, 32, 64, 128}) {
      for (const int max_distance : {33, 64, 100, 127, 128, 129, 256, 1000, 1024}) {
        const int exact = buckets / (bidirectional ? 2 : 1) / 2;
        if (max_distance <= exact) continue;
        const auto bucket_of = [&](int d) {
          return relative_bucket(d, bidirectional, buckets, max_distance);
        };
        const BucketStarts starts = make_bucket_starts(bucket_of, max_distance);
        ASSERT_LE(starts.before_count, buckets);
        ASSERT_LE(starts.after_count, buckets);
        for (int d = -3 * max_distance; d <= 3 * max_distance; ++d) {
          const int clamped = distance_bias_index(d, max_distance) - max_distance;
          ASSERT_EQ(bucket_from_starts(starts, clamped), bucket_of(d))
              << "distance " << d << " buckets " << buckets << " max " << max_distance << " both "
              << bidirectional;
        }
      }
    }
  }
}

// A near tile that reads outside its extended table, or a far tile that is not constant, reads a wrong bias.
TEST(RelativeBias, TilesAgreeWithTheDistanceTable) {
  constexpr int kMargin = 192;
  for (const auto& [m, n] : {std::array{64, 64}, std::array{64, 32}, std::array{64, 128}}) {
    for (const int max_distance : {1, 5, 64, 128, 300}) {
      for (int q0 = 0; q0 < 1024; q0 += m) {
        for (int k0 = 0; k0 < 1024; k0 += n) {
          const BiasTile kind = bias_tile(q0, m, k0, n, max_distance);
          for (const int q : {q0, q0 + m / 2, q0 + m - 1}) {
            for (int k = k0; k < k0 + n; ++k) {
              const int want = distance_bias_index(k - q, max_distance);
              if (kind == BiasTile::kBefore) {
                ASSERT_EQ(want, 0);
              } else if (kind == BiasTile::kAfter) {
                ASSERT_EQ(want, 2 * max_distance);
              } else {
                const int index = extended_bias_index(k - q, max_distance, kMargin);
                ASSERT_GE(index, 0);
                ASSERT_LT(index, extended_bias_size(max_distance, kMargin));
                ASSERT_EQ(distance_bias_index(index - max_distance - kMargin, max_distance), want);
              }
            }
          }
        }
      }
    }
  }
}

// A key tile too few drops keys, one too many reads another sequence; a missing mask lets a query see the future.
TEST(EncoderTiles, VisitExactlyTheSeenKeys) {
  for (int length = 1; length <= 300; ++length) {
    for (const bool causal : {false, true}) {
      for (const auto& [m, n] :
           {std::array{64, 64}, std::array{64, 32}, std::array{128, 128}, std::array{64, 128}}) {
        for (int q0 = 0; q0 < length; q0 += m) {
          const int last_query = std::min(q0 + m, length) - 1;
          const int last_seen = causal ? last_query : length - 1;
          const int tiles = key_tiles(length, q0, m, n, causal);
          ASSERT_EQ(tiles - 1, last_seen / n);
          for (int tile = 0; tile < tiles; ++tile) {
            const int k0 = tile * n;
            bool hidden = k0 + n > length;
            for (int q = q0; q < q0 + m && causal; ++q) hidden = hidden || k0 + n - 1 > q;
            ASSERT_EQ(tile_needs_mask(length, q0, k0, n, causal), hidden);
          }
        }
      }
    }
  }
}

// ldmatrix reads eight rows at one chunk: two of them in one bank group halve the rate; a swizzle that is no permutation
// overwrites data.
TEST(EncoderTiles, SwizzleIsAConflictFreePermutation) {
  for (const int chunks : {4, 8, 16}) {
    std::set<int> all;
    for (int row = 0; row < 64; ++row) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const int at = swizzled_chunk(row, chunk, chunks);
        ASSERT_GE(at, 0);
        ASSERT_LT(at, chunks);
        all.insert(row * chunks + at);
      }
    }
    ASSERT_EQ(static_cast<int>(all.size()), 64 * chunks);
    for (int first = 0; first < 64; first += 8) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        std::set<int> banks;
        for (int row = first; row < first + 8; ++row)
          banks.insert((row * chunks + swizzled_chunk(row, chunk, chunks)) % 8);
        ASSERT_EQ(banks.size(), 8u);
      }
    }
  }
}

// A query tile that no block takes is never computed; one that two take is computed twice.
TEST(EncoderTiles, PersistentBlocksTakeEveryItemOnce) {
  for (const int blocks : {1, 2, 7, 131, 132}) {
    for (const int64_t total : {1, 5, 131, 132, 133, 512, 1000}) {
      std::set<int64_t> taken;
      const int64_t rounds = (total + blocks - 1) / blocks;
      for (int block = 0; block < blocks; ++block) {
        for (int64_t round = 0; round < rounds; ++round) {
          const int64_t item = persistent_item(round, block, blocks);
          ASSERT_TRUE(item >= total || taken.insert(item).second);
        }
        ASSERT_GE(persistent_item(rounds, block, blocks), total);
      }
      ASSERT_EQ(static_cast<int64_t>(taken.size()), total);
    }
  }
}

// A key in no share is forgotten, a key in two counts twice.
TEST(DecodeWorkers, RangesCoverEveryKeyOnce) {
  for (int log2_workers = 0; log2_workers <= 5; ++log2_workers) {
    const int workers = 1 << log2_workers;
    for (int length = 0; length <= 2200; ++length) {
      int next = 0;
      for (int w = 0; w < workers; ++w) {
        const KeyRange r = decode_range(length, log2_workers, w);
        ASSERT_EQ(r.begin, next);
        ASSERT_LE(r.begin, r.end);
        ASSERT_TRUE(r.end == length || r.end % kDecodeGranule == 0);
        ASSERT_LE(r.end - r.begin, (length + workers - 1) / workers + kDecodeGranule - 1);
        next = r.end;
      }
      ASSERT_EQ(next, length);
    }
  }
}

// A pair that no warp takes is never computed, one that two take appends twice; a multiprocessor with two pairs more than another
// holds up the whole step.
TEST(DecodeSpread, EveryPairHasOneWarpAndEveryBlockAsMany) {
  for (const int multiprocessors : {78, 108, 132}) {
    for (const int most_warps : {10, 12, 16}) {
      std::vector<int> taken;
      for (int pairs = 1; pairs <= 5000; ++pairs) {
        const DecodeSpread s = decode_spread(pairs, multiprocessors, most_warps);
        ASSERT_TRUE(s.blocks >= 1 && s.blocks <= multiprocessors) << pairs;
        ASSERT_TRUE(s.warps >= 1 && s.warps <= most_warps) << pairs;
        taken.assign(pairs, 0);
        int least = pairs;
        int most = 0;
        for (int block = 0; block < s.blocks; ++block) {
          int here = 0;
          for (int warp = 0; warp < s.warps; ++warp) {
            // As the kernel walks: until the first round in which there is none.
            for (int round = 0; s.pair(block, warp, round) < pairs; ++round) {
              ++taken[s.pair(block, warp, round)];
              ++here;
            }
          }
          least = std::min(least, here);
          most = std::max(most, here);
        }
        ASSERT_TRUE(std::ranges::all_of(taken, [](int times) { return times == 1; })) << pairs;
        ASSERT_LE(most - least, 1) << pairs;
        ASSERT_EQ(most, ceil_div(pairs, multiprocessors)) << pairs << ": no spread has fewer at the fullest";
      }
    }
  }
}

// The presets' steps at batch 64 as the log reckons them: a change of the rule shows here before it shows on a card.
TEST(DecodeSpread, OfThePresets) {
  const auto expect = [](int pairs, int most_warps, int blocks, int warps) {
    const DecodeSpread s = decode_spread(pairs, 132, most_warps);
    EXPECT_EQ(s.blocks, blocks) << pairs;
    EXPECT_EQ(s.warps, warps) << pairs;
  };
  expect(64 * 16, 12, 128, 8);
  expect(64 * 32, 8, 128, 8);  // two rounds
  expect(64 * 12, 12, 128, 6);
  expect(63 * 12, 12, 126, 6);
  expect(256 * 16, 12, 128, 11);  // three rounds, the last not full
  expect(1, 12, 1, 1);
}

using Fragments = std::array<std::array<int, 8>, 32>;  // [lane][register * 2 + half]

/// mma.m16n8k16 as the PTX ISA lays out its operands: a has 4 registers a lane, b 2, the result 4 values.
std::array<std::array<int, 4>, 32> emulate_mma(const Fragments& a,
                                               const std::array<std::array<int, 4>, 32>& b) {
  int left[16][16];
  int right[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4;
    const int t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      for (int h = 0; h < 2; ++h) left[g + 8 * (r % 2)][2 * t + h + 8 * (r / 2)] = a[lane][2 * r + h];
    }
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < 2; ++h) right[2 * t + h + 8 * r][g] = b[lane][2 * r + h];
    }
  }
  std::array<std::array<int, 4>, 32> c{};
  for (int lane = 0; lane < 32; ++lane) {
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + 8 * (e / 2);
      const int column = 2 * (lane % 4) + e % 2;
      for (int k = 0; k < 16; ++k) c[lane][e] += left[row][k] * right[k][column];
    }
  }
  return c;
}

// The decode kernel fills fragments straight from memory under a permutation: a wrong one multiplies the wrong elements.
TEST(DecodeFragments, ScoresAreDotProducts) {
  std::mt19937_64 random(test_seed());
  const auto draw = [&] { return static_cast<int>(random() % 19) - 9; };
  for (const auto& [dim, pairs] :
       {std::pair{32, false}, {64, false}, {128, false}, {64, true}, {128, true}}) {
    std::vector<std::vector<int>> q(8, std::vector<int>(dim));
    std::vector<std::vector<int>> k(8, std::vector<int>(dim));
    for (auto& row : q) std::generate(row.begin(), row.end(), draw);
    for (auto& row : k) std::generate(row.begin(), row.end(), draw);
    std::array<std::array<int, 4>, 32> sum{};
    for (int step = 0; step < dim / 32; ++step) {
      for (int part = 0; part < 2; ++part) {  // elements 0-3 of the chunk, then 4-7
        Fragments a{};
        std::array<std::array<int, 4>, 32> b{};
        for (int lane = 0; lane < 32; ++lane) {
          const int row = score_fragment_key(lane);
          const int at = 8 * score_fragment_chunk(lane, step, pairs) + 4 * part;
          for (int h = 0; h < 2; ++h) {
            a[lane][0 + h] = q[row][at + h];      // a0
            a[lane][4 + h] = q[row][at + 2 + h];  // a2
            b[lane][0 + h] = k[row][at + h];
            b[lane][2 + h] = k[row][at + 2 + h];
          }
        }
        const auto c = emulate_mma(a, b);
        for (int lane = 0; lane < 32; ++lane) {
          for (int e = 0; e < 4; ++e) sum[lane][e] += c[lane][e];
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int e = 0; e < 2; ++e) {
        int want = 0;
        for (int d = 0; d < dim; ++d) want += q[lane / 4][d] * k[score_column(lane) + e][d];
        ASSERT_EQ(sum[lane][e], want) << "dim " << dim << " lane " << lane;
      }
    }
  }
}

// As above for the transposed product with the values, and that the probabilities need no exchange between lanes.
TEST(DecodeFragments, WeightedSumsAreWeightedSums) {
  std::mt19937_64 random(test_seed());
  const auto draw = [&] { return static_cast<int>(random() % 19) - 9; };
  int p[8][16];
  int v[16][128];
  for (auto& row : p) std::generate(std::begin(row), std::end(row), draw);
  for (auto& row : v) std::generate(std::begin(row), std::end(row), draw);
  for (const bool pairs : {false, true}) {
    std::set<std::pair<int, int>> produced;
    for (int block = 0; block < 2; ++block) {
      for (int i = 0; i < 4; ++i) {
        Fragments a{};
        std::array<std::array<int, 4>, 32> b{};
        for (int lane = 0; lane < 32; ++lane) {
          const int at = 8 * value_fragment_chunk(lane, block, pairs) + 2 * i;
          const int keys[4] = {value_fragment_key(lane, 0), value_fragment_key(lane, 1),
                               value_fragment_key(lane, 2), value_fragment_key(lane, 3)};
          for (int h = 0; h < 2; ++h) {
            a[lane][0 + h] = v[keys[h]][at];      // low halves of two keys
            a[lane][2 + h] = v[keys[h]][at + 1];  // high halves
            a[lane][4 + h] = v[keys[2 + h]][at];
            a[lane][6 + h] = v[keys[2 + h]][at + 1];
            b[lane][0 + h] = p[lane / 4][score_column(lane) + h];      // scores tile 0 as it came out
            b[lane][2 + h] = p[lane / 4][8 + score_column(lane) + h];  // scores tile 1
          }
        }
        const auto c = emulate_mma(a, b);
        for (int lane = 0; lane < 32; ++lane) {
          for (int e = 0; e < 4; ++e) {
            const int row = score_column(lane) + e % 2;
            const int element = value_result_element(lane, block, i, pairs) + e / 2;
            int want = 0;
            for (int key = 0; key < 16; ++key) want += p[row][key] * v[key][element];
            ASSERT_EQ(c[lane][e], want) << "lane " << lane << " product " << i;
            produced.insert({row, element});
          }
        }
      }
    }
    ASSERT_EQ(produced.size(), 8u * 128u);
  }
}

// The new token's chunks are written by the lanes that hold them: a chunk nobody holds stays stale in the cache.
TEST(DecodeFragments, EveryChunkIsLoadedOnce) {
  for (const bool pairs : {false, true}) {
    std::set<std::pair<int, int>> keys;
    for (int u = 0; u < 2; ++u) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int step = 0; step < 4; ++step) {
          ASSERT_TRUE(keys.insert({8 * u + score_fragment_key(lane), score_fragment_chunk(lane, step, pairs)})
                          .second);
        }
      }
    }
    EXPECT_EQ(keys.size(), 16u * 16u);
    std::set<std::pair<int, int>> values;
    for (int lane = 0; lane < 32; ++lane) {
      for (int which = 0; which < 4; ++which) {
        for (int block = 0; block < 2; ++block) {
          ASSERT_TRUE(
              values.insert({value_fragment_key(lane, which), value_fragment_chunk(lane, block, pairs)})
                  .second);
        }
      }
    }
    EXPECT_EQ(values.size(), 16u * 16u);
    EXPECT_EQ(keys, values);
  }
}

}  // namespace
}  // namespace tandem::kernels
