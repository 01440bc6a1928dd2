// Random operands and digests of results, on the device. For searches and measurements.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

struct RandomFillParams {
  void* out = nullptr;  ///< [count]
  DType dtype = DType::kBF16;
  int64_t count = 0;
  uint64_t key = 0;
  float scale =
      1.0f;  ///< values are uniform in (-scale, scale), rounded to dtype: at most 448 for kF8, 127 for kI8
};
/// Zeros or repeated values would let the card draw less power and clock higher than real data does.
void launch_random_fill(const RandomFillParams& params, cudaStream_t stream);

/// The same with two of every four neighbours zero, which two by the key: 2:4 as it comes. Throws UsageError for another dtype
/// than kF16 and kBF16.
void launch_random_two_of_four(const RandomFillParams& params, cudaStream_t stream);

struct DigestParams {
  const void* data = nullptr;  ///< [rows, row_bytes], rows stride_bytes apart
  int64_t rows = 1;
  int64_t row_bytes = 0;
  int64_t stride_bytes = 0;
  uint64_t* digest = nullptr;  ///< [1], added to; the sum over bytes does not depend on the order of addition
};
/// Adds a hash of every byte and its place, so that equal digests mean equal bits.
void launch_digest(const DigestParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
