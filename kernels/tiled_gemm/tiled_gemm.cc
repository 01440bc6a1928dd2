#include "kernels/tiled_gemm/tiled_gemm.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>

#include "harness/base/error.h"
#include "kernels/common/arch.h"
#include "kernels/common/launch.h"
#include "kernels/common/tensor_map.h"
#include "kernels/tiled_gemm/tiled_args.h"
#include "kernels/tiled_gemm/tiled_shape.h"

namespace tandem::kernels {
namespace {

using namespace tiled_gemm;

constexpr const char* kUser = "tiled product";

void require(bool ok, std::string_view field, int64_t value, std::string_view allowed) {
  if (!ok) throw UsageError(fmt::format("{}: {} is {}, allowed: {}", kUser, field, value, allowed));
}

void check(const TiledGemmParams& p) {
  if (p.dtype != DType::kBF16 && p.dtype != DType::kF16)
    throw UsageError(fmt::format("{}: dtype is {}, allowed: bf16, f16", kUser, dtype_name(p.dtype)));
  constexpr std::string_view kEights = "a multiple of 8 from 8 to 2^30";
  require(tiled_gemm_supports(p.dtype, p.m, 8, 8), "m", p.m, "1 to 2^30");
  require(tiled_gemm_supports(p.dtype, 1, p.n, 8), "n", p.n, kEights);
  require(tiled_gemm_supports(p.dtype, 1, 8, p.k), "k", p.k, kEights);
  require(p.ldx == 0 || (p.ldx >= p.k && p.ldx % 8 == 0), "ldx", p.ldx, "a multiple of 8, at least k");
  require(p.ldy == 0 || (p.ldy >= p.n && p.ldy % 8 == 0), "ldy", p.ldy, "a multiple of 8, at least n");
  require(p.ld_residual == 0 || (p.ld_residual >= p.n && p.ld_residual % 8 == 0), "ld_residual",
          p.ld_residual, "a multiple of 8, at least n");
  if (p.gated && (!p.activation || p.residual != nullptr))
    throw UsageError(fmt::format("{}: gated goes with an activation and no residual", kUser));
  const auto pointer = [](const void* at, std::string_view field) {
    if (at == nullptr) throw UsageError(fmt::format("{}: {} is null", kUser, field));
    if (reinterpret_cast<uintptr_t>(at) % 16 != 0)
      throw UsageError(fmt::format("{}: {} must be 16-byte aligned", kUser, field));
  };
  pointer(p.x, "x");
  pointer(p.w, "w");
  pointer(p.y, "y");
  if (p.bias != nullptr) pointer(p.bias, "bias");
  if (p.residual != nullptr) pointer(p.residual, "residual");
  require(p.band >= 1 && p.band <= 1024, "band", p.band, "1 to 1024");
  const int64_t tiles = ceil_div(p.m, int64_t{kTileRows}) * ceil_div(p.n, int64_t{64});
  require(tiles <= std::numeric_limits<int32_t>::max() / 2, "m n", tiles, "at most 2^30 tiles of 128 x 64");
}

CUtensorMap map_of(DType dtype, const void* data, int64_t rows, int64_t columns, int64_t stride) {
  return tensor_map<2>({.user = kUser,
                        .dtype = dtype,
                        .data = data,
                        .sizes = {columns, rows},
                        .strides = {stride == 0 ? columns : stride},
                        .box = {kTileDepth, kBoxRows}});
}

}  // namespace

void launch_tiled_gemm(const TiledGemmParams& params, cudaStream_t stream) {
  const TiledGemmParams& p = params;
  check(p);
  if (!current_arch().sm90a) throw UsageError(fmt::format("{}: needs sm_90a", kUser));
  const Args args{.plan = make_plan({.m = static_cast<int>(p.m),
                                     .n = static_cast<int>(p.n),
                                     .k = static_cast<int>(p.k),
                                     .gated = p.gated},
                                    p.band),
                  .activation = p.activation ? static_cast<int>(*p.activation) : -1,
                  .bias = p.bias,
                  .residual = p.residual,
                  .ld_residual = p.ld_residual == 0 ? p.n : p.ld_residual,
                  .y = p.y,
                  .ldy = p.ldy == 0 ? p.n : p.ldy};
  const Kernel kernel = (p.dtype == DType::kF16 ? f16_kernel : bf16_kernel)(p.gated);
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const int clusters = std::min(args.plan.tiles(), multiprocessors() / kCluster);
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(clusters * kCluster)),
          .block = dim3(kThreads),
          .shared_bytes = kSharedBytes,
          .dependent = p.dependent,
          .cluster = kCluster},
         stream, map_of(p.dtype, p.x, p.m, p.k, p.ldx), map_of(p.dtype, p.w, p.gated ? 2 * p.n : p.n, p.k, 0),
         args);
}

}  // namespace tandem::kernels
