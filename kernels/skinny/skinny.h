// Products of a few rows of activations (1 to 64) with a weight matrix that is streamed once: the decode step.
// Every kernel is a link of a programmatic-dependent-launch chain: the first weights are requested before the previous
// kernel has ended. Same bits in every run: no floating-point atomics, every sum in a fixed order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "harness/base/tensor.h"
#include "harness/model/config.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

/// The current device. With TANDEM_ARCH=sm80 in the environment it has no clusters (and no dependent launch).
SkinnyCard skinny_card();

/// y = epilogue(norm(x) w^T). All pointers are device memory on 16 bytes, marks of sparse weights aside; ldx, ldy,
/// ld_residual count elements, 0 means dense, ldx is a multiple of 8. Weights, bias, gamma and beta must not be written by
/// any kernel that may still run when this one starts (they are read before the wait of the dependent launch).
struct SkinnyParams {
  DType dtype = DType::kBF16;  ///< of every pointer; x, residual and y may be float instead, see below
  /// Of the stored weights, unset: dtype. Quantised weights need dtype kBF16: kI8 with input_dtype unset (8-bit weights
  /// alone) or kI8, kI4 with it unset, kF8 with kF8.
  std::optional<DType> w_dtype = std::nullopt;
  int m = 0;  ///< rows of x, 1..64
  int n = 0;  ///< columns of y
  int k = 0;  ///< a multiple of 8; of 16 for 8-bit, of 32 for 4-bit weights

  const void* x = nullptr;  ///< [m, k], rows ldx apart
  int64_t ldx = 0;
  const void* w =
      nullptr;  ///< [n, k] row-major, dense; gated: [2n, k], the n gate rows first, then the n up rows
  /// Of quantised weights, else null: float [rows of w], one a row; kI4: bf16 [rows of w, ceil(k / 128)], one for 128
  /// neighbours of a row, readable to a multiple of 4 bytes.
  const void* scales = nullptr;
  /// Of bf16 weights of which only some are stored, one of this and the bitmap at most, see skinny_supports(); k is that of x.
  /// 2:4: w is [rows of w, k / 2], the two of every four neighbours that are stored, and this says of each value which of
  /// the four it is: two bits, the first value in the lowest, the indices of a four rising, rows of k / 8 bytes. On 16
  /// bytes, or on 2 where 128 does not divide k.
  const void* metadata = nullptr;
  /// A bit an element, set where it is stored: rows of whole 32-bit words, the first element in the lowest bit, zeros past
  /// k. On 4 bytes.
  const uint32_t* bitmap = nullptr;
  /// With a bitmap, [rows of w + 1]: the stored values of row r, in their columns' order, begin 16 * row_starts[r] bytes
  /// after w. On 4 bytes.
  const uint32_t* row_starts = nullptr;
  /// What the rows of x (with a norm: the normalised ones, rounded to dtype) are quantised to before they are multiplied, as
  /// quantise_row() with kWholeRow does it; unset: they are not. The kernel quantises one row itself; several come as codes.
  std::optional<DType> input_dtype = std::nullopt;
  /// float [m] or null. Set: x holds codes of input_dtype, ldx a multiple of 16, and these are the scales of its rows. Needs
  /// sm_90a and input_dtype, gated n a multiple of 8; excludes a norm.
  const float* x_scales = nullptr;
  const void* bias = nullptr;      ///< [n] or null; gated: [2n]
  const void* residual = nullptr;  ///< [m, n] or null, added last; may be y itself (same layout, same type)
  int64_t ld_residual = 0;
  void* y = nullptr;  ///< [m, n], rows ldy apart
  int64_t ldy = 0;
  /// A residual stream kept in fp32: x (only with a norm), residual, and y as float.
  bool x_float = false;
  bool residual_float = false;
  bool y_float = false;

  /// Normalise the rows of x first (statistics in fp32), if set. Needs skinny_norm_supports(m, k).
  std::optional<Norm> norm = std::nullopt;
  const void* gamma = nullptr;  ///< [k]
  const void* beta = nullptr;   ///< [k] or null
  float eps = 1e-5f;
  /// [m, k] dense or null: the normalised rows, for a later residual of a post-norm model. Must not be x.
  void* norm_out = nullptr;

  // A norm between two products without a kernel of its own: the one that writes its rows s says what their norm needs, the next
  // one finishes it. Its kernel is wide (sm_90a) and takes bf16 weights, all stored: skinny_stats_supports(). No norm beside it.
  //
  // Written besides y, all three or none; not gated:
  void* scaled_out = nullptr;  ///< [m, n] dense, on 16 bytes: s * gamma of the next norm. Must not be x or y.
  const void* scaled_gamma = nullptr;  ///< [n]
  /// float2 [n / 64, m], on 8 bytes: of each kStatsColumns neighbours of a row (mean, sum of squared differences from it), for
  /// an RMS norm (0, sum of squares); of s in fp32. Must be neither x_stats nor residual_stats: other blocks may still read them.
  float* stats_out = nullptr;
  std::optional<Norm> stats_norm = std::nullopt;  ///< of the next norm; set with stats_out
  /// Taken: x is the scaled_out of a product of as many rows, and these are its statistics [k / 64, m], with x_norm its stats_norm:
  /// y = act(rstd * (x w^T - mean * c1) + c2 + bias) and so on, where rstd = 1 / sqrt(variance + eps).
  const float* x_stats = nullptr;
  Norm x_norm = Norm::kLayer;
  /// float [2, rows of w]: c1 = w gamma, then c2 = w beta; on 4 bytes. Null for an RMS norm without beta alone. Read as weights are.
  /// With `norm` set to a layer norm, too, or null: with them a product of bf16 may apply the norm to its sums. What is rounded to
  /// bf16 is then x * gamma, mean and all: the error of a row whose mean is far above its deviation grows as their ratio.
  const float* norm_sums = nullptr;
  /// The residual is the norm of the rows `residual`: (residual - mean) * rstd * gamma + beta, with their statistics [n / 64, m].
  const float* residual_stats = nullptr;
  const void* residual_gamma = nullptr;  ///< [n]; set with residual_stats
  const void* residual_beta = nullptr;   ///< [n] or null
  float residual_eps = 1e-5f;

  /// y = act(x w^T + bias), none if unset; gated: act(gate) * up, each with its bias.
  std::optional<Activation> activation = std::nullopt;
  bool gated = false;

  bool dependent = true;                 ///< programmatic dependent launch after the stream's previous kernel
  const SkinnyConfig* config = nullptr;  ///< null: choose_skinny() (skinny_plan.h)
};

/// Throws UsageError naming the field for sizes, pointers or a config that are not supported, CudaError if the launch fails.
void launch_skinny(const SkinnyParams& params, cudaStream_t stream);

/// Greedy vocabulary head: logits = scale * norm(x) w^T + bias, arg-max of each row (ties: the lowest id; a NaN never
/// wins, a row of nothing but NaN gives the first id), and the bookkeeping of a decode step. Nothing that changes from
/// step to step is a launch argument, so one captured graph serves all steps.
struct HeadParams {
  DType dtype = DType::kBF16;
  std::optional<DType> w_dtype = std::nullopt;  ///< as in SkinnyParams, kI4 excepted
  int m = 0;                                    ///< rows of x, 1..64
  int vocab = 0;                                ///< rows of w
  int k = 0;

  const void* x = nullptr;  ///< [m, k], rows ldx apart; float when x_float (only with a norm)
  int64_t ldx = 0;
  bool x_float = false;
  const void* w = nullptr;       ///< [vocab, k] row-major, dense
  const void* scales = nullptr;  ///< these three as in SkinnyParams
  std::optional<DType> input_dtype = std::nullopt;
  const float* x_scales = nullptr;
  const void* bias = nullptr;  ///< [vocab] or null
  float scale = 1.0f;

  std::optional<Norm> norm = std::nullopt;  ///< as in SkinnyParams
  const void* gamma = nullptr;
  const void* beta = nullptr;
  float eps = 1e-5f;

  int32_t* next_ids = nullptr;    ///< [m] the ids chosen, what the next step embeds
  int32_t* tokens_out = nullptr;  ///< [m, tokens_stride] or null: ids are stored at column *position
  int64_t tokens_stride = 0;
  int32_t* position =
      nullptr;               ///< [1] device counter or null; increased by one after the ids are stored. With
                             ///< tokens_out it must be set; a column at or past tokens_stride is not stored.
  bool stop_at_eos = false;  ///< a row that has given eos_id gives pad_id from then on
  int32_t eos_id = 1;
  int32_t pad_id = 0;
  int32_t* finished = nullptr;  ///< [m] 0 or 1, read and updated when stop_at_eos; the caller clears it
  int32_t* running = nullptr;   ///< [1] or null: rows not finished after this step (m unless stop_at_eos)

  int32_t id_offset = 0;         ///< added to every id: first id of this rank's slice of the vocabulary
  float* best_logits = nullptr;  ///< [m] or null: the winner's logit, for combining ranks
  float* logits = nullptr;       ///< [m, vocab] or null: every logit, for validation

  void* workspace =
      nullptr;  ///< head_workspace_bytes(m), set to zero once by the caller, then reusable for ever by
                ///< launches that do not overlap
  bool dependent = true;
  const SkinnyConfig* config = nullptr;
};

/// Bytes of HeadParams::workspace on any card.
int64_t head_workspace_bytes(int m);

/// Throws UsageError naming the field for sizes or pointers that are not supported, CudaError if the launch fails.
void launch_head_argmax(const HeadParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
