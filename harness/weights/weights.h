// Typed views of the weights that a layout places (layout.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harness/base/tensor.h"
#include "harness/weights/layout.h"

namespace tandem {

struct NormWeight {
  TensorView gamma;  ///< [d_model]
  TensorView beta;   ///< [d_model]; empty for rms
};

/// A matrix as it is stored, and its bias.
struct DenseWeight {
  /// [out, in]; with two_of_four [out, in / 2]; with a bitmap [out, in] too, where data is what rows start from
  TensorView weight;
  TensorView bias;         ///< [out]; empty when the model has none
  TensorView scales = {};  ///< [out, groups of a row]; empty unless the storage has scales
  const void* metadata =
      nullptr;  ///< two bits a stored value, each row from a whole byte on; null unless two_of_four
  bool two_of_four = false;
  /// A bit an element, set where it is stored, the lowest first, each row from a whole 4-byte word on; null unless the storage
  /// has one. Then the stored values of row r are from 16 * row_starts[r] bytes after weight.data on, in their columns' order.
  const void* bitmap = nullptr;
  const uint32_t* row_starts = nullptr;  ///< [out + 1]
  /// Rows that are multiplied with the matrix are quantised to this type first, one scale a row (quantise.h), whatever the
  /// matrix itself is stored as; none: they are taken as they are.
  std::optional<DType> input_dtype = {};

  int64_t in() const { return two_of_four ? 2 * weight.cols : weight.cols; }
  /// Is some of it not stored?
  bool sparse() const { return two_of_four || bitmap != nullptr; }
};

struct AttentionWeight {
  DenseWeight q, k, v;  ///< [inner, d_model] each
  DenseWeight out;      ///< [d_model, inner]
  DenseWeight qkv;      ///< q, k, v as one [3 inner, d_model]; empty in cross-attention
  DenseWeight kv;       ///< k, v as one [2 inner, d_model]
};

struct FfnWeight {
  DenseWeight gate;     ///< [d_ff, d_model]; empty unless gated
  DenseWeight up;       ///< [d_ff, d_model]
  DenseWeight down;     ///< [d_model, d_ff]
  DenseWeight gate_up;  ///< gate, up as one [2 d_ff, d_model]; empty unless gated
};

struct EncoderLayerWeight {
  NormWeight self_norm;
  TensorView relative_bias = {};  ///< [relative_buckets, heads] of this layer alone; empty: the stack's
  AttentionWeight self;
  NormWeight ffn_norm;
  FfnWeight ffn;
};

struct DecoderLayerWeight {
  NormWeight self_norm;
  TensorView relative_bias = {};  ///< [relative_buckets, heads] of this layer alone; empty: the stack's
  AttentionWeight self;
  NormWeight cross_norm;
  AttentionWeight cross;
  NormWeight ffn_norm;
  FfnWeight ffn;
};

/// What both sides have around their layers.
struct StackWeight {
  TensorView embedding;       ///< [vocab, d_model]; the same view on both sides when shared
  TensorView position;        ///< [position_offset + max_positions, d_model]; learned positions only
  NormWeight embedding_norm;  ///< empty unless the model has one
  TensorView relative_bias;   ///< [relative_buckets, heads]; relative positions only
  NormWeight final_norm;      ///< empty unless the model has one
};

struct EncoderWeight : StackWeight {
  std::vector<EncoderLayerWeight> layers;
};

struct DecoderWeight : StackWeight {
  std::vector<DecoderLayerWeight> layers;
  DenseWeight cross_kv;  ///< cross k, v of every layer in order as one [layers * 2 * inner, d_model]
  DenseWeight head;      ///< [vocab, d_model]; the embedding when tied; bias is final_logits_bias
};

struct ModelWeights {
  EncoderWeight encoder;
  DecoderWeight decoder;
};

/// Views into an arena of layout.bytes at `base` (host or device).
ModelWeights bind_weights(const WeightLayout& layout, const void* base);

}  // namespace tandem
