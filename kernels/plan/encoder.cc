// The encoder, as the paper writes it (Vaswani et al. 2017, section 3.1).
#include <fmt/format.h>

#include <algorithm>

#include "kernels/plan/builder.h"

namespace tandem::kernels {
namespace {

/// Multi-head self-attention over the packed tokens, then the feed-forward network.
Stream encoder_layer(PlanBuilder& b, const EncoderLayerWeight& w, const RelativeBiasRef& bias,
                     const PlanTensor& offsets, const Stream& x) {
  const ModelConfig& c = b.config();
  const int64_t inner = c.inner(c.encoder);
  const int64_t tokens = x.rows.rows;

  const Stream attended = sublayer(b, w.self_norm, x, [&](const Stream& in, Residual* skip) -> SublayerEnd {
    const PlanTensor qkv = b.dense(in, {.kind = PhaseKind::kSelfQkv, .weight = w.self.qkv}, skip);
    const PlanTensor heads = b.activations(PhaseKind::kSelfAttention, tokens, inner);
    b.add(PhaseKind::kSelfAttention, EncoderAttentionOp{.q = qkv.columns(0, inner),
                                                        .k = qkv.columns(inner, inner),
                                                        .v = qkv.columns(2 * inner, inner),
                                                        .out = heads,
                                                        .offsets = offsets,
                                                        .bias = bias,
                                                        .heads = c.encoder.heads,
                                                        .max_source = b.request().max_source});
    return {heads, {.kind = PhaseKind::kSelfOut, .weight = w.self.out}};
  });
  return feed_forward(b, w.ffn_norm, w.ffn, attended);
}

}  // namespace

Stream feed_forward(PlanBuilder& b, const NormWeight& norm, const FfnWeight& w, const Stream& x) {
  const ModelConfig& c = b.config();
  return sublayer(b, norm, x, [&](const Stream& in, Residual* skip) -> SublayerEnd {
    const PlanTensor hidden = b.dense(in,
                                      {.kind = PhaseKind::kFfnUp,
                                       .weight = c.gated ? w.gate_up : w.up,
                                       .activation = c.activation,
                                       .gated = c.gated},
                                      skip);
    return {hidden, {.kind = PhaseKind::kFfnDown, .weight = w.down}};
  });
}

Stream embed(PlanBuilder& b, const StackWeight& w, EmbedOp op, int64_t tokens) {
  const ModelConfig& c = b.config();
  // A product takes fp32 rows only through a norm.
  const bool reaches_norm = c.placement == NormPlacement::kPre || c.embedding_norm;
  op.x = b.scratch(phase_path(b.phase(PhaseKind::kEmbed)), reaches_norm ? b.stream_dtype() : b.dtype(),
                   tokens, c.d_model);
  op.table = w.embedding;
  op.table.rows = b.vocabulary().count;
  op.first_id = b.vocabulary().first;
  op.learned = w.position;
  b.add(PhaseKind::kEmbed, op);
  return {.rows = op.x,
          .pending = c.embedding_norm ? std::optional(w.embedding_norm) : std::nullopt,
          .partial = b.request().slice.has_value()};
}

std::vector<RelativeBiasRef> relative_biases(PlanBuilder& b, const StackWeight& w,
                                             const std::vector<TensorView>& layers, const StackConfig& stack,
                                             std::string_view name) {
  const ModelConfig& c = b.config();
  std::vector<RelativeBiasRef> biases(layers.size());
  if (c.position != Position::kRelative) return biases;
  const auto bias = [&](std::string_view buffer, const TensorView& table) -> RelativeBiasRef {
    return {.distance_bias = b.state(buffer, DType::kF32, stack.heads, 2 * c.relative_max_distance + 1,
                                     BufferRole::kInput),
            .table = table};
  };
  if (layers.front().empty()) {
    std::ranges::fill(biases, bias(name, w.relative_bias));
    return biases;
  }
  // Pruning has left other heads in each layer.
  for (size_t layer = 0; layer < layers.size(); ++layer)
    biases[layer] = bias(fmt::format("{}.{}", name, layer), layers[layer]);
  return biases;
}

PlanTensor encoder_forward(PlanBuilder& b, const EncoderWeight& w, const SourceTensors& source) {
  const ModelConfig& c = b.config();
  b.section(PlanSection::kEncoder, Side::kEncoder);
  const auto biases = relative_biases(b, w, bias_tables(w.layers), c.encoder, plan_names::kEncoderBias);
  Stream x = embed(b, w, {.ids = source.ids, .offsets = source.offsets, .sinusoids = source.sinusoids},
                   b.request().source_tokens);
  for (int layer = 0; layer < c.encoder.layers; ++layer) {
    b.layer(layer);
    x = encoder_layer(b, w.layers[layer], biases[layer], source.offsets, x);
  }
  b.layer(-1);
  if (c.final_norm) x = b.normed(x, w.final_norm);
  return b.keep(b.materialise(x), plan_names::kEncoderOutput);
}

}  // namespace tandem::kernels
