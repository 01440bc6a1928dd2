#include "kernels/skinny/wide/wide_launch.h"

#include "kernels/common/launch.h"
#include "kernels/common/tensor_map.h"
#include "kernels/skinny/skinny.h"
#include "kernels/skinny/skinny_kernels.h"
#include "kernels/skinny/wide/wide_plan.h"

namespace tandem::kernels {
namespace {

constexpr const char* kUser = "skinny product";

bool quads_aligned(const void* p, int64_t stride, int element_bytes) {
  return stride % 4 == 0 && reinterpret_cast<uintptr_t>(p) % (4 * static_cast<size_t>(element_bytes)) == 0;
}

/// The weights as the copy engine reads them: boxes of a tile's rows and one unit of k, codes as bytes. Gated: [n / 8][gate,
/// up][8][k], so that every 8 gate rows are followed by their up rows.
CUtensorMap weight_map(const WidePlan& p, const SkinnyProblem& problem, const void* w) {
  const DType stored = problem.weights();
  const DType type = stored == problem.dtype ? stored : DType::kU8;
  const bool fours = problem.sparse == SparseWeights::kTwoOfFour;
  const int64_t k = tensor_bytes(stored, fours ? p.k / 2 : p.k) / dtype_bytes(type);
  const int unit = static_cast<int>(kWideRowBytes / dtype_bytes(type));
  if (!p.gated) {
    return tensor_map<2>({.user = kUser,
                          .dtype = type,
                          .data = w,
                          .sizes = {k, p.n},
                          .strides = {k},
                          .box = {unit, p.tile_rows()}});
  }
  return tensor_map<4>({.user = kUser,
                        .dtype = type,
                        .data = w,
                        .sizes = {k, 8, 2, p.n / 8},
                        .strides = {k, p.n * k, 8 * k},
                        .box = {unit, 8, 2, p.tile_rows() / 16}});
}

WideKernel find_kernel(const SkinnyProblem& problem, int batch) {
  if (problem.stats) return find_wide_stats(batch);
  if (problem.sparse == SparseWeights::kTwoOfFour) return find_wide_two_of_four(batch);
  if (problem.sparse == SparseWeights::kBitmap) return find_wide_bitmap(batch);
  switch (problem.weights()) {
    case DType::kI8:
      return (problem.x_codes ? find_wide_int8 : find_wide_w8a16)(batch, problem.head);
    case DType::kI4:
      return find_wide_w4a16(batch, problem.head);
    case DType::kF8:
      return find_wide_fp8(batch, problem.head);
    case DType::kF16:
      return find_wide_f16(batch, problem.head);
    default:
      return find_wide_bf16(batch, problem.head);
  }
}

}  // namespace

void launch_wide(const WideLaunch& what, cudaStream_t stream) {
  const SkinnyArgs& a = what.args;
  const SkinnyCard card = skinny_card();
  const WideArgs args{
      .plan = plan_wide(what.config, what.problem, card),
      .bias = a.bias,
      .residual = a.residual,
      .y = a.y,
      .ldy = a.ldy,
      .ld_residual = a.ld_residual,
      .residual_float = a.residual_float,
      .y_float = a.y_float,
      .vector = quads_aligned(a.y, a.ldy, a.y_float ? 4 : 2) &&
                (a.residual == nullptr || quads_aligned(a.residual, a.ld_residual, a.residual_float ? 4 : 2)),
      .activation = a.activation,
      .head = a.head,
      .scales = a.scales,
      .x_scales = a.x_scales,
      .groups = ceil_div(what.problem.k, kScaleGroup),
      .metadata = a.metadata,
      .w = a.w,
      .bitmap = a.bitmap,
      .row_starts = a.row_starts,
      .stats = what.stats};
  const WidePlan& p = args.plan;
  const WideKernel kernel = find_kernel(what.problem, p.batch);
  prepare_kernel(reinterpret_cast<const void*>(kernel), card);
  const DType x_type = what.problem.x_codes ? DType::kU8 : what.problem.dtype;
  const CUtensorMap x_map =
      tensor_map<2>({.user = kUser,
                     .dtype = x_type,
                     .data = a.x,
                     .sizes = {p.k, p.m},
                     .strides = {a.ldx},
                     .box = {static_cast<int>(kWideRowBytes / dtype_bytes(x_type)), p.batch}});
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(p.grid)),
          .block = dim3(static_cast<unsigned>(p.threads())),
          .shared_bytes = static_cast<size_t>(p.shared_bytes),
          .dependent = what.dependent,
          .cluster = p.cluster()},
         stream, p.weights_staged ? weight_map(p, what.problem, a.w) : x_map, x_map, args);
}

}  // namespace tandem::kernels
