// Floating-point values from one storage type to another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem {

struct ConvertParams {
  const std::byte* from = nullptr;  ///< [count] of from_type, at any alignment
  DType from_type = DType::kF32;    ///< kF32, kF16 or kBF16
  std::byte* to = nullptr;          ///< [count] of to_type, at any alignment
  DType to_type = DType::kF32;      ///< kF32, kF16 or kBF16
  int64_t count = 0;
};

/// Rounds to nearest even where the target is narrower. Says whether any value was NaN. Throws Error for another type.
bool convert_values(const ConvertParams& p);

}  // namespace tandem
