// Names, shapes and places of all weights of a model, and typed views of them. Reference and CUDA engine
// share the layout; only the element type and the base address differ.
//
// Weights are [out, in] row-major: y = x W^T + b. Tensors of one group lie back to back without padding, so
// that {q,k,v} of a self-attention, {k,v} of all layers' cross-attentions and {gate,up} of a gated FFN are
// each one matrix too.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/base/tensor.h"
#include "harness/model/config.h"

namespace tandem {

/// One tensor. Value i of seeded weights is base + centred_sum(stream_key(seed, name), i) * 2^exponent, in
/// fp32, then rounded to the storage type (seeded.h; outliers multiply the sum by an integer per row first).
struct TensorSpec {
  std::string name;  ///< "encoder.layers.3.self.q.weight"
  int64_t rows = 1;
  int64_t cols = 0;
  float base = 0;  ///< 1 for norm gammas; the mean in general (seed_scale.h)
  int exponent = 0;
  bool outlier_rows = false;  ///< takes a per-row scale when outliers are asked for
  int64_t offset = 0;         ///< elements from the start of the arena
  int64_t size() const { return rows * cols; }
};

/// All tensors of a model in arena order; groups start at multiples of 128 elements.
struct WeightLayout {
  std::vector<TensorSpec> tensors;
  int64_t elements = 0;                           ///< arena size, padding included
  std::unordered_map<std::string, size_t> index;  ///< name to place in `tensors`
  /// Throws std::out_of_range for an unknown name.
  const TensorSpec& at(const std::string& name) const;
  bool contains(const std::string& name) const;
};
/// Checks the configuration (UsageError) and lays its tensors out:
///   shared.embedding, or encoder.embedding and decoder.embedding   [vocab, d_model]
///   SIDE.position, SIDE.embedding_norm.{gamma,beta}, SIDE.relative_bias, SIDE.final_norm.{gamma,beta}
///   SIDE.layers.N.{self_norm,cross_norm,ffn_norm}.{gamma,beta}
///   SIDE.layers.N.{self,cross}.{q,k,v,out}.{weight,bias}, SIDE.layers.N.ffn.{gate,up,down}.{weight,bias}
///   head.weight (untied), head.bias
WeightLayout weight_layout(const ModelConfig& config);

struct NormWeight {
  TensorView gamma;  ///< [d_model]
  TensorView beta;   ///< [d_model]; empty for rms
};

struct DenseWeight {
  TensorView weight;  ///< [out, in]
  TensorView bias;    ///< [out]; empty when the model has none
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
  AttentionWeight self;
  NormWeight ffn_norm;
  FfnWeight ffn;
};

struct DecoderLayerWeight {
  NormWeight self_norm;
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

/// Views into an arena of layout.elements values of `dtype` at `base` (host or device).
ModelWeights bind_weights(const ModelConfig& config, const WeightLayout& layout, const void* base,
                          DType dtype);

}  // namespace tandem
