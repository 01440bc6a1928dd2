#include "kernels/activation/activation.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/activation/activate.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/row_access.cuh"

namespace tandem::kernels {
namespace {

constexpr int kMaxBlock = 256;
// Rows that a thread has in flight at once: 16 bytes each, twice that when gated.
constexpr int kManyRows = 4;
constexpr int kManyRowsGated = 2;
constexpr int64_t kMaxGridRows = 65535;

/// Threads along a row, ROWS rows at a time so that enough loads are in flight.
template <typename T, int V, int ROWS, bool GATED>
__global__ void __launch_bounds__(kMaxBlock) activation_kernel(ActivationParams p) {
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  const int64_t row_elements = GATED ? 2 * p.f : p.f;
  const bool inside = col < p.f;
  Piece<T, V, false> bias;
  Piece<T, V, false> up_bias;
  bias.load(p.bias, col, false, inside && p.bias != nullptr);
  if constexpr (GATED) up_bias.load(p.bias, p.f + col, false, inside && p.bias != nullptr);
  pdl_launch_dependents();
  pdl_wait();
  if (!inside) return;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * ROWS; first < p.m;
       first += static_cast<int64_t>(gridDim.y) * ROWS) {
    Piece<T, V, false> x[ROWS];
    Piece<T, V, false> up[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int64_t at = (first + r) * row_elements + col;
      x[r].load(p.x, at, false, first + r < p.m);
      if constexpr (GATED) up[r].load(p.x, at + p.f, false, first + r < p.m);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if (first + r >= p.m) break;
      float v[V];
      x[r].get(false, v);
      bias.add_to(false, v);  // zeros when there is none
      activate<T>(p.activation, v);
      if constexpr (GATED) {
        float u[V];
        up[r].get(false, u);
        up_bias.add_to(false, u);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= u[j];
      }
      store_row<T>(p.y, (first + r) * p.f + col, sizeof(T) == 4, v);
    }
  }
}

template <typename T, int V, int ROWS, bool GATED>
void launch_with(const ActivationParams& p, cudaStream_t stream) {
  const int64_t vectors = ceil_div(p.f, V);
  const int64_t threads = std::min<int64_t>(round_up(vectors, kWarp), kMaxBlock);
  const dim3 grid(static_cast<unsigned>(ceil_div(vectors, threads)),
                  static_cast<unsigned>(std::min(ceil_div(p.m, ROWS), kMaxGridRows)));
  launch(activation_kernel<T, V, ROWS, GATED>,
         {.grid = grid, .block = dim3(static_cast<unsigned>(threads)), .dependent = p.dependent}, stream, p);
}

template <typename T, bool GATED>
void dispatch(const ActivationParams& p, cudaStream_t stream) {
  constexpr int V = kVec<T>;
  constexpr int64_t kSmall = 1 << 20;  // below, one row a thread spreads the work over more blocks
  const auto bits = static_cast<uintptr_t>(tensor_bytes(p.dtype, p.f)) | reinterpret_cast<uintptr_t>(p.x) |
                    reinterpret_cast<uintptr_t>(p.bias) | reinterpret_cast<uintptr_t>(p.y);
  if (bits % 16 != 0) return launch_with<T, 1, 1, GATED>(p, stream);
  if (p.m * p.f < kSmall) return launch_with<T, V, 1, GATED>(p, stream);
  return launch_with < T, V, GATED ? kManyRowsGated : kManyRows, GATED > (p, stream);
}

template <typename T>
void dispatch(const ActivationParams& p, cudaStream_t stream) {
  if (p.gated) return dispatch<T, true>(p, stream);
  return dispatch<T, false>(p, stream);
}

void check(const ActivationParams& p) {
  const auto refuse = [](const std::string& what) { throw UsageError("activation: " + what); };
  if (p.dtype != DType::kF32 && p.dtype != DType::kF16 && p.dtype != DType::kBF16) {
    refuse("dtype must be f32, f16 or bf16");
  }
  if (p.m < 0 || p.f < 1) refuse("m must be at least 0 and f at least 1");
  if (p.x == nullptr || p.y == nullptr) refuse("x and y must not be null");
  if (p.gated && p.x == p.y) refuse("y may be x's buffer only when plain");
}

}  // namespace

void launch_activation(const ActivationParams& params, cudaStream_t stream) {
  check(params);
  if (params.m == 0) return;
  switch (params.dtype) {
    case DType::kF16:
      return dispatch<__half>(params, stream);
    case DType::kBF16:
      return dispatch<__nv_bfloat16>(params, stream);
    default:
      return dispatch<float>(params, stream);
  }
}

}  // namespace tandem::kernels
