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
  static constexpr int kTiles = kBatch / 8;           // of x
  static constexpr int kPairs = ceil_div(kLoads, 2);  // of loads: rows and rows + 8 of A
  static constexpr int kPartPieces = Format::kPieces / Format::kParts;

  Acc acc[kTiles][kPairs][4];

  __device__ static int local_row(int lane, int load) { return 8 * load + MmaMap::group(lane); }
  __device__ static int lane_k(int lane) { return MmaMap::load_k(lane, Format::kElements); }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) clear(acc[i]);
  }

  /// w: this lane's 16 bytes of each load; x: the unit's first element of staged row 0; scale: with group scales, those of the
  /// rows of this lane's loads.
  __device__ void consume(const uint4 (&w)[kLoads], const X* x, int x_stride, int lane,
                          const float (&scale)[kLoads]) {
    const X* mine = x + MmaMap::group(lane) * x_stride + MmaMap::thread(lane) * kVec<X>;
#pragma unroll 1
    for (int part = 0; part < Format::kParts; ++part, mine += kPartPieces * MmaMap::kLanes * kVec<X>) {
      uint32_t words[2 * kPairs][4 * kPartPieces] = {};
#pragma unroll
      for (int j = 0; j < kLoads; ++j) Format::unpack(stored_part<Format>(w[j], part).words, words[j]);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        // Rows at and past m hold whatever shared memory held: columns of the product that nobody reads.
        const X* row = mine + 8 * i * x_stride;
        if constexpr (Format::kGroupScales) {
          Acc sums[kPairs][4];
          clear(sums);
          multiply(sums, words, row);
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
              const int load = min(2 * pair + r / 2, kLoads - 1);
              acc[i][pair][r] = fmaf(sums[pair][r], scale[load], acc[i][pair][r]);
            }
          }
        } else {
          multiply(acc[i], words, row);
        }
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
          red[b * ld + first_row + local_row(lane, j)] =
              static_cast<float>(acc[2 * kPass + half][j / 2][2 * (j % 2) + i]);
        }
      }
    }
  }

 private:
  __device__ static void clear(Acc (&sums)[kPairs][4]) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[pair][r] = 0;
    }
  }

  /// Adds the products of a part of a unit with eight rows of x. `row`: this lane's first piece of its row.
  __device__ static void multiply(Acc (&sums)[kPairs][4],
                                  const uint32_t (&words)[2 * kPairs][4 * kPartPieces], const X* row) {
#pragma unroll
    for (int piece = 0; piece < kPartPieces; ++piece) {
      const uint4 raw = *reinterpret_cast<const uint4*>(row + piece * MmaMap::kLanes * kVec<X>);
      const uint32_t xw[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int first = MmaMap::word(step, 0);
        const int second = MmaMap::word(step, 1);
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          const auto& top = words[2 * pair];
          const auto& low = words[2 * pair + 1];
          Format::multiply(sums[pair], top[4 * piece + first], low[4 * piece + first],
                           top[4 * piece + second], low[4 * piece + second], xw[first], xw[second]);
        }
      }
    }
  }
};

}  // namespace tandem::kernels
