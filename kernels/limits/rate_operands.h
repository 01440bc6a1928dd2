// Random operands of every type whose matrix rate is measured. Internal to this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/precision.h"

namespace tandem::kernels {

struct RateFillParams {
  void* out = nullptr;  ///< [count], of operand_bytes(precision) each
  Precision precision = Precision::kBf16;
  int64_t count = 0;
  uint64_t key = 0;
};
/// Uniform in (-1, 1) rounded to the type; int8: every value from -127 to 127. fp8 is e4m3.
void launch_rate_fill(const RateFillParams& params, cudaStream_t stream);

int64_t operand_bytes(Precision precision);
/// Element `i` of host memory holding such operands. For tf32 the value as stored: the product rounds it.
double operand_value(Precision precision, const void* data, int64_t i);

}  // namespace tandem::kernels
