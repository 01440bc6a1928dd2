#include "kernels/attention/encoder_attention.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "kernels/attention/attention_check.h"
#include "kernels/attention/attention_index.h"
#include "kernels/attention/encoder_kernel.h"
#include "kernels/common/arch.h"

namespace tandem::kernels {
namespace {

void check(const EncoderAttentionParams& p) {
  constexpr std::string_view kName = "encoder attention";
  require_float(p.dtype, kName);
  require_head_dim(p.head_dim, kName);
  require_field(p.heads >= 1 && p.heads <= 65535, kName, "heads", p.heads, "1 to 65535");
  require_field(p.batch >= 1 && p.batch <= 65535, kName, "batch", p.batch, "1 to 65535");
  require_field(p.max_source >= 1, kName, "max_source", p.max_source, "at least 1");
  require_field(p.tokens >= 1 && p.tokens <= INT32_MAX, kName, "tokens", p.tokens, "1 to 2^31 - 1");
  const int64_t inner = static_cast<int64_t>(p.heads) * p.head_dim;
  require_pointer(p.q, kName, "q");
  require_pointer(p.k, kName, "k");
  require_pointer(p.v, kName, "v");
  require_pointer(p.out, kName, "out");
  require_stride(p.q_stride, inner, p.dtype, kName, "q_stride");
  require_stride(p.k_stride, inner, p.dtype, kName, "k_stride");
  require_stride(p.v_stride, inner, p.dtype, kName, "v_stride");
  require_stride(p.out_stride, inner, p.dtype, kName, "out_stride");
  if (p.offsets == nullptr) throw UsageError("encoder attention: offsets is null");
  if (!(p.scale > 0.0f))
    throw UsageError(fmt::format("encoder attention: scale is {}, allowed: above 0", p.scale));
  require_field(p.distance_bias == nullptr || (p.max_distance >= 1 && p.max_distance <= kMaxDistance), kName,
                "max_distance", p.max_distance, fmt::format("1 to {}", kMaxDistance));
}

}  // namespace

void launch_encoder_attention(const EncoderAttentionParams& params, cudaStream_t stream) {
  check(params);
  if (params.dtype == DType::kF32) return launch_encoder_attention_f32(params, stream);
  const bool fast_shape = params.head_dim == 64 || params.head_dim == 128;
  if (fast_shape && current_arch().sm90a) return launch_encoder_attention_wgmma(params, stream);
  launch_encoder_attention_mma(params, stream);
}

}  // namespace tandem::kernels
