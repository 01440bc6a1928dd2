// What the launchers of this folder ask of their fields, and the size of the card.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Throws UsageError "<kernel>: <field> is <value>, allowed: <allowed>" unless `ok`.
void require_field(bool ok, std::string_view kernel, std::string_view field, int64_t value,
                   const std::string& allowed);
/// A pointer that must be there and 16-byte aligned.
void require_pointer(const void* pointer, std::string_view kernel, std::string_view field);
/// A stride in elements of `dtype`: at least `least`, and a whole number of 16 bytes.
void require_stride(int64_t stride, int64_t least, DType dtype, std::string_view kernel,
                    std::string_view field);
/// A stride of 8-bit codes: at least head_dim, and 16 bytes or, where head_dim is not, 8.
void require_code_stride(int64_t stride, int head_dim, std::string_view kernel, std::string_view field);
/// kF32, kF16 or kBF16.
void require_float(DType dtype, std::string_view kernel);
void require_head_dim(int head_dim, std::string_view kernel);

}  // namespace tandem::kernels
