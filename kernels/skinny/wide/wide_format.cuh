// What a wide kernel multiplies. Weights come as 128 stored bytes of a row and unit; plain ones, e4m3 and int8 with x of the same
// codes are multiplied straight out of shared memory, int8 and int4 with x of bf16 are unpacked into registers first.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/wide/wide_map.h"

namespace tandem::kernels {

/// T: of bias and y. Element: of a product's operands. Acc: of its sums.
template <typename Type, typename OfProducts, typename OfSums, int kStoredBits>
struct WideFormat {
  using T = Type;
  using Element = OfProducts;
  using Acc = OfSums;
  static constexpr int kUnit = 8 * kWideRowBytes / kStoredBits;
  static constexpr int kXBoxes = kUnit * static_cast<int>(sizeof(Element)) / kWideRowBytes;
  static constexpr int kColumns =
      kStoredBits == 16 ? kUnit : kWideRowBytes;  // of the weights' map, a unit: codes are copied as bytes
  static constexpr int kBoxColumns = kWideRowBytes / static_cast<int>(sizeof(Element));  // of the map of x
  static constexpr bool kCodes = kStoredBits < 16;
  static constexpr bool kTwoOfFour = false;
  static constexpr bool kBitmap = false;
  static constexpr bool kStats = false;                             // a norm by statistics
  static constexpr bool kXScales = kCodes && sizeof(Element) == 1;  // x is codes
  static constexpr bool kUnpacks = kCodes && !kXScales;             // weights pass through registers
  static constexpr bool kGroupScales = kStoredBits == 4;            // one for kScaleGroup codes
  static constexpr bool kRowScales = kCodes && !kGroupScales;
  // Sums of few products, then added to floats.
  static constexpr bool kFreshSums = kGroupScales || std::is_same_v<Element, __nv_fp8_e4m3>;
};

template <typename T>
using WidePlain = WideFormat<T, T, float, 16>;
/// 2:4 of bf16: 128 stored bytes are 128 k. The metadata comes by the consumers' own copies (wide_fours.cuh).
struct WideTwoOfFour : WidePlain<__nv_bfloat16> {
  static constexpr int kUnit = 2 * kWideRowBytes / static_cast<int>(sizeof(Element));
  static constexpr int kXBoxes = 2;
  static constexpr int kColumns = kUnit / 2;
  static constexpr bool kTwoOfFour = true;
};
/// A bitmap and kept values, which the consumers copy themselves and expand into registers (wide_bitmap.cuh): of the stages, x alone
/// is the product's, in an order of its own.
struct WideBitmap : WidePlain<__nv_bfloat16> {
  static constexpr bool kBitmap = true;
};
/// With what a norm by statistics adds: a kernel of its own, so that products without it stay as they are.
struct WideWithStats : WidePlain<__nv_bfloat16> {
  static constexpr bool kStats = true;
};
using WideFp8 = WideFormat<__nv_bfloat16, __nv_fp8_e4m3, float, 8>;
using WideInt8 = WideFormat<__nv_bfloat16, int8_t, int, 8>;
using WideW8A16 = WideFormat<__nv_bfloat16, __nv_bfloat16, float, 8>;
using WideW4A16 = WideFormat<__nv_bfloat16, __nv_bfloat16, float, 4>;

}  // namespace tandem::kernels
