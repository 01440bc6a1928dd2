// What the tiled products accept. No CUDA: the step plan is built without it.
#pragma once

#include <cstdint>
#include <limits>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Can launch_tiled_gemm take these sizes? Rows of all operands must begin on 16 bytes for the copy engine.
constexpr bool tiled_gemm_supports(DType dtype, int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  return (dtype == DType::kBF16 || dtype == DType::kF16) && m >= 1 && n >= 8 && k >= 8 && n % 8 == 0 &&
         k % 8 == 0 && m <= kMost && n <= kMost && k <= kMost;
}

}  // namespace tandem::kernels
