// The two ways to multiply weights as they are (codes: codes_core.cuh): which weights a warp takes, and what it does with them.
//
// A core says how many 16-byte loads of weights a lane needs for one unit of k (kLoads), which rows and which k those are,
// how many units a warp keeps in flight (kDepth), and how the sums leave the registers.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/skinny/formats/format.cuh"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/words.cuh"

namespace tandem::kernels {

/// CUDA cores. A warp owns kLoads rows; its lanes share a unit of k, 16 bytes each.
template <typename Element, int kBatch, int kRows>
struct DotCore {
  using Format = PlainFormat<Element>;
  using T = Element;
  static constexpr int kLoads = kRows;
  static constexpr int kRowsPerWarp = kRows;
  static constexpr int kPasses = 1;
  static constexpr int kPassRows = kBatch;
  static constexpr int kUnit = kWarp * kVec<T>;
  static constexpr int kDepth = 4;
  static constexpr int kMinBlocks = 2;     // resident on a multiprocessor
  static constexpr bool kOneChunk = true;  // x is always staged whole
  static constexpr int kValues = kBatch * kRows;

  float acc[kValues];  // [batch][row]

  __device__ static int local_row(int /*lane*/, int load) { return load; }
  __device__ static int lane_k(int lane) { return lane * kVec<T>; }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kValues; ++i) acc[i] = 0.0f;
  }

  /// w: this lane's 16 bytes of each row; x: the unit's first element of staged row 0.
  __device__ void consume(const uint4 (&w)[kLoads], const T* x, int x_stride, int lane) {
    float wf[kRows][kVec<T>];
#pragma unroll
    for (int r = 0; r < kRows; ++r) unpack_words<T>(w[r], wf[r]);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      float xf[kVec<T>];
      unpack_words<T>(*reinterpret_cast<const uint4*>(x + b * x_stride + lane_k(lane)), xf);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float sum = wf[r][0] * xf[0];
#pragma unroll
        for (int i = 1; i < kVec<T>; ++i) sum = fmaf(wf[r][i], xf[i], sum);
        acc[b * kRows + r] += sum;
      }
    }
  }

  /// Sums over the lanes and stores to red[kPassRows][ld], at this warp's weight rows. Changes acc.
  template <int kPass>
  __device__ void store(float* red, int ld, int first_row, int lane) {
#pragma unroll
    for (int width = kValues, bit = kWarp / 2; bit > 0; bit >>= 1) {
      if (width > 1) {
        width >>= 1;
        const bool upper = (lane & bit) != 0;
#pragma unroll
        for (int i = 0; i < kValues / 2; ++i) {
          if (i < width) {
            const float keep = upper ? acc[i + width] : acc[i];
            const float give = upper ? acc[i] : acc[i + width];
            acc[i] = keep + __shfl_xor_sync(0xffffffffu, give, bit);
          }
        }
      } else {
        acc[0] += __shfl_xor_sync(0xffffffffu, acc[0], bit);
      }
    }
    if (reduced_writer(lane, kValues)) {
      const int value = reduced_value(lane, kValues);
      red[value / kRows * ld + first_row + value % kRows] = acc[0];
    }
  }
};

/// Tensor cores. A warp owns kRows weight rows, kRows / 8 tiles of the n8 operand; the rows of x are the m16 operand, of
/// which the lower half is zero when kBatch is 8.
template <typename Element, int kRows, int kBatch>
struct MmaCore {
  using Format = PlainFormat<Element>;
  using T = Element;
  using X = Element;
  static_assert(sizeof(T) == 2);
  static constexpr int kLoads = kRows / 8;
  static constexpr int kRowsPerWarp = kRows;
  static constexpr int kPasses = ceil_div(kBatch, kSkinnyPassRows);
  static constexpr int kPassRows = kBatch < kSkinnyPassRows ? kBatch : kSkinnyPassRows;
  static constexpr int kUnit = MmaMap::kUnit;
  static constexpr int kDepth = mma_depth(kRows);
  static constexpr int kMinBlocks = mma_blocks(kRows, kBatch, 1);  // resident on a multiprocessor
  static constexpr bool kOneChunk = false;
  static constexpr int kXLoads = 1;  // x comes by copies

  float acc[kPasses][kLoads][4];

  __device__ static int local_row(int lane, int load) { return 8 * load + MmaMap::group(lane); }
  __device__ static int lane_k(int lane) { return MmaMap::load_k(lane); }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
#pragma unroll
        for (int r = 0; r < 4; ++r) acc[i][j][r] = 0.0f;
      }
    }
  }

  __device__ void consume(const uint4 (&w)[kLoads], const T* x, int x_stride, int lane) {
    const T* mine = x + MmaMap::group(lane) * x_stride + lane_k(lane);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      // Rows at and past m hold whatever shared memory held: rows of the product that nobody reads.
      const uint4 top = *reinterpret_cast<const uint4*>(mine + 16 * i * x_stride);
      const uint4 low = kBatch == 8 ? make_uint4(0, 0, 0, 0)
                                    : *reinterpret_cast<const uint4*>(mine + (16 * i + 8) * x_stride);
      const uint32_t tw[4] = {top.x, top.y, top.z, top.w};
      const uint32_t lw[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        constexpr auto word = MmaMap::word;
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          const uint32_t ww[4] = {w[j].x, w[j].y, w[j].z, w[j].w};
          mma_16816<T>(acc[i][j], tw[word(step, 0)], lw[word(step, 0)], tw[word(step, 1)], lw[word(step, 1)],
                       ww[word(step, 0)], ww[word(step, 1)]);
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
        const int b = MmaMap::acc_row(lane, 2 * half);
        const int row = first_row + 8 * j + MmaMap::acc_column(lane, 0);
        *reinterpret_cast<float2*>(red + b * ld + row) =
            make_float2(acc[kPass][j][2 * half], acc[kPass][j][2 * half + 1]);
      }
    }
  }
};

}  // namespace tandem::kernels
