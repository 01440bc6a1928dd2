#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/row_access.cuh"
#include "kernels/norm/norm.h"
#include "kernels/norm/norm_row.cuh"

namespace tandem::kernels {
namespace {

constexpr int kWarpBlock = 128;  // threads of a block whose warps own a row each
constexpr int kAnyBlock = 256;   // threads of the fallback's block, which owns a row
constexpr int kMaxBlock = 1024;
constexpr int kMaxLongBlock = 512;   // of blocks whose threads hold more than one 16-byte piece of a row
constexpr int64_t kManyRows = 2048;  // from here one warp a row fills the card

template <typename T, int FLOATS>
constexpr int block_limit() {
  return FLOATS == kVec<T> ? kMaxBlock : kMaxLongBlock;
}

/// A row in registers: FLOATS of it a thread. WARP: one warp owns it, otherwise the block does. MIXED: x or the residual
/// stream is fp32 while T is not.
template <typename T, int FLOATS, bool WARP, bool MIXED>
__global__ void __launch_bounds__(WARP ? kWarpBlock : block_limit<T, FLOATS>()) norm_kernel(NormParams p) {
  constexpr int V = kVec<T>;
  constexpr int CHUNKS = FLOATS / V;
  constexpr bool kEarlyWeights = CHUNKS == 1;  // few rows: latency counts and registers are free
  constexpr bool kTogether = FLOATS <= 32;     // registers suffice for x and residual in flight at once
  __shared__ float partial[3][kWarp];
  const bool x_f32 = MIXED && p.x_dtype == DType::kF32;
  const bool stream_f32 = sizeof(T) == 4 || (MIXED && p.stream_dtype == DType::kF32);
  const int threads = WARP ? kWarp : static_cast<int>(blockDim.x);
  const int place = WARP ? static_cast<int>(threadIdx.x) % kWarp : static_cast<int>(threadIdx.x);
  const int64_t row =
      WARP ? static_cast<int64_t>(blockIdx.x) * (kWarpBlock / kWarp) + threadIdx.x / kWarp : blockIdx.x;
  const int64_t start = row * p.d;

  Piece<T, V, false> gamma;
  Piece<T, V, false> beta;
  const auto load_weights = [&](int i) {
    gamma.load(p.gamma, i, false, i < p.d);
    beta.load(p.beta, i, false, i < p.d && p.beta != nullptr);
  };
  Piece<T, V, false> bias;
  if (kEarlyWeights) {
    load_weights(place * V);
    bias.load(p.bias, place * V, false, place * V < p.d && p.bias != nullptr);
  }
  const float inverse_d = 1.0f / static_cast<float>(p.d);
  touch_params(p);
  pdl_launch_dependents();
  pdl_wait();
  if (WARP && row >= p.rows) return;

  Piece<T, V, MIXED> x[CHUNKS];
  Piece<T, V, MIXED> residual[CHUNKS];
  const auto load_residual = [&] {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int i = (c * threads + place) * V;
      residual[c].load(p.residual, start + i, stream_f32, i < p.d && p.residual != nullptr);
    }
  };
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int i = (c * threads + place) * V;
    x[c].load(p.x, start + i, x_f32, i < p.d);
  }
  if (kTogether) load_residual();

  float s[CHUNKS][V];
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) x[c].get(x_f32, s[c]);
  if (!kTogether) load_residual();
  if (p.bias != nullptr) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int i = (c * threads + place) * V;
      if (!kEarlyWeights) bias.load(p.bias, i, false, i < p.d);
      bias.add_to(false, s[c]);
    }
  }
  if (p.residual != nullptr) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) residual[c].add_to(stream_f32, s[c]);
  }
  const RowPlace at{.row = row,
                    .start = start,
                    .threads = threads,
                    .place = place,
                    .inverse_d = inverse_d,
                    .stream_f32 = stream_f32};
  finish_row<T, CHUNKS, WARP>(p, at, s, partial, gamma, beta, load_weights);
}

/// Any d and any alignment: one block a row, read three times (once more for codes). `sum` and `y` are written in the last pass
/// only, each element by the thread that read it, because they may be the buffers that are read.
template <typename T, bool CODES>
__global__ void __launch_bounds__(kAnyBlock) norm_any_kernel(NormParams p) {
  __shared__ float partial[3][kWarp];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * p.d;
  pdl_launch_dependents();
  pdl_wait();

  const auto load = [](const void* from, int64_t i, DType type) {
    Piece<T, 1, true> piece;
    float v[1];
    piece.load(from, i, type == DType::kF32, from != nullptr);
    piece.get(false, v);
    return v[0];
  };
  const auto element = [&](int i) {
    return load(p.x, start + i, p.x_dtype) + load(p.bias, i, p.dtype) +
           load(p.residual, start + i, p.stream_dtype);
  };
  float mean = 0;
  if (p.norm == Norm::kLayer) {
    float total = 0;
    for (int i = static_cast<int>(threadIdx.x); i < p.d; i += kAnyBlock) total += element(i);
    mean = row_sum<false>(total, partial[0]) / static_cast<float>(p.d);
  }
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < p.d; i += kAnyBlock) {
    const float v = element(i) - mean;
    squares += v * v;
  }
  const float scale = rsqrtf(row_sum<false>(squares, partial[1]) / static_cast<float>(p.d) + p.eps);
  const auto normalised = [&](float s, int i) {
    return (s - mean) * (scale * load(p.gamma, i, p.dtype)) + load(p.beta, i, p.dtype);
  };
  uint32_t largest = 0;
  if constexpr (CODES) {  // before `sum` may write over what is read
    for (int i = static_cast<int>(threadIdx.x); i < p.d; i += kAnyBlock) {
      largest = max(largest, magnitude_bits(as_stored<T>(normalised(element(i), i))));
    }
    largest = row_max<false>(largest, partial[2]);
  }
  const Divider divide(scale_of(largest, p.code_dtype));
  for (int i = static_cast<int>(threadIdx.x); i < p.d; i += kAnyBlock) {
    const float s[1] = {element(i)};
    const float y[1] = {normalised(s[0], i)};
    if (p.sum != nullptr) store_row<T>(p.sum, start + i, p.stream_dtype == DType::kF32, s);
    if (p.y != nullptr) store_row<T>(p.y, start + i, sizeof(T) == 4, y);
    if constexpr (CODES) store_y_codes<T>(p, start + i, divide, y);
  }
  if (CODES && threadIdx.x == 0) p.scales[blockIdx.x] = divide.scale();
}

template <typename T, int FLOATS, bool MIXED>
void launch_warps(const NormParams& p, cudaStream_t stream) {
  constexpr int kRows = kWarpBlock / kWarp;
  launch(norm_kernel<T, FLOATS, true, MIXED>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(p.rows, kRows))),
          .block = dim3(kWarpBlock),
          .dependent = p.dependent},
         stream, p);
}

template <typename T, int FLOATS, bool MIXED>
void launch_block(const NormParams& p, cudaStream_t stream) {
  const int threads = ceil_div(p.d, FLOATS);
  launch(norm_kernel<T, FLOATS, false, MIXED>,
         {.grid = dim3(static_cast<unsigned>(p.rows)),
          .block = dim3(static_cast<unsigned>(round_up(threads, kWarp))),
          .dependent = p.dependent},
         stream, p);
}

template <typename T, bool CODES>
void launch_any(const NormParams& p, cudaStream_t stream) {
  launch(norm_any_kernel<T, CODES>,
         {.grid = dim3(static_cast<unsigned>(p.rows)), .block = dim3(kAnyBlock), .dependent = p.dependent},
         stream, p);
}

template <typename T, bool MIXED>
void dispatch(const NormParams& p, cudaStream_t stream) {
  constexpr int V = kVec<T>;
  if (!norm_vectors_fit(p) || p.d > 32 * kMaxLongBlock) {
    return p.codes != nullptr ? launch_any<T, true>(p, stream) : launch_any<T, false>(p, stream);
  }
  if (p.rows >= kManyRows) {
    if (p.d <= 16 * kWarp) return launch_warps<T, 16, MIXED>(p, stream);
    if (p.d <= 32 * kWarp) return launch_warps<T, 32, MIXED>(p, stream);
    if constexpr (!MIXED &&
                  V == 8) {  // 64 floats a lane leave room for the rest only when they arrive as 16 bits
      if (p.d <= 64 * kWarp) return launch_warps<T, 64, MIXED>(p, stream);
    }
    if (p.d <= 16 * 256) return launch_block<T, 16, MIXED>(p, stream);
    return launch_block<T, 32, MIXED>(p, stream);
  }
  if (p.d <= V * kMaxBlock) return launch_block<T, V, MIXED>(p, stream);
  return launch_block<T, 32, MIXED>(p, stream);
}

template <typename T>
void dispatch(const NormParams& p, cudaStream_t stream) {
  if constexpr (sizeof(T) != 4) {
    if (p.x_dtype != p.dtype || p.stream_dtype != p.dtype) return dispatch<T, true>(p, stream);
  }
  return dispatch<T, false>(p, stream);
}

}  // namespace

bool norm_vectors_fit(const NormParams& p) {
  const int64_t d_bytes = tensor_bytes(p.dtype, p.d);
  uintptr_t bits = static_cast<uintptr_t>(d_bytes);
  for (const void* q : {p.x, p.bias, p.residual, static_cast<const void*>(p.sum), p.gamma, p.beta,
                        static_cast<const void*>(p.y), static_cast<const void*>(p.codes)}) {
    bits |= reinterpret_cast<uintptr_t>(q);
  }
  return bits % 16 == 0;
}

void check_norm(const NormParams& p) {
  const auto refuse = [](const std::string& what) { throw UsageError("norm: " + what); };
  const auto type_fits = [&](DType t) { return t == p.dtype || t == DType::kF32; };
  if (p.dtype != DType::kF32 && p.dtype != DType::kF16 && p.dtype != DType::kBF16) {
    refuse("dtype must be f32, f16 or bf16");
  }
  if (!type_fits(p.x_dtype)) refuse("x_dtype must be dtype or f32");
  if (!type_fits(p.stream_dtype)) refuse("stream_dtype must be dtype or f32");
  if (p.d < 1) refuse("d must be at least 1");
  if (p.rows < 0 || p.rows > 0x7fffffff) refuse("rows must be in 0 .. 2147483647");
  if (p.x == nullptr || p.gamma == nullptr) refuse("x and gamma must not be null");
  if (p.y == nullptr && p.codes == nullptr) refuse("y must not be null without codes");
  if (p.sum == p.y && p.y != nullptr) refuse("sum and y must be two buffers");
  if (p.code_dtype != DType::kF8 && p.code_dtype != DType::kI8) refuse("code_dtype must be f8 or i8");
  if ((p.codes != nullptr) != (p.scales != nullptr)) refuse("codes and scales belong together");
  if (p.codes != nullptr && (p.codes == p.x || p.codes == p.residual || p.codes == p.sum || p.codes == p.y))
    refuse("codes need a buffer of their own");
  // Elements are read and written by the same thread only while a buffer holds one type.
  if (p.y == p.x && p.x_dtype != p.dtype) refuse("y may be x's buffer only with x_dtype = dtype");
  if (p.y != nullptr && p.y == p.residual && p.stream_dtype != p.dtype)
    refuse("y may be residual's buffer only with stream_dtype = dtype");
  if (p.sum == p.x && p.x_dtype != p.stream_dtype)
    refuse("sum may be x's buffer only with x_dtype = stream_dtype");
}

void launch_norm(const NormParams& params, cudaStream_t stream) {
  check_norm(params);
  if (params.rows == 0) return;
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
