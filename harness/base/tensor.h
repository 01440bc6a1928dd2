// Element types and non-owning tensor views.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tandem {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kI32,
  kI8,
  kU8,
  kF8,  ///< e4m3
  kI4,  ///< two's complement, two a byte, the first in the low half
};

constexpr int dtype_bits(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 32;
    case DType::kF16:
    case DType::kBF16:
      return 16;
    case DType::kI8:
    case DType::kU8:
    case DType::kF8:
      return 8;
    case DType::kI4:
      return 4;
  }
  return 0;
}

/// Of a type of whole bytes; 0 for kI4.
constexpr int64_t dtype_bytes(DType t) {
  return dtype_bits(t) / 8;
}

/// Bytes of so many neighbouring elements from a whole byte on, and, for types of whole bytes, the offset of the element of
/// that number: the only place outside harness/weights that multiplies by the size of an element. dtype_bytes answers
/// questions of alignment and width.
constexpr int64_t tensor_bytes(DType t, int64_t elements) {
  return (elements * dtype_bits(t) + 7) / 8;
}

constexpr std::string_view dtype_name(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
    case DType::kF8:
      return "f8";
    case DType::kI4:
      return "i4";
  }
  return "?";
}

/// A dense row-major tensor somewhere in host or device memory. Does not own. A null view means "not there".
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;  ///< 1 for a vector
  int64_t cols = 0;

  bool empty() const { return data == nullptr; }
  int64_t size() const { return rows * cols; }
  int64_t bytes() const { return rows * tensor_bytes(dtype, cols); }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

}  // namespace tandem
