#include "kernels/sparse/unpack.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMaxBlocks = 8192;
constexpr int64_t kRowUnit = 16;  // bytes that row starts count

struct Matrix {
  int64_t rows;
  int64_t cols;
};

/// A byte of metadata a thread: two groups of four, of which the last of a row may be alone.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    unpack_fours_kernel(Matrix m, const Element* __restrict__ values, const uint8_t* __restrict__ metadata,
                        Element* __restrict__ y) {
  pdl_wait();
  const int64_t groups = m.cols / 4;
  const auto bytes = static_cast<uint32_t>((groups + 1) / 2);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < m.rows * bytes; i += step) {
    const int64_t row = i / bytes;
    const int64_t first = 2 * (i - row * bytes);
    const uint32_t marks = metadata[i];
    for (int g = 0; g < 2 && first + g < groups; ++g) {
      const Element* const from = values + row * (m.cols / 2) + 2 * (first + g);
      const uint32_t a = marks >> (4 * g) & 3u;
      const uint32_t b = marks >> (4 * g + 2) & 3u;
      Element four[4] = {};
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        if (j == a) four[j] = from[0];
        if (j == b) four[j] = from[1];
      }
      Element* const to = y + row * m.cols + 4 * (first + g);
#pragma unroll
      for (int j = 0; j < 4; ++j) to[j] = four[j];
    }
  }
}

/// A warp a row, a word of the bitmap a step.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    unpack_bitmap_kernel(Matrix m, const char* __restrict__ values, const uint32_t* __restrict__ bitmap,
                         const uint32_t* __restrict__ starts, Element* __restrict__ y) {
  pdl_wait();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t words = (m.cols + kWarp - 1) / kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; row < m.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const auto* from = reinterpret_cast<const Element*>(values + int64_t{starts[row]} * kRowUnit);
    for (int64_t first = 0; first < words; first += kWarp) {
      // A warp reads its next words at once; each is then unpacked by all lanes.
      const uint32_t mine = first + lane < words ? bitmap[row * words + first + lane] : 0;
      const int here = static_cast<int>(min(int64_t{kWarp}, words - first));
      for (int w = 0; w < here; ++w) {
        const uint32_t kept = __shfl_sync(0xffffffffu, mine, w);
        const int64_t col = (first + w) * kWarp + lane;
        const bool stored = kept >> lane & 1u;
        const Element v = stored ? from[__popc(kept & ((1u << lane) - 1))] : Element{};
        if (col < m.cols) y[row * m.cols + col] = v;
        from += __popc(kept);
      }
    }
  }
}

LaunchShape shape(int64_t blocks, bool dependent) {
  return {.grid = dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kMaxBlocks))),
          .block = dim3(kThreads),
          .dependent = dependent};
}

template <typename Element>
void launch_as(const UnpackParams& p, cudaStream_t stream) {
  const Matrix m{p.rows, p.cols};
  auto* const y = static_cast<Element*>(p.y);
  if (p.metadata != nullptr) {
    const int64_t bytes = p.rows * ((p.cols / 4 + 1) / 2);
    launch(unpack_fours_kernel<Element>, shape(ceil_div(bytes, kThreads), p.dependent), stream, m,
           static_cast<const Element*>(p.values), p.metadata, y);
  } else {
    launch(unpack_bitmap_kernel<Element>, shape(ceil_div(p.rows, kWarps), p.dependent), stream, m,
           static_cast<const char*>(p.values), p.bitmap, p.row_starts, y);
  }
}

}  // namespace

void launch_unpack(const UnpackParams& p, cudaStream_t stream) {
  if ((p.metadata == nullptr) == (p.bitmap == nullptr))
    throw UsageError("unpack: one of metadata and bitmap must be given");
  if (p.bitmap != nullptr && p.row_starts == nullptr)
    throw UsageError("unpack: row_starts must not be null with a bitmap");
  if (p.values == nullptr || p.y == nullptr) throw UsageError("unpack: values and y must not be null");
  if (p.rows < 0 || p.cols < 0) throw UsageError("unpack: rows and cols must be 0 or more");
  if (p.metadata != nullptr && p.cols % 4 != 0)
    throw UsageError("unpack: cols must be a multiple of 4 with metadata, not " + std::to_string(p.cols));
  if (p.rows * p.cols == 0) return;
  switch (p.dtype) {
    case DType::kF32:
      return launch_as<uint32_t>(p, stream);
    case DType::kF16:
    case DType::kBF16:
      return launch_as<uint16_t>(p, stream);
    case DType::kF8:
    case DType::kI8:
      return launch_as<uint8_t>(p, stream);
    default:
      throw UsageError("unpack: dtype must be f32, f16, bf16, f8 or i8");
  }
}

}  // namespace tandem::kernels
