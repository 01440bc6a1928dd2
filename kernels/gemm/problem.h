// What a dense product is: the key under which a searched algorithm is kept. No CUDA in here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// What cuBLASLt applies to the product before it is stored. Its GELU is the tanh form only; the erf form and
/// the other activations are kernels/activation, run after a product without activation.
enum class GemmEpilogue : uint8_t { kNone, kBias, kRelu, kBiasRelu, kGeluTanh, kBiasGeluTanh };

/// "none bias relu bias_relu gelu_tanh bias_gelu_tanh"
std::string_view epilogue_name(GemmEpilogue epilogue);
/// Inverse of epilogue_name; throws UsageError naming the allowed ones.
GemmEpilogue parse_epilogue(std::string_view name);
constexpr bool has_bias(GemmEpilogue e) {
  return e == GemmEpilogue::kBias || e == GemmEpilogue::kBiasRelu || e == GemmEpilogue::kBiasGeluTanh;
}

/// y[m, n] = epilogue(alpha x[m, k] w[n, k]^T + bias[n] + residual[m, n]), row-major, products accumulated in
/// fp32. With x and w of kF8 each sum of products is multiplied with the scale of its row of x and that of its row of w
/// first. With x and w of kI8 y holds the bare sums, exact while they fit in 32 bits, and nothing else is computed.
struct GemmProblem {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  DType x = DType::kBF16;  ///< kF32, kF16, kBF16, kF8 or kI8
  DType w = DType::kBF16;  ///< the same as `x`: no product here mixes types
  /// Of y and residual: the same as `x`, or kF32; with x of kF8 kBF16 or kF32, of kI8 kI32.
  DType out = DType::kBF16;
  /// w holds 2:4 as the library compresses it (kernels/gemm/structured): kF16 or kBF16, `out` as x, without GELU.
  bool two_of_four = false;
  bool tf32 = false;  ///< fp32 storage, tensor cores (10 mantissa bits); otherwise fp32 is full fp32
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  bool residual = false;  ///< only with kNone or kBias: cuBLASLt adds it before the activation; not with kI8
  int64_t ldx = 0;  ///< elements from one row of x to the next; 0: k. Of 8-bit operands a multiple of 16
  int64_t ldy = 0;  ///< the same for y and residual; 0: n. With 8-bit operands rows of a multiple of 16 bytes
  /// Bytes (a power of two up to 16) that every pointer given to run() is a multiple of; 16 with 8-bit operands.
  int alignment = 16;

  bool operator==(const GemmProblem&) const = default;
  int64_t x_stride() const { return ldx != 0 ? ldx : k; }
  int64_t y_stride() const { return ldy != 0 ? ldy : n; }
  /// Of the bias: `out`, but kBF16 with operands of kF8.
  DType bias_type() const { return x == DType::kF8 ? DType::kBF16 : out; }
  double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};

/// Can the library apply this epilogue, and add a residual, before it stores a product of operands of type `x`? What it
/// cannot is a pass of its own after the product.
constexpr bool library_fuses(DType x, GemmEpilogue epilogue, bool residual) {
  if (x == DType::kI8) return epilogue == GemmEpilogue::kNone && !residual;
  return !residual || epilogue == GemmEpilogue::kNone || epilogue == GemmEpilogue::kBias;
}
/// Has the library products of this width and depth? With 8-bit operands rows of x, w and y must be multiples of 16 bytes
/// (documentation of cublasLtMatmul, FP8 and IMMA kernels).
constexpr bool library_takes(DType x, DType out, int64_t n, int64_t k) {
  return dtype_bytes(x) > 1 || (tensor_bytes(x, k) % 16 == 0 && tensor_bytes(out, n) % 16 == 0);
}
/// Has cuSPARSELt products of this shape? Of 16-bit operands rows and columns of a 2:4 matrix are multiples of 16, of others
/// of 8 (documentation of cusparseLtMatmulDescriptorInit).
constexpr bool structured_takes(int64_t m, int64_t n, int64_t k) {
  return m % 8 == 0 && n % 16 == 0 && k % 16 == 0;
}
/// Why the library has no product of operands of type `x` on cards of this compute capability (90 for 9.0), naming the
/// axis; empty when it may have one.
std::string library_lacks(DType x, int compute_capability);

/// Throws UsageError naming the field and what is allowed.
void check(const GemmProblem& problem);
/// "m64 n3072 k1024 bf16-bf16 bias_relu residual ldx4096 align2": the key in the choice file, and what
/// messages print. Types are x and out ("f8-bf16", "i8-i32"); a w of another type than x stands between: "bf16*i8-bf16". A 2:4 w is "bf16*2:4-bf16".
std::string problem_text(const GemmProblem& problem);
/// Inverse of problem_text; throws UsageError.
GemmProblem parse_problem(std::string_view text);
/// The largest power of two up to 16 that divides an address; 16 for null.
int pointer_alignment(const void* p);

}  // namespace tandem::kernels

template <>
struct std::hash<tandem::kernels::GemmProblem> {
  size_t operator()(const tandem::kernels::GemmProblem& p) const noexcept;
};
