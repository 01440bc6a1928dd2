#include "kernels/attention/decode_attention.h"

#include <fmt/format.h>

#include <bit>

#include "harness/base/error.h"
#include "kernels/attention/attention_check.h"
#include "kernels/attention/attention_index.h"
#include "kernels/attention/decode/decode_kernel.h"
#include "kernels/common/arch.h"

namespace tandem::kernels {
namespace {

constexpr int kMaxGridY = 65535;

/// A source of this many tokens and more is shared by a whole block: measured 3.5 against 3.3 TB/s at 512 tokens, head_dim 64.
/// Self-attention, whose length grows from 1, gains nothing from it.
constexpr int kLongSource = 256;
constexpr int kLongSourceHeadDim = 64;

/// Warps a multiprocessor wants at once: with codes and small heads each has half as many bytes under way.
int busy_warps(int head_dim, DType kv) {
  return dtype_bits(kv) == 8 && head_dim <= kLongSourceHeadDim ? 12 : kDecodeBusyWarps;
}

/// Warps that a block may have for one pair.
int block_warps(int head_dim, DType kv) {
  return dtype_bits(kv) == 16 && head_dim > kLongSourceHeadDim ? kDecodeLongHeadWarps : kDecodeWarps;
}

struct GridProblem {
  int64_t pairs = 0;
  int length = 0;  ///< keys, at most
  int head_dim = 0;
  DType kv = DType::kBF16;
};

int choose_workers(const GridProblem& p) {
  return decode_workers(p.pairs, p.length, multiprocessors(), busy_warps(p.head_dim, p.kv),
                        block_warps(p.head_dim, p.kv));
}

DecodeGrid choose_grid(int asked, const GridProblem& p, std::string_view kernel) {
  constexpr int64_t kMostPairs = int64_t{1} << 30;  // they are counted in 32 bits
  require_field(p.pairs <= kMostPairs, kernel, "heads * rows", p.pairs, fmt::format("1 to {}", kMostPairs));
  require_field(asked == 0 || (asked >= 1 && asked <= kDecodeMaxWorkers &&
                               std::has_single_bit(static_cast<unsigned>(asked))),
                kernel, "workers", asked, "0, 1, 2, 4, 8, 16 or 32");
  int workers = asked != 0 ? asked : choose_workers(p);
  const int in_a_block = block_warps(p.head_dim, p.kv);
  // Beyond one block partial results meet in a cluster, which only sm_90 has.
  if (workers > in_a_block && !current_arch().sm90a) workers = in_a_block;
  // More warps than a block may have are of blocks on as many multiprocessors as can be.
  const int warps = workers == in_a_block ? in_a_block : kDecodeWarps;
  return {.log2_workers = std::countr_zero(static_cast<unsigned>(workers)),
          .log2_warps = std::countr_zero(static_cast<unsigned>(warps))};
}

void check_common(int head_dim, int heads, float scale, DType dtype, std::string_view kernel) {
  require_float(dtype, kernel);
  require_head_dim(head_dim, kernel);
  require_field(heads >= 1, kernel, "heads", heads, "at least 1");
  if (!(scale > 0.0f)) throw UsageError(fmt::format("{}: scale is {}, allowed: above 0", kernel, scale));
}

/// What the caches hold; codes need their scales, and 16-bit products to meet them.
DType kv_type(std::optional<DType> asked, DType dtype, const float* k_scales, const float* v_scales,
              std::string_view kernel) {
  const DType kv = asked.value_or(dtype);
  const bool codes = kv == DType::kF8 || kv == DType::kI8;
  if (kv != dtype && !(codes && dtype != DType::kF32)) {
    throw UsageError(fmt::format("{}: kv_dtype is {}, allowed: {}{}", kernel, dtype_name(kv),
                                 dtype_name(dtype), dtype == DType::kF32 ? "" : ", f8, i8"));
  }
  if ((k_scales != nullptr) != codes || (v_scales != nullptr) != codes) {
    throw UsageError(
        fmt::format("{}: k_scales and v_scales belong to kv_dtype f8 and i8, and to them alone", kernel));
  }
  return kv;
}

void launch_decode(DType dtype, DType kv, bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  switch (kv) {
    case DType::kF32:
      return launch_decode_f32(self, args, how);
    case DType::kF8:
      return launch_decode_f8(self, args, how);
    case DType::kI8:
      return launch_decode_i8(self, args, how);
    default:
      return launch_decode_16bit(dtype, self, args, how);
  }
}

}  // namespace

void launch_decode_self_attention(const DecodeSelfAttentionParams& p, cudaStream_t stream) {
  constexpr std::string_view kName = "decode self-attention";
  check_common(p.head_dim, p.heads, p.scale, p.dtype, kName);
  const int64_t inner = static_cast<int64_t>(p.heads) * p.head_dim;
  const DType kv = kv_type(p.kv_dtype, p.dtype, p.k_scales, p.v_scales, kName);
  require_pointer(p.q, kName, "q");
  require_pointer(p.k, kName, "k");
  require_pointer(p.v, kName, "v");
  require_pointer(p.k_cache, kName, "k_cache");
  require_pointer(p.v_cache, kName, "v_cache");
  require_pointer(p.out, kName, "out");
  require_stride(p.qkv_stride, inner, p.dtype, kName, "qkv_stride");
  require_stride(p.out_stride, inner, p.dtype, kName, "out_stride");
  if (p.position == nullptr) throw UsageError("decode self-attention: position is null");
  require_field(p.batch >= 1 && p.batch <= kMaxGridY, kName, "batch", p.batch, "1 to 65535");
  require_field(p.capacity >= 1, kName, "capacity", p.capacity, "at least 1");
  require_field(p.distance_bias == nullptr || (p.max_distance >= 1 && p.max_distance <= kMaxDistance), kName,
                "max_distance", p.max_distance, fmt::format("1 to {}", kMaxDistance));
  const DecodeArgs args{
      .q = p.q,
      .new_k = p.k,
      .new_v = p.v,
      .k = p.k_cache,
      .v = p.v_cache,
      .k_scales = p.k_scales,
      .v_scales = p.v_scales,
      .out = p.out,
      .position = p.position,
      .offsets = nullptr,
      .finished = p.finished,
      .ancestry = p.ancestry,
      .bias = p.distance_bias,
      .q_stride = p.qkv_stride,
      .out_stride = p.out_stride,
      .source_stride = inner * p.capacity,
      .head_stride = static_cast<int64_t>(p.capacity) * p.head_dim,
      .token_stride = p.head_dim,
      .scale_source_stride = static_cast<int64_t>(p.heads) * p.capacity,
      .scale_head_stride = p.capacity,
      .scale_token_stride = 1,
      .max_distance = p.max_distance,
      .capacity = p.capacity,
      .rows_per_source = 1,
      .row_groups = 1,
      .heads = p.heads,
      .head_dim = p.head_dim,
      .grid = choose_grid(p.workers,
                          {.pairs = static_cast<int64_t>(p.batch) * p.heads,
                           .length = p.capacity,
                           .head_dim = p.head_dim,
                           .kv = kv},
                          kName),
      .scale = p.scale,
      .kv_ready = p.kv_ready && p.dependent,
      .halves = p.dtype == DType::kF16,
  };
  launch_decode(p.dtype, kv, true, args, {.sources = p.batch, .dependent = p.dependent, .stream = stream});
}

void launch_decode_cross_attention(const DecodeCrossAttentionParams& p, cudaStream_t stream) {
  constexpr std::string_view kName = "decode cross-attention";
  check_common(p.head_dim, p.heads, p.scale, p.dtype, kName);
  const int64_t inner = static_cast<int64_t>(p.heads) * p.head_dim;
  const DType kv = kv_type(p.kv_dtype, p.dtype, p.k_scales, p.v_scales, kName);
  require_pointer(p.q, kName, "q");
  require_pointer(p.k, kName, "k");
  require_pointer(p.v, kName, "v");
  require_pointer(p.out, kName, "out");
  require_stride(p.q_stride, inner, p.dtype, kName, "q_stride");
  require_stride(p.out_stride, inner, p.dtype, kName, "out_stride");
  if (kv == p.dtype) {
    require_stride(p.token_stride, p.head_dim, kv, kName, "token_stride");
    require_stride(p.head_stride, p.head_dim, kv, kName, "head_stride");
  } else {
    require_code_stride(p.token_stride, p.head_dim, kName, "token_stride");
    require_code_stride(p.head_stride, p.head_dim, kName, "head_stride");
  }
  if (p.offsets == nullptr) throw UsageError("decode cross-attention: offsets is null");
  require_field(p.rows_per_source >= 1, kName, "rows_per_source", p.rows_per_source, "at least 1");
  const int rows_per_block = p.dtype == DType::kF32 ? kDecodeRowsF32 : kDecodeRows16;
  const int groups = ceil_div(p.rows_per_source, rows_per_block);
  require_field(p.sources >= 1 && static_cast<int64_t>(p.sources) * groups <= kMaxGridY, kName, "sources",
                p.sources, fmt::format("1 to {}", kMaxGridY / groups));
  require_field(p.max_source_length >= 1, kName, "max_source_length", p.max_source_length, "at least 1");
  const GridProblem problem{.pairs = static_cast<int64_t>(p.sources) * groups * p.heads,
                            .length = p.max_source_length,
                            .head_dim = p.head_dim,
                            .kv = kv};
  int workers = p.workers;
  if (workers == 0 && p.max_source_length >= kLongSource && p.head_dim <= kLongSourceHeadDim) {
    workers = std::max(kDecodeWarps, choose_workers(problem));
  }
  const DecodeArgs args{
      .q = p.q,
      .new_k = nullptr,
      .new_v = nullptr,
      // Cross-attention never writes through these.
      .k = const_cast<void*>(p.k),
      .v = const_cast<void*>(p.v),
      .k_scales = const_cast<float*>(p.k_scales),
      .v_scales = const_cast<float*>(p.v_scales),
      .out = p.out,
      .position = nullptr,
      .offsets = p.offsets,
      .finished = p.finished,
      .ancestry = nullptr,
      .bias = nullptr,
      .q_stride = p.q_stride,
      .out_stride = p.out_stride,
      .source_stride = 0,
      .head_stride = p.head_stride,
      .token_stride = p.token_stride,
      .scale_source_stride = 0,
      .scale_head_stride = p.scale_head_stride,
      .scale_token_stride = p.scale_token_stride,
      .max_distance = 0,
      .capacity = 0,
      .rows_per_source = p.rows_per_source,
      .row_groups = groups,
      .heads = p.heads,
      .head_dim = p.head_dim,
      .grid = choose_grid(workers, problem, kName),
      .scale = p.scale,
      .kv_ready = p.kv_ready && p.dependent,
      .halves = p.dtype == DType::kF16,
  };
  launch_decode(p.dtype, kv, false, args, {.sources = p.sources, .dependent = p.dependent, .stream = stream});
}

}  // namespace tandem::kernels
