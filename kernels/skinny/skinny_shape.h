// What the skinny products accept and when their fused norm pays. No CUDA: the step plan is built without it.
#pragma once

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Rows of activations a skinny product takes; above that a tiled GEMM is the right kernel.
inline constexpr int kSkinnyMaxRows = 64;
/// Longest inner dimension: one row of x must fit in a block's shared memory in fp32.
inline constexpr int kSkinnyMaxK = 32768;
/// Elements of x that a fused norm may cover: every block keeps all normalised rows in shared memory.
inline constexpr int kSkinnyMaxNormElements = 16384;
inline constexpr int kSkinnyMaxNormK = 8192;

/// Can launch_skinny and launch_head_argmax take these sizes? n is the number of outputs (gated: half the rows of w).
/// k must be a multiple of 8 so that every row of the weights starts on 16 bytes.
constexpr bool skinny_supports(DType dtype, int m, int n, int k) {
  const bool type_ok = dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
  return type_ok && m >= 1 && m <= kSkinnyMaxRows && n >= 1 && k >= 8 && k <= kSkinnyMaxK && k % 8 == 0;
}

/// The same for weights stored as w_dtype: quantised ones are multiplied with bf16 rows or, kF8 and kI8, with rows that are
/// quantised first. Every row must be whole 16-byte pieces.
constexpr bool skinny_supports(DType dtype, int m, int n, int k, DType w_dtype) {
  if (w_dtype == dtype) return skinny_supports(dtype, m, n, k);
  const bool quantised = w_dtype == DType::kI8 || w_dtype == DType::kF8 || w_dtype == DType::kI4;
  return quantised && dtype == DType::kBF16 && skinny_supports(dtype, m, n, k) &&
         k % (128 / dtype_bits(w_dtype)) == 0;
}

/// Which weights are stored: all, two of every four neighbours of a row, or those of a bitmap's set bits.
enum class SparseWeights : uint8_t { kNone, kTwoOfFour, kBitmap };

/// Rows of activations that a product with a bitmap takes.
inline constexpr int kBitmapMaxRows = 16;

/// The same for weights of which only some are stored, values and activations of bf16. 2:4 needs k a multiple of 16, so
/// that the rows of stored values start on 16 bytes.
constexpr bool skinny_supports(DType dtype, int m, int n, int k, SparseWeights sparse) {
  if (!skinny_supports(dtype, m, n, k)) return false;
  if (sparse == SparseWeights::kNone) return true;
  if (dtype != DType::kBF16) return false;
  return sparse == SparseWeights::kTwoOfFour ? k % 16 == 0 : m <= kBitmapMaxRows;
}

/// Neighbouring columns of a row that share one pair of statistics.
inline constexpr int kStatsColumns = 64;
inline constexpr int kStatsMinRows = 5;

/// Can a product of these sizes write or take a norm's statistics (SkinnyParams::stats_out, x_stats, residual_stats)? Besides,
/// n of the one that writes them or has a residual by them, and k of the one that takes them, must be a multiple of
/// kStatsColumns. For a card of sm_90a alone.
constexpr bool skinny_stats_supports(DType dtype, int m, int n, int k, DType w_dtype = DType::kBF16) {
  return dtype == DType::kBF16 && w_dtype == DType::kBF16 && m >= kStatsMinRows &&
         skinny_supports(dtype, m, n, k);
}

/// Can the norm be fused at all?
constexpr bool skinny_norm_supports(int m, int k) {
  return k <= kSkinnyMaxNormK && static_cast<int64_t>(m) * k <= kSkinnyMaxNormElements;
}

/// Rows of x up to which the fused norm beats a norm kernel of its own. Every block repeats the norm of all m rows from L2: a
/// product of 8 rows of 1024 took 4.5 us longer with it on an H200, a norm kernel in the chain takes 1.5 to 2 us.
inline constexpr int kNormPrologueRows = 4;

/// Is the fused norm faster than a norm kernel of its own followed by a product on its output?
constexpr bool norm_prologue_pays(int m, int k) {
  return m <= kNormPrologueRows && skinny_norm_supports(m, k);
}

}  // namespace tandem::kernels
