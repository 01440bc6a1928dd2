// The values of one seeded tensor, as kernels make them.
#pragma once

#include <algorithm>
#include <iterator>

#include "harness/weights/values/seeded.h"

namespace tandem::kernels {

struct SeededValues {
  uint64_t key;
  float base;
  int exponent;
  bool outliers;
  int64_t cols;  ///< of the whole tensor
  int32_t scales[kOutlierSlots];

  static SeededValues of(const WeightsSpec& spec, const WholeTensor& t) {
    const bool outliers = spec.outliers && t.outlier_rows;
    SeededValues v{.key = stream_key(spec.seed, t.name),
                   .base = t.base,
                   .exponent = outliers ? t.exponent - kOutlierShift : t.exponent,
                   .outliers = outliers,
                   .cols = t.cols,
                   .scales = {}};
    std::copy(std::begin(kOutlierScale), std::end(kOutlierScale), std::begin(v.scales));
    return v;
  }
  __device__ int32_t row_scale(int64_t row) const {
    return outliers ? scales[outlier_slot(key, static_cast<uint64_t>(row))] : 1;
  }
  /// At an index of the whole tensor, whose row has the scale `row_scale`.
  __device__ float at(int64_t index, int32_t row_scale) const {
    return seeded_value(key, static_cast<uint64_t>(index), base, exponent, row_scale);
  }
};

}  // namespace tandem::kernels
