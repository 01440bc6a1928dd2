// Weights for a measurement, in any of the forms in which they are stored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/tensor.h"
#include "kernels/bench/code_matrix.h"
#include "kernels/common/device_buffer.h"
#include "kernels/skinny/formats/sparse_matrix.h"

namespace tandem::kernels {

/// Random values of the type. Large buffers repeat a block whose length no row length divides.
inline DeviceBuffer random_buffer(int64_t count, DType type, float scale, uint64_t seed,
                                  std::vector<float>* host = nullptr) {
  std::mt19937_64 engine(seed);
  const int64_t distinct = std::min<int64_t>(count, 1'000'003);
  std::vector<uint16_t> half(static_cast<size_t>(distinct));
  for (uint16_t& v : half) v = float_to_bf16(std::normal_distribution<float>(0, scale)(engine));
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[i] = bf16_to_float(half[i % distinct]);
  DeviceBuffer buffer;
  if (type == DType::kF32) {
    buffer = DeviceBuffer::of(values);
  } else {
    std::vector<uint16_t> bits(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) bits[i] = half[i % distinct];
    buffer = DeviceBuffer::of(bits);
  }
  if (host != nullptr) *host = std::move(values);
  return buffer;
}

/// A matrix [n, k] on the device.
struct BenchWeights {
  DeviceBuffer device;
  int64_t used = 0;       ///< bytes without gaps, scales and marks included
  int64_t scales_at = 0;  ///< of codes
  std::optional<SparseMatrix> sparse;
  std::vector<float> values;

  /// `kept`: of a bitmap, the share that is stored.
  BenchWeights(DType type, std::optional<DType> codes, SparseWeights form, double kept, int n, int k) {
    if (codes) {
      CodeMatrix matrix(*codes, n, k);
      device = DeviceBuffer::of(matrix.bytes);
      scales_at = matrix.scales_at;
      used = matrix.used;
      values = std::move(matrix.values);
      return;
    }
    const int64_t count = static_cast<int64_t>(n) * k;
    device = random_buffer(count, type, 1 / std::sqrt(static_cast<float>(k)), 1, &values);
    used = device.bytes();
    if (form == SparseWeights::kNone) return;
    std::mt19937_64 engine(3);
    sparse.emplace(form, values, random_kept(engine, form, n, k, kept, false), k);
    device = DeviceBuffer::of(sparse->bytes);
    used = sparse->used;
    values = std::move(sparse->values);
    sparse->bytes = {};
  }
};

}  // namespace tandem::kernels
