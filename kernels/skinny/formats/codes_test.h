// What the tests of products and heads with quantised weights share.
#pragma once

#include <optional>
#include <string>

#include "harness/base/host_device.h"
#include "kernels/skinny/product_test.h"

namespace tandem::kernels {

/// How weights are stored, and how x comes.
struct CodesFormat {
  DType weights;
  std::optional<DType> inputs = std::nullopt;  // what x is quantised to
  bool x_codes = false;                        // x is codes in memory

  /// Are there kernels for so many rows on this card? One row is quantised by its kernel; codes of x need sm_90a.
  bool runs(int m) const { return x_codes ? skinny_card().sm90a : m == 1 || !inputs; }
  /// Of which k must be a multiple.
  int k_step() const { return 128 / dtype_bits(weights); }
  std::string text() const { return format_text(weights, inputs, x_codes); }
};
inline constexpr CodesFormat kCodesFormats[] = {{DType::kI8},
                                                {DType::kI4},
                                                {DType::kF8, DType::kF8},
                                                {DType::kI8, DType::kI8},
                                                {DType::kF8, DType::kF8, true},
                                                {DType::kI8, DType::kI8, true}};

inline Product random_codes(RandomValues& random, const CodesFormat& f, int m, int n, int k) {
  return random_product(random, DType::kBF16, m, n, round_up(k, f.k_step()), f.weights, f.inputs, f.x_codes);
}

}  // namespace tandem::kernels
