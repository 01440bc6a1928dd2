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

/// The weights as the copy engine reads them: boxes of a tile's rows and one unit of k. Gated: [n / 8][gate, up][8][k], so
/// that every 8 gate rows are followed by their up rows.
CUtensorMap weight_map(const WidePlan& p, DType dtype, const void* w) {
  if (!p.gated) {
    return tensor_map<2>({.user = kUser,
                          .dtype = dtype,
                          .data = w,
                          .sizes = {p.k, p.n},
                          .strides = {p.k},
                          .box = {kWideUnit, p.tile_rows()}});
  }
  const int64_t k = p.k;
  return tensor_map<4>({.user = kUser,
                        .dtype = dtype,
                        .data = w,
                        .sizes = {p.k, 8, 2, p.n / 8},
                        .strides = {k, p.n * k, 8 * k},
                        .box = {kWideUnit, 8, 2, p.tile_rows() / 16}});
}

}  // namespace

void launch_wide(const WideLaunch& what, cudaStream_t stream) {
  const SkinnyArgs& a = what.args;
  const DType dtype = what.problem.dtype;
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
      .head = a.head};
  const WidePlan& p = args.plan;
  const WideKernel kernel = dtype == DType::kF16 ? find_wide_f16(p.batch, what.problem.head)
                                                 : find_wide_bf16(p.batch, what.problem.head);
  prepare_kernel(reinterpret_cast<const void*>(kernel), card);
  const CUtensorMap x_map = tensor_map<2>({.user = kUser,
                                           .dtype = dtype,
                                           .data = a.x,
                                           .sizes = {p.k, p.m},
                                           .strides = {a.ldx},
                                           .box = {kWideUnit, p.batch}});
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(p.grid)),
          .block = dim3(static_cast<unsigned>(p.threads())),
          .shared_bytes = static_cast<size_t>(p.shared_bytes),
          .dependent = what.dependent,
          .cluster = p.cluster()},
         stream, weight_map(p, dtype, a.w), x_map, args);
}

}  // namespace tandem::kernels
