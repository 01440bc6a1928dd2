// The sizes of what suite_kernels measures: one answer for the engines and for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "harness/model/config.h"
#include "harness/sweep/case.h"

namespace tandem {

/// y [rows, n] = x [rows, k] times the transpose of a weight [n, k]; of a gated product n has both halves.
struct ProductShape {
  int64_t n = 0;
  int64_t k = 0;
  bool operator==(const ProductShape&) const = default;
};
/// Of a product of the decoder's step or of its head; none for other operations.
std::optional<ProductShape> product_shape(std::string_view op, const ModelConfig& config);

/// What an operation of suite_kernels works on, for people: "m 8 n 3072 k 1024", "b 64 h 16 d 64 len 128", "64 x 1024".
std::string op_shape(const Case& c, const ModelConfig& config);

}  // namespace tandem
