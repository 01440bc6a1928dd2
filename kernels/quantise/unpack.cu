#include <cuda_bf16.h>

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/weights/storage.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

constexpr int kBlock = 256;

/// A group of four a thread: the weights do not change and are read before the wait, y is written after it.
__global__ void __launch_bounds__(kBlock) unpack_fours_kernel(UnpackParams p) {
  const int64_t groups = p.cols / 4;
  const int64_t row_bytes = ceil_div<int64_t, int64_t>(p.cols / 2, 4);  // of metadata
  pdl_launch_dependents();
  pdl_wait();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlock;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; i < p.rows * groups; i += step) {
    const int64_t r = i / groups, g = i - r * groups;
    const auto* values = static_cast<const uint16_t*>(p.values) + r * (p.cols / 2) + 2 * g;
    const unsigned marks =
        static_cast<const uint8_t*>(p.metadata)[r * row_bytes + g / 2] >> (4 * (g % 2)) & 15u;
    const unsigned first = marks & 3u, second = marks >> 2;
    const uint16_t a = values[0], b = values[1];
    uint16_t* y = static_cast<uint16_t*>(p.y) + r * p.cols + 4 * g;
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) y[j] = j == first ? a : j == second ? b : uint16_t{0};
  }
}

/// A row a warp, 32 words of its bitmap at a time.
__global__ void __launch_bounds__(kBlock) unpack_bitmap_kernel(UnpackParams p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t words = ceil_div<int64_t, int64_t>(p.cols, 32);
  pdl_launch_dependents();
  pdl_wait();
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kBlock / kWarp);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * (kBlock / kWarp) + threadIdx.x / kWarp; r < p.rows;
       r += warps) {
    const uint32_t* bits = static_cast<const uint32_t*>(p.bitmap) + r * words;
    const auto* values = reinterpret_cast<const uint16_t*>(
        static_cast<const char*>(p.values) + int64_t{p.row_starts[r]} * Storage::kRowStartBytes);
    uint16_t* y = static_cast<uint16_t*>(p.y) + r * p.cols;
    for (int64_t first = 0; first < words; first += kWarp) {
      const uint32_t word = first + lane < words ? bits[first + lane] : 0u;
      const int count = __popc(word);
      int before = count;  // of this word's and the earlier lanes' values
#pragma unroll
      for (int d = 1; d < kWarp; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, before, d);
        if (lane >= d) before += other;
      }
      const int total = __shfl_sync(0xffffffffu, before, kWarp - 1);
      const uint16_t* next = values + before - count;
      const int64_t col = (first + lane) * 32;
      for (int j = 0; j < 32 && col + j < p.cols; ++j) y[col + j] = word >> j & 1u ? *next++ : uint16_t{0};
      values += total;
    }
  }
}

}  // namespace

void launch_unpack(const UnpackParams& p, cudaStream_t stream) {
  const auto refuse = [](const std::string& what) { throw UsageError("unpack: " + what); };
  if (p.rows < 0 || p.cols < 1) refuse("rows must be at least 0 and cols at least 1");
  if (p.values == nullptr || p.y == nullptr) refuse("values and y must not be null");
  if ((p.metadata == nullptr) == (p.bitmap == nullptr)) refuse("one of metadata and bitmap must be set");
  if ((p.bitmap == nullptr) != (p.row_starts == nullptr)) refuse("row_starts goes with bitmap");
  if (p.metadata != nullptr && p.cols % 4 != 0) refuse("cols must be a multiple of 4 with metadata");
  if (p.rows == 0) return;
  const int64_t threads = p.metadata != nullptr ? p.rows * (p.cols / 4) : p.rows * kWarp;
  const int64_t blocks = std::min<int64_t>(ceil_div<int64_t, int64_t>(threads, kBlock), 1 << 16);
  launch(p.metadata != nullptr ? unpack_fours_kernel : unpack_bitmap_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kBlock), .dependent = p.dependent},
         stream, p);
}

}  // namespace tandem::kernels
