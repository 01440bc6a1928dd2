#include "kernels/skinny/skinny.h"

#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/common/arch.h"
#include "kernels/common/launch.h"
#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/skinny_kernels.h"
#include "kernels/skinny/wide/wide_launch.h"

namespace tandem::kernels {
namespace {

constexpr int kWarpThreads = 32;

int current_device() {
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

SkinnyKernel find_kernel(const SkinnyConfig& config, const SkinnyProblem& problem) {
  if (problem.sparse == SparseWeights::kTwoOfFour) return find_kernel_two_of_four(config, problem.norm);
  if (problem.sparse == SparseWeights::kBitmap) return find_kernel_bitmap(config, problem.norm);
  switch (problem.weights()) {
    case DType::kI8:
      return (problem.input_dtype ? find_kernel_int8 : find_kernel_w8a16)(config, problem.head, problem.norm);
    case DType::kI4:
      return find_kernel_w4a16(config, problem.head, problem.norm);
    case DType::kF8:
      return find_kernel_fp8(config, problem.head, problem.norm);
    case DType::kF32:
      return find_kernel_f32(config, problem.head, problem.norm);
    case DType::kF16:
      return find_kernel_f16(config, problem.head, problem.norm);
    default:
      return find_kernel_bf16(config, problem.head, problem.norm);
  }
}

void require(bool good, const char* field, std::string_view rule) {
  if (!good) throw UsageError(fmt::format("skinny product: {} {}", field, rule));
}
bool aligned(const void* p, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

/// How the weights are stored and what they are multiplied with.
template <class Params>
void check_format(const Params& p, int n) {
  const DType stored = p.w_dtype.value_or(p.dtype);
  if (stored == p.dtype) {
    require(p.scales == nullptr, "scales", "must be null without quantised weights");
    require(!p.input_dtype.has_value(), "input_dtype", "must be unset without quantised weights");
    require(p.x_scales == nullptr, "x_scales", "must be null without quantised weights");
    return;
  }
  require(stored == DType::kI8 || stored == DType::kI4 || stored == DType::kF8, "w_dtype",
          "must be dtype, i8, i4 or f8");
  require(p.dtype == DType::kBF16, "dtype", "must be bf16 with quantised weights");
  require(skinny_supports(p.dtype, p.m, n, p.k, stored), "k",
          fmt::format("must be a multiple of {} with weights of {}", 128 / dtype_bits(stored),
                      dtype_name(stored)));
  if (stored == DType::kF8) {
    require(p.input_dtype == DType::kF8, "input_dtype", "must be f8 with weights of f8");
  } else {
    require(!p.input_dtype.has_value() || (stored == DType::kI8 && p.input_dtype == DType::kI8),
            "input_dtype", "must be unset, or i8 with weights of i8");
  }
  require(p.scales != nullptr && aligned(p.scales), "scales",
          "must be there with quantised weights, on 16 bytes");
  if (p.x_scales != nullptr) {
    require(p.input_dtype.has_value() && !p.norm.has_value(), "x_scales", "needs input_dtype, and no norm");
    require(p.ldx % 16 == 0, "ldx", "must be 0 or a multiple of 16 with x of codes");
    return;
  }
  require(!p.input_dtype.has_value() || p.m == 1, "x_scales",
          "must be there when several rows are quantised");
}

/// Which weights are stored.
SparseWeights check_sparse(const SkinnyParams& p) {
  require(p.bitmap == nullptr || p.metadata == nullptr, "bitmap", "and metadata exclude each other");
  require((p.bitmap != nullptr) == (p.row_starts != nullptr), "row_starts",
          "must be there with a bitmap alone");
  const SparseWeights sparse = p.metadata != nullptr ? SparseWeights::kTwoOfFour
                               : p.bitmap != nullptr ? SparseWeights::kBitmap
                                                     : SparseWeights::kNone;
  if (sparse == SparseWeights::kNone) return sparse;
  const char* field = p.metadata != nullptr ? "metadata" : "bitmap";
  // Matrices of a group lie back to back, so that a later one's marks begin where a row may.
  require(aligned(p.metadata, p.k % 128 == 0 ? 16 : 2), field,
          "must be on 16 bytes, on 2 where 128 does not divide k");
  require(aligned(p.bitmap, 4) && aligned(p.row_starts, 4), field, "and row_starts must be on 4 bytes");
  require(p.dtype == DType::kBF16 && p.w_dtype.value_or(p.dtype) == DType::kBF16, field,
          "needs weights of bf16");
  require(p.metadata == nullptr || skinny_supports(p.dtype, p.m, p.n, p.k, sparse), "k",
          "must be a multiple of 16 with metadata");
  require(p.bitmap == nullptr || p.m <= kBitmapMaxRows, "m", "must be at most 16 with a bitmap");
  return sparse;
}

/// A norm by statistics, written or taken. Says whether there is any.
bool check_stats(const SkinnyParams& p, SparseWeights sparse) {
  const bool writes = p.stats_out != nullptr;
  const bool takes = p.x_stats != nullptr;
  const bool by_stats = p.residual_stats != nullptr;
  require((p.scaled_out != nullptr) == writes, "scaled_out", "must be there with stats_out alone");
  require((p.scaled_gamma != nullptr) == writes, "scaled_gamma", "must be there with stats_out alone");
  require(p.stats_norm.has_value() == writes, "stats_norm", "must be set with stats_out alone");
  require(p.norm_sums == nullptr || takes || p.norm == Norm::kLayer, "norm_sums",
          "needs x_stats, or norm: a layer norm");
  require(aligned(p.norm_sums, 4), "norm_sums", "must be on 4 bytes");
  require((p.residual_gamma != nullptr) == by_stats, "residual_gamma",
          "must be there with residual_stats alone");
  require(p.residual_beta == nullptr || by_stats, "residual_beta", "needs residual_stats");
  if (!writes && !takes && !by_stats) return false;
  const char* field = writes ? "stats_out" : takes ? "x_stats" : "residual_stats";
  require(sparse == SparseWeights::kNone &&
              skinny_stats_supports(p.dtype, p.m, p.n, p.k, p.w_dtype.value_or(p.dtype)),
          field, "needs dtype bf16, bf16 weights that are all stored, and m of 5 to 64");
  require(!p.norm.has_value(), field, "and norm exclude each other");
  require(aligned(p.stats_out, 8), "stats_out", "must be on 8 bytes");
  require(aligned(p.x_stats, 8), "x_stats", "must be on 8 bytes");
  require(aligned(p.residual_stats, 8), "residual_stats", "must be on 8 bytes");
  require(!(writes || by_stats) || p.n % kStatsColumns == 0, "n",
          fmt::format("must be a multiple of {} with {}", kStatsColumns, field));
  require(!takes || p.k % kStatsColumns == 0, "k",
          fmt::format("must be a multiple of {} with x_stats", kStatsColumns));
  require(!(writes || by_stats) || !p.gated, "gated", "excludes stats_out and residual_stats");
  require(aligned(p.scaled_out) && (!writes || (p.scaled_out != p.x && p.scaled_out != p.y)), "scaled_out",
          "must be on 16 bytes, and neither x nor y");
  require(aligned(p.scaled_gamma), "scaled_gamma", "must be on 16 bytes");
  require(!writes || (p.stats_out != p.x_stats && p.stats_out != p.residual_stats), "stats_out",
          "must be neither x_stats nor residual_stats");
  require(!takes || p.x_norm == Norm::kRms || p.norm_sums != nullptr, "norm_sums",
          "must be there for a layer norm");
  require(!by_stats || p.residual != nullptr, "residual", "must be there with residual_stats");
  require(aligned(p.residual_gamma) && aligned(p.residual_beta), "residual_gamma",
          "and residual_beta must be on 16 bytes");
  return true;
}

/// What SkinnyParams and HeadParams share.
template <class Params>
void check_common(const Params& p, int n) {
  require(p.dtype == DType::kF32 || p.dtype == DType::kF16 || p.dtype == DType::kBF16, "dtype",
          "must be f32, f16 or bf16");
  require(p.m >= 1 && p.m <= kSkinnyMaxRows, "m", "must be 1 to 64");
  require(n >= 1, "n", "must be at least 1");
  require(skinny_supports(p.dtype, p.m, n, p.k), "k", "must be a multiple of 8 from 8 to 32768");
  check_format(p, n);
  require(p.x != nullptr && aligned(p.x), "x", "must be there, on 16 bytes");
  require(p.ldx == 0 || (p.ldx >= p.k && p.ldx % 8 == 0), "ldx", "must be 0 or a multiple of 8, at least k");
  require(p.w != nullptr && aligned(p.w), "w", "must be there, on 16 bytes");
  require(!p.x_float || p.norm.has_value(), "x_float", "needs a norm");
  if (p.norm.has_value()) {
    require(skinny_norm_supports(p.m, p.k), "norm",
            "needs k of at most 8192 and m * k of at most 16384; use a norm kernel of its own");
    require(p.gamma != nullptr && aligned(p.gamma), "gamma", "must be there, on 16 bytes");
    require(aligned(p.beta), "beta", "must be on 16 bytes");
  }
}

template <class Params>
SkinnyArgs common_args(const Params& p) {
  SkinnyArgs a{};
  a.x = p.x;
  a.ldx = p.ldx == 0 ? p.k : p.ldx;
  a.x_float = p.x_float;
  a.w = p.w;
  a.bias = p.bias;
  a.gamma = p.gamma;
  a.beta = p.beta;
  a.eps = p.eps;
  a.scales = p.scales;
  a.x_scales = p.x_scales;
  a.activation = -1;
  if (p.norm.has_value()) {
    a.prologue = *p.norm == Norm::kLayer ? SkinnyPrologue::kLayerNorm : SkinnyPrologue::kRmsNorm;
  }
  return a;
}

StatsArgs stats_args(const SkinnyParams& p) {
  const auto taken = [](const float* pairs, int columns, float eps) {
    const int blocks = columns / kStatsColumns;
    return TakenStats{.pairs = pairs,
                      .blocks = blocks,
                      .inverse = blocks > 0 ? 1.0f / static_cast<float>(blocks) : 0.0f,
                      .eps = eps};
  };
  return {.scaled_out = p.scaled_out,
          .scaled_gamma = p.scaled_gamma,
          .stats_out = p.stats_out,
          .centred = p.stats_norm == Norm::kLayer,
          .x = taken(p.x_stats, p.k, p.eps),
          .norm_sums = p.norm_sums,
          .residual = taken(p.residual_stats, p.n, p.residual_eps),
          .residual_gamma = p.residual_gamma,
          .residual_beta = p.residual_beta};
}

void launch_planned(SkinnyArgs& args, const SkinnyProblem& problem, const SkinnyConfig* asked, bool dependent,
                    cudaStream_t stream, const StatsArgs& stats = {}) {
  const SkinnyCard card = skinny_card();
  const SkinnyConfig config = asked != nullptr ? *asked : choose_skinny(problem, card);
  const std::string why_not = config_problem(config, problem, card);
  require(why_not.empty(), "config", why_not);
  if (config.kind == SkinnyConfig::Kind::kWide) {
    launch_wide({.args = args, .problem = problem, .config = config, .stats = stats, .dependent = dependent},
                stream);
    return;
  }
  args.plan = plan_skinny(config, problem, card);
  const SkinnyKernel kernel = find_kernel(config, problem);
  prepare_kernel(reinterpret_cast<const void*>(kernel), card);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(args.plan.grid_x), static_cast<unsigned>(args.plan.grid_y)),
      .block = dim3(static_cast<unsigned>(kWarpThreads * config.warps)),
      .shared_bytes = static_cast<size_t>(args.plan.shared_bytes),
      .dependent = dependent && current_arch().dependent_launch,
      .cluster = config.cluster};
  launch(kernel, shape, stream, args);
}

}  // namespace

void prepare_kernel(const void* function, const SkinnyCard& card) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> prepared;
  const std::lock_guard lock(mutex);
  if (!prepared.insert({function, current_device()}).second) return;
  TANDEM_CUDA_CHECK(
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, card.shared_bytes));
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  if (!card.sm90a) return;
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
}

SkinnyCard skinny_card() {
  static std::mutex mutex;
  static std::map<int, SkinnyCard> cards;
  const int device = current_device();
  const std::lock_guard lock(mutex);
  const auto found = cards.find(device);
  if (found != cards.end()) return found->second;
  SkinnyCard card{.sm90a = current_arch().sm90a};
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&card.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  TANDEM_CUDA_CHECK(
      cudaDeviceGetAttribute(&card.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return cards.emplace(device, card).first->second;
}

void launch_skinny(const SkinnyParams& p, cudaStream_t stream) {
  check_common(p, p.n);
  const SparseWeights sparse = check_sparse(p);
  require(p.y != nullptr, "y", "must be there");
  require(p.ldy == 0 || p.ldy >= p.n, "ldy", "must be 0 or at least n");
  require(p.ld_residual == 0 || p.ld_residual >= p.n, "ld_residual", "must be 0 or at least n");
  require(p.residual != p.y || (p.residual_float == p.y_float &&
                                (p.ldy == 0 ? p.n : p.ldy) == (p.ld_residual == 0 ? p.n : p.ld_residual)),
          "residual", "must have the type and row stride of y when it is y");
  require(!p.gated || p.activation.has_value(), "activation", "must be set for a gated product");
  require(p.norm_out == nullptr || (p.norm.has_value() && p.norm_out != p.x && aligned(p.norm_out)),
          "norm_out", "needs a norm, must not be x, and must be on 16 bytes");
  require(p.y != p.x, "y", "must not be x");
  const bool stats = check_stats(p, sparse);
  SkinnyArgs args = common_args(p);
  args.residual = p.residual;
  args.ld_residual = p.ld_residual == 0 ? p.n : p.ld_residual;
  args.residual_float = p.residual_float;
  args.y = p.y;
  args.ldy = p.ldy == 0 ? p.n : p.ldy;
  args.y_float = p.y_float;
  args.norm_out = p.norm_out;
  if (p.norm.has_value()) args.norm_sums = p.norm_sums;
  args.metadata = p.metadata;
  args.bitmap = p.bitmap;
  args.row_starts = p.row_starts;
  if (p.activation.has_value()) args.activation = static_cast<int>(*p.activation);
  const SkinnyProblem problem{.dtype = p.dtype,
                              .w_dtype = p.w_dtype,
                              .input_dtype = p.input_dtype,
                              .m = p.m,
                              .n = p.n,
                              .k = p.k,
                              .gated = p.gated,
                              .norm = p.norm.has_value(),
                              .x_codes = p.x_scales != nullptr,
                              .stats = stats,
                              .sparse = sparse};
  launch_planned(args, problem, p.config, p.dependent, stream, stats_args(p));
}

int64_t head_workspace_bytes(int m) {
  return kHeadHeaderBytes +
         static_cast<int64_t>(kHeadMaxBlocks) * m * static_cast<int64_t>(sizeof(float) + sizeof(int32_t));
}

void launch_head_argmax(const HeadParams& p, cudaStream_t stream) {
  check_common(p, p.vocab);
  require(p.w_dtype != DType::kI4, "w_dtype", "must not be i4 for the head");
  require(p.next_ids != nullptr, "next_ids", "must be there");
  require(p.tokens_out == nullptr || p.position != nullptr, "position", "must be there with tokens_out");
  require(!p.stop_at_eos || p.finished != nullptr, "finished", "must be there with stop_at_eos");
  require(p.workspace != nullptr && aligned(p.workspace), "workspace", "must be there, on 16 bytes");
  SkinnyArgs args = common_args(p);
  auto* workspace = static_cast<unsigned char*>(p.workspace);
  auto* values = reinterpret_cast<float*>(workspace + kHeadHeaderBytes);
  args.head = {.next_ids = p.next_ids,
               .tokens_out = p.tokens_out,
               .tokens_stride = p.tokens_stride,
               .position = p.position,
               .finished = p.finished,
               .running = p.running,
               .best_logits = p.best_logits,
               .logits = p.logits,
               .arrivals = reinterpret_cast<uint32_t*>(workspace),
               .keys = reinterpret_cast<unsigned long long*>(workspace + kHeadKeysAt),
               .part_values = values,
               .part_ids = reinterpret_cast<int32_t*>(values + static_cast<int64_t>(kHeadMaxBlocks) * p.m),
               .scale = p.scale,
               .eos_id = p.eos_id,
               .pad_id = p.pad_id,
               .id_offset = p.id_offset,
               .stop_at_eos = p.stop_at_eos};
  const SkinnyProblem problem{.dtype = p.dtype,
                              .w_dtype = p.w_dtype,
                              .input_dtype = p.input_dtype,
                              .m = p.m,
                              .n = p.vocab,
                              .k = p.k,
                              .norm = p.norm.has_value(),
                              .head = true,
                              .x_codes = p.x_scales != nullptr};
  launch_planned(args, problem, p.config, p.dependent, stream);
}

}  // namespace tandem::kernels
