#include "kernels/attention/attention_check.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem::kernels {

void require_field(bool ok, std::string_view kernel, std::string_view field, int64_t value,
                   const std::string& allowed) {
  if (!ok) throw UsageError(fmt::format("{}: {} is {}, allowed: {}", kernel, field, value, allowed));
}

void require_pointer(const void* pointer, std::string_view kernel, std::string_view field) {
  if (pointer == nullptr) throw UsageError(fmt::format("{}: {} is null", kernel, field));
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
    throw UsageError(fmt::format("{}: {} must be 16-byte aligned", kernel, field));
  }
}

void require_stride(int64_t stride, int64_t least, DType dtype, std::string_view kernel,
                    std::string_view field) {
  require_field(stride >= least && tensor_bytes(dtype, stride) % 16 == 0, kernel, field, stride,
                fmt::format("at least {} elements and a multiple of 16 bytes", least));
}

void require_code_stride(int64_t stride, int head_dim, std::string_view kernel, std::string_view field) {
  const int multiple = head_dim % 16 == 0 ? 16 : 8;
  require_field(stride >= head_dim && stride % multiple == 0, kernel, field, stride,
                fmt::format("at least {} codes and a multiple of {}", head_dim, multiple));
}

void require_float(DType dtype, std::string_view kernel) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    throw UsageError(fmt::format("{}: dtype is {}, allowed: f32, f16, bf16", kernel, dtype_name(dtype)));
  }
}

void require_head_dim(int head_dim, std::string_view kernel) {
  require_field(head_dim >= 8 && head_dim <= 128 && head_dim % 8 == 0, kernel, "head_dim", head_dim,
                "a multiple of 8 from 8 to 128");
}

}  // namespace tandem::kernels
