#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/base/precision.h"
#include "kernels/common/codes.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/common/row_access.cuh"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

constexpr int kBlock = 256;
constexpr int kPiece = 16;  // codes of one load
constexpr int kPieces = 4;  // of a thread at once
constexpr int kAnyBlock = 256;

/// Sixteen codes on their way.
template <DType Code>
struct Codes {
  uint32_t words[Code == DType::kI4 ? 2 : 4];

  __device__ void load(const void* codes, int64_t first) {
    if constexpr (Code == DType::kI4) {
      const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const char*>(codes) + first / 2);
      words[0] = v.x;
      words[1] = v.y;
    } else {
      const uint4 v = load_once(static_cast<const char*>(codes) + first);
      words[0] = v.x;
      words[1] = v.y;
      words[2] = v.z;
      words[3] = v.w;
    }
  }
  /// Values 8 * half and on.
  __device__ void get(int half, float (&v)[8]) const {
    if constexpr (Code == DType::kI4) {
      // 2^23 + (code + 8) has the four bits in its low bits.
      const uint32_t shifted = words[half] ^ 0x88888888u;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        v[i] = __uint_as_float((shifted >> (4 * i) & 15u) | 0x4b000000u) - 8388616.0f;
    } else {
      float four[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        decode_4<Code>(words[2 * half + j], four);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[4 * j + i] = four[i];
      }
    }
  }
};

template <DType Code>
__device__ inline float scale_at(const DequantiseParams& p, int64_t row, int64_t col) {
  if constexpr (Code == DType::kI4) {
    const int64_t groups = ceil_div<int64_t, int64_t>(p.cols, kInt4Group);
    return to_float(static_cast<const __nv_bfloat16*>(p.scales)[row * groups + col / kInt4Group]);
  } else {
    return static_cast<const float*>(p.scales)[row];
  }
}

/// Weights and scales do not change: they are read before the wait, y is written after it.
template <DType Code>
__global__ void __launch_bounds__(kBlock) dequantise_kernel(DequantiseParams p, uint32_t pieces) {
  const auto row_pieces = static_cast<uint32_t>(p.cols / kPiece);
  const uint32_t first = blockIdx.x * (kBlock * kPieces) + threadIdx.x;
  Codes<Code> codes[kPieces];
  float scale[kPieces];
#pragma unroll
  for (int u = 0; u < kPieces; ++u) {
    const uint32_t piece = first + u * kBlock;
    if (piece >= pieces) continue;
    codes[u].load(p.codes, int64_t{piece} * kPiece);
    const uint32_t row = piece / row_pieces;
    scale[u] = scale_at<Code>(p, row, int64_t{piece - row * row_pieces} * kPiece);
  }
  pdl_launch_dependents();
  pdl_wait();
#pragma unroll
  for (int u = 0; u < kPieces; ++u) {
    const uint32_t piece = first + u * kBlock;
    if (piece >= pieces) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[8];
      codes[u].get(half, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] *= scale[u];
      store_row<__nv_bfloat16>(p.y, int64_t{piece} * kPiece + 8 * half, false, v);
    }
  }
}

/// Any shape and any alignment: a value a thread.
template <DType Code>
__global__ void __launch_bounds__(kAnyBlock) dequantise_any_kernel(DequantiseParams p) {
  pdl_launch_dependents();
  pdl_wait();
  const int64_t count = p.rows * p.cols;
  for (int64_t i = int64_t{blockIdx.x} * kAnyBlock + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kAnyBlock) {
    const int64_t row = i / p.cols;
    const int64_t col = i - row * p.cols;
    float v = 0;
    if constexpr (Code == DType::kI4) {
      const int byte = static_cast<const uint8_t*>(p.codes)[row * ((p.cols + 1) / 2) + col / 2];
      v = static_cast<float>(((byte >> (col % 2 * 4) & 15) ^ 8) - 8);
    } else {
      float four[4];
      decode_4<Code>(static_cast<const uint8_t*>(p.codes)[i], four);
      v = four[0];
    }
    static_cast<__nv_bfloat16*>(p.y)[i] = from_float<__nv_bfloat16>(v * scale_at<Code>(p, row, col));
  }
}

template <DType Code>
void dispatch(const DequantiseParams& p, cudaStream_t stream) {
  const int64_t pieces = p.rows * (p.cols / kPiece);
  const bool fits = p.cols % kPiece == 0 && pieces < 0xf0000000 &&
                    reinterpret_cast<uintptr_t>(p.y) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(p.codes) % (Code == DType::kI4 ? 8 : 16) == 0;
  if (fits) {
    const int64_t blocks = ceil_div<int64_t, int64_t>(pieces, kBlock * kPieces);
    return launch(
        dequantise_kernel<Code>,
        {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kBlock), .dependent = p.dependent},
        stream, p, static_cast<uint32_t>(pieces));
  }
  const int64_t blocks = std::min<int64_t>(ceil_div<int64_t, int64_t>(p.rows * p.cols, kAnyBlock), 1 << 16);
  launch(dequantise_any_kernel<Code>,
         {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kAnyBlock), .dependent = p.dependent},
         stream, p);
}

}  // namespace

void launch_dequantise(const DequantiseParams& p, cudaStream_t stream) {
  const auto refuse = [](const std::string& what) { throw UsageError("dequantise: " + what); };
  if (p.code_dtype != DType::kF8 && p.code_dtype != DType::kI8 && p.code_dtype != DType::kI4) {
    refuse("code_dtype must be f8, i8 or i4");
  }
  if (p.rows < 0 || p.cols < 1) refuse("rows must be at least 0 and cols at least 1");
  if (p.codes == nullptr || p.scales == nullptr || p.y == nullptr) {
    refuse("codes, scales and y must not be null");
  }
  if (p.rows == 0) return;
  switch (p.code_dtype) {
    case DType::kF8:
      return dispatch<DType::kF8>(p, stream);
    case DType::kI8:
      return dispatch<DType::kI8>(p, stream);
    default:
      return dispatch<DType::kI4>(p, stream);
  }
}

}  // namespace tandem::kernels
