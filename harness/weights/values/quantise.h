// Quantised weights: codes and scales of the rows of a matrix, as a Storage of 8 or 4 bits has them. Plain loops: what the
// reference computes with, what kernels' packing must equal, and what a twin in Python (scripts/peers/twin/quantise.py)
// repeats.
//
// A scale is the largest magnitude of its group over the largest code (448 of e4m3, 127 of 8 bits, 7 of 4 bits), rounded to
// the storage's type of scales. A code is value / scale in fp32, rounded to nearest even and held to the type's range. A group
// of zeros has scale 0. A group with a NaN has scale NaN and codes 0, so that it stays NaN; one with an infinity likewise.
#pragma once

#include <cstdint>
#include <span>

#include "harness/weights/storage.h"

namespace tandem {

/// Codes (as bits of storage.dtype) and scales of one row of `values`. `codes` has as many, `scales`
/// storage.scales_per_row(values.size()). Throws Error for storage of another type, or without scales.
void quantise_row(const Storage& storage, std::span<const float> values, std::span<uint32_t> codes,
                  std::span<float> scales);
/// code * scale in fp32.
void dequantise_row(const Storage& storage, std::span<const uint32_t> codes, std::span<const float> scales,
                    std::span<float> values);

}  // namespace tandem
