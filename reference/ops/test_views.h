// Tests only: views of literal values.
#pragma once

#include <vector>

#include "harness/base/tensor.h"

namespace tandem::reference {

/// A [rows, values.size() / rows] view; `values` must outlive it.
inline TensorView view(const std::vector<float>& values, int64_t rows = 1) {
  return {.data = values.data(),
          .dtype = DType::kF32,
          .rows = rows,
          .cols = static_cast<int64_t>(values.size()) / rows};
}

}  // namespace tandem::reference
