#include "kernels/activation/rescale.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/activation/activate.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/row_access.cuh"

namespace tandem::kernels {
namespace {

constexpr int kMaxBlock = 256;
constexpr int64_t kMaxGridRows = 65535;

/// V sums on their way; V is a multiple of 4, or 1.
template <int V>
struct Sums {
  uint4 raw[V == 1 ? 1 : V / 4];

  __device__ void load(const int32_t* x, int64_t i, bool valid) {
    if constexpr (V == 1) {
      raw[0].x = valid ? static_cast<uint32_t>(x[i]) : 0u;
    } else {
#pragma unroll
      for (int j = 0; j < V / 4; ++j) raw[j] = load_16_if(valid, x + i + 4 * j);
    }
  }
  __device__ void get(float (&v)[V]) const {
    const auto number = [](uint32_t bits) { return static_cast<float>(static_cast<int32_t>(bits)); };
    if constexpr (V == 1) {
      v[0] = number(raw[0].x);
    } else {
#pragma unroll
      for (int j = 0; j < V / 4; ++j) {
        v[4 * j] = number(raw[j].x);
        v[4 * j + 1] = number(raw[j].y);
        v[4 * j + 2] = number(raw[j].z);
        v[4 * j + 3] = number(raw[j].w);
      }
    }
  }
};

/// What the columns of a thread have of their own.
template <typename T, int V>
struct Columns {
  float scales[V];
  Piece<T, V, false> bias;

  __device__ void load(const RescaleParams& p, int64_t col, bool valid) {
#pragma unroll
    for (int j = 0; j < V; ++j) scales[j] = valid ? p.w_scales[col + j] : 0.0f;
    bias.load(p.bias, col, false, valid && p.bias != nullptr);
  }
  __device__ void apply(const Sums<V>& x, float scale, float x_scale, float (&v)[V]) const {
    x.get(v);
    float b[V];
    bias.get(false, b);  // zeros when there is none
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = scale * (v[j] * scales[j]) * x_scale + b[j];
  }
};

/// Threads along a row, ROWS rows at a time so that enough loads are in flight.
template <typename T, int V, int ROWS, bool GATED>
__global__ void __launch_bounds__(kMaxBlock) rescale_kernel(RescaleParams p) {
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  const int64_t row_elements = GATED ? 2 * p.f : p.f;
  const bool inside = col < p.f;
  const bool residual_f32 = p.residual_dtype == DType::kF32;
  Columns<T, V> plain;
  Columns<T, V> up;
  plain.load(p, col, inside);
  if constexpr (GATED) up.load(p, p.f + col, inside);
  pdl_launch_dependents();
  pdl_wait();
  if (!inside) return;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * ROWS; first < p.m;
       first += static_cast<int64_t>(gridDim.y) * ROWS) {
    Sums<V> x[ROWS];
    Sums<V> x_up[ROWS];
    Piece<T, V, sizeof(T) != 4> residual[ROWS];
    float x_scale[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int64_t row = first + r;
      const bool valid = row < p.m;
      x[r].load(p.x, row * row_elements + col, valid);
      if constexpr (GATED) x_up[r].load(p.x, row * row_elements + p.f + col, valid);
      residual[r].load(p.residual, row * p.residual_stride + col, residual_f32,
                       valid && p.residual != nullptr);
      x_scale[r] = valid ? p.x_scales[row] : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if (first + r >= p.m) break;
      float v[V];
      plain.apply(x[r], p.scale, x_scale[r], v);
      if (p.activation.has_value()) activate<T>(*p.activation, v);
      if constexpr (GATED) {
        float u[V];
        up.apply(x_up[r], p.scale, x_scale[r], u);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= u[j];
      }
      residual[r].add_to(residual_f32, v);  // zeros when there is none
      store_row<T>(p.y, (first + r) * p.y_stride + col, p.y_dtype == DType::kF32, v);
    }
  }
}

template <typename T, int V, int ROWS, bool GATED>
void launch_with(const RescaleParams& p, cudaStream_t stream) {
  const int64_t vectors = ceil_div(p.f, V);
  const int64_t threads = std::min<int64_t>(round_up(vectors, kWarp), kMaxBlock);
  const dim3 grid(static_cast<unsigned>(ceil_div(vectors, threads)),
                  static_cast<unsigned>(std::min(ceil_div(p.m, ROWS), kMaxGridRows)));
  launch(rescale_kernel<T, V, ROWS, GATED>,
         {.grid = grid, .block = dim3(static_cast<unsigned>(threads)), .dependent = p.dependent}, stream, p);
}

template <typename T, bool GATED>
void dispatch(const RescaleParams& p, cudaStream_t stream) {
  constexpr int V = kVec<T>;
  constexpr int64_t kSmall = 1 << 20;  // below, one row a thread spreads the work over more blocks
  uintptr_t bits = static_cast<uintptr_t>(tensor_bytes(p.dtype, p.f)) |
                   static_cast<uintptr_t>(tensor_bytes(p.y_dtype, p.y_stride)) |
                   static_cast<uintptr_t>(tensor_bytes(p.residual_dtype, p.residual_stride));
  for (const void* q : {static_cast<const void*>(p.x), p.bias, p.residual, static_cast<const void*>(p.y)}) {
    bits |= reinterpret_cast<uintptr_t>(q);
  }
  if (bits % 16 != 0) return launch_with<T, 1, 1, GATED>(p, stream);
  if (p.m * p.f < kSmall) return launch_with<T, V, 1, GATED>(p, stream);
  return launch_with < T, V, GATED ? 1 : 2, GATED > (p, stream);
}

template <typename T>
void dispatch(const RescaleParams& p, cudaStream_t stream) {
  if (p.gated) return dispatch<T, true>(p, stream);
  return dispatch<T, false>(p, stream);
}

void check(const RescaleParams& p) {
  const auto refuse = [](const std::string& what) { throw UsageError("rescale: " + what); };
  if (p.dtype != DType::kF32 && p.dtype != DType::kF16 && p.dtype != DType::kBF16) {
    refuse("dtype must be f32, f16 or bf16");
  }
  if (p.y_dtype != p.dtype && p.y_dtype != DType::kF32) refuse("y_dtype must be dtype or f32");
  if (p.residual != nullptr && p.residual_dtype != p.dtype && p.residual_dtype != DType::kF32) {
    refuse("residual_dtype must be dtype or f32");
  }
  if (p.gated && !p.activation.has_value()) refuse("gated needs an activation");
  if (p.m < 0 || p.f < 1) refuse("m must be at least 0 and f at least 1");
  if (p.x == nullptr || p.x_scales == nullptr || p.w_scales == nullptr || p.y == nullptr) {
    refuse("x, x_scales, w_scales and y must not be null");
  }
  if (p.y_stride != 0 && p.y_stride < p.f) refuse("y_stride must be 0 or at least f");
  if (p.residual_stride != 0 && p.residual_stride < p.f) refuse("residual_stride must be 0 or at least f");
  if (p.y == p.x) refuse("y and x must be two buffers");
}

}  // namespace

void launch_rescale(const RescaleParams& params, cudaStream_t stream) {
  check(params);
  if (params.m == 0) return;
  RescaleParams p = params;
  if (p.y_stride == 0) p.y_stride = p.f;
  if (p.residual_stride == 0) p.residual_stride = p.f;
  if (p.residual == nullptr) p.residual_dtype = p.dtype;
  switch (p.dtype) {
    case DType::kF16:
      return dispatch<__half>(p, stream);
    case DType::kBF16:
      return dispatch<__nv_bfloat16>(p, stream);
    default:
      return dispatch<float>(p, stream);
  }
}

}  // namespace tandem::kernels
