// Tensor cores and weights of codes. What is unpacked may lie in any register, so here the weight rows are the m16 operand A,
// whose four registers come from two rows, and the rows of x the n8 operand B, whose two are neighbours in 16 staged bytes: no
// register is moved, and eight rows of x fill their operand.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/skinny/formats/format.cuh"
#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {

/// As MmaCore. A warp owns kRows weight rows; 8 leave the lower half of A zero.
template <class CodeFormat, int kRows, int kBatch>
struct CodesCore {
  using Format = CodeFormat;
  using T = typename Format::T;
  using X = typename Format::X;
  using Acc = typename Format::Acc;
  static constexpr int kLoads = kRows / 8;
  static constexpr int kRowsPerWarp = kRows;
  static constexpr int kPasses = ceil_div(kBatch, kSkinnyPassRows);
  static constexpr int kPassRows = kBatch < kSkinnyPassRows ? kBatch : kSkinnyPassRows;
  static constexpr int kUnit = MmaMap::kLanes * Format::kElements;
  static constexpr int kDepth = mma_depth(kRows);
  static constexpr int kMinBlocks =
      mma_blocks(kRows, kBatch, Format::kPieces);  // resident on a multiprocessor
  static constexpr bool kOneChunk = false;
  static constexpr int kXLoads =
      kBatch * Format::kPieces < 64 ? 4 : 2;          // of x, kept while a chunk is multiplied
  static constexpr int kTiles = kBatch / 8;           // of x
  static constexpr int kPairs = ceil_div(kLoads, 2);  // of loads: rows and rows + 8 of A
  static constexpr int kPartPieces = Format::kPieces / Format::kParts;
  /// Tiles of x that are multiplied in turn, so that no product waits for the one before it.
  static constexpr int kGroup = kTiles < 4 ? kTiles : 4;
  /// Few sums would wait for each other: every other product adds to sums of its own.
  static constexpr int kChains = kTiles * kPairs <= (Format::kGroupScales ? 1 : 2) ? 2 : 1;

  Acc acc[kChains][kTiles][kPairs][4];

  __device__ static int local_row(int lane, int load) { return 8 * load + MmaMap::group(lane); }
  __device__ static int lane_k(int lane) { return MmaMap::load_k(lane, Format::kElements); }

  __device__ void clear() {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
          for (int r = 0; r < 4; ++r) acc[chain][i][pair][r] = 0;
        }
      }
    }
  }

  /// w: this lane's 16 bytes of each load; x: the unit's first element of staged row 0, of `rows`; scale: with group scales,
  /// those of the rows of this lane's loads.
  __device__ void consume(const uint4 (&w)[kLoads], const X* x, int x_stride, int rows, int lane,
                          const float (&scale)[kLoads]) {
    const X* mine = x + MmaMap::thread(lane) * kVec<X>;
#pragma unroll(kTiles <= 2 ? Format::kParts : 1)
    for (int part = 0; part < Format::kParts; ++part, mine += kPartPieces * MmaMap::kLanes * kVec<X>) {
      uint32_t words[2 * kPairs][4 * kPartPieces] = {};
#pragma unroll
      for (int j = 0; j < kLoads; ++j) Format::unpack(stored_part<Format>(w[j], part).words, words[j]);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += kGroup) {
        Sums sums;
        each_sum([&](int chain, int i, int pair, int r) {
          sums[chain][i][pair][r] = Format::kGroupScales ? Acc{0} : acc[chain][tile + i][pair][r];
        });
        // Never past the staged rows: there other warps' weights arrive meanwhile. A race, if of values that nobody uses.
        int at[kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) at[i] = MmaMap::x_row(lane, tile + i, rows) * x_stride;
        multiply(sums, words, mine, at);
        each_sum([&](int chain, int i, int pair, int r) {
          Acc& to = acc[Format::kGroupScales ? 0 : chain][tile + i][pair][r];
          if constexpr (Format::kGroupScales) {
            to = fmaf(sums[chain][i][pair][r], scale[min(2 * pair + r / 2, kLoads - 1)], to);
          } else {
            to = sums[chain][i][pair][r];
          }
        });
      }
    }
  }

  /// Stores rows [16 kPass, 16 kPass + kPassRows) of x to red[kPassRows][ld], at this warp's weight rows.
  template <int kPass>
  __device__ void store(float* red, int ld, int first_row, int lane) {
#pragma unroll
    for (int half = 0; half < kPassRows / 8; ++half) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int b = 8 * half + MmaMap::acc_column(lane, i);
          Acc sum = acc[0][2 * kPass + half][j / 2][2 * (j % 2) + i];
          if constexpr (kChains == 2) sum += acc[1][2 * kPass + half][j / 2][2 * (j % 2) + i];
          red[b * ld + first_row + local_row(lane, j)] = static_cast<float>(sum);
        }
      }
    }
  }

 private:
  using Sums = Acc[kChains][kGroup][kPairs][4];

  template <class F>
  __device__ static void each_sum(F&& f) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
          for (int r = 0; r < 4; ++r) f(chain, i, pair, r);
        }
      }
    }
  }

  /// Adds the products of a part of a unit with 8 kGroup rows of x. `x`: this lane's first piece of staged row 0; `at`: from
  /// there to its rows.
  __device__ static void multiply(Sums& sums, const uint32_t (&words)[2 * kPairs][4 * kPartPieces],
                                  const X* x, const int (&at)[kGroup]) {
#pragma unroll
    for (int piece = 0; piece < kPartPieces; ++piece) {
      uint32_t xw[kGroup][4];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const uint4 raw = *reinterpret_cast<const uint4*>(x + at[i] + piece * MmaMap::kLanes * kVec<X>);
        xw[i][0] = raw.x;
        xw[i][1] = raw.y;
        xw[i][2] = raw.z;
        xw[i][3] = raw.w;
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int first = MmaMap::word(step, 0);
        const int second = MmaMap::word(step, 1);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            const auto& top = words[2 * pair];
            const auto& low = words[2 * pair + 1];
            Format::multiply(sums[step % kChains][i][pair], top[4 * piece + first], low[4 * piece + first],
                             top[4 * piece + second], low[4 * piece + second], xw[i][first], xw[i][second]);
          }
        }
      }
    }
  }
};

}  // namespace tandem::kernels
