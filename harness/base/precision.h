// The `precision` and `kv` axes: what weights, activations and the K/V cache are stored as.
#pragma once

#include <cstdint>
#include <string_view>

#include "harness/base/tensor.h"

namespace tandem {

enum class Precision : uint8_t {
  kFp32,
  kTf32,  ///< stored as fp32, multiplied as tf32
  kFp16,
  kBf16,
  kFp8,    ///< e4m3 weights and activations, bf16 between operations
  kInt8,   ///< 8-bit weights and activations, bf16 between operations
  kW8a16,  ///< 8-bit weights, bf16 arithmetic
  kW4a16,  ///< 4-bit weights in groups of kInt4Group with one bf16 scale each, 8-bit head, bf16 arithmetic
};
inline constexpr int kPrecisions = 8;
inline constexpr int kInt4Group = 128;  ///< weights that share a scale in w4a16

enum class KvType : uint8_t {
  kSame,   ///< as the precision: 8 bits for fp8 and int8, 16 for w8a16 and w4a16
  k16Bit,  ///< the type of activations; not for fp32 and tf32, whose activations have 32
  kFp8,
  kInt8,
};
inline constexpr int kKvTypes = 4;

/// "fp32", "tf32", ... as the axis spells it.
std::string_view precision_name(Precision precision);
/// Inverse of precision_name; throws UsageError naming the allowed ones.
Precision parse_precision(std::string_view name);
std::string_view kv_name(KvType kv);
/// Inverse of kv_name; throws UsageError naming the allowed ones.
KvType parse_kv(std::string_view name);

/// Element type of activations between operations, and of the encoder's output.
DType activation_dtype(Precision precision);
/// Element type that a layer's weights are stored in.
DType weight_dtype(Precision precision);
/// Element type that the vocabulary head is stored in: weight_dtype, but 8-bit integers for w4a16.
DType head_dtype(Precision precision);
/// Element type of the K/V cache.
DType kv_dtype(Precision precision, KvType kv);

/// Bytes that one head's K (or V) of one token takes in the cache: 8 bits carry one fp32 scale.
int64_t kv_head_bytes(Precision precision, KvType kv, int head_dim);

}  // namespace tandem
