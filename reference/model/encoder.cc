#include "reference/model/encoder.h"

#include "reference/model/sublayer.h"
#include "reference/ops/dense.h"
#include "reference/ops/ffn.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

Matrix encoder_layer(const ModelConfig& config, const EncoderLayerWeight& w, const RelativeBias& bias,
                     const TransformerBatch& source, MatrixView x, const Numerics& numerics) {
  const Matrix attended = residual(config, w.self_norm, x, [&](MatrixView n) {
    const Matrix q = dense(n, w.self.q, numerics);
    const Matrix k = dense(n, w.self.k, numerics);
    const Matrix v = dense(n, w.self.v, numerics);
    const Matrix heads = attention({.q = q,
                                    .query_offsets = source.offsets,
                                    .k = k,
                                    .v = v,
                                    .key_offsets = source.offsets,
                                    .mask = {AttentionMask::Kind::kPadding, source.lengths.data()},
                                    .heads = config.encoder.heads,
                                    .scale = config.attention_scale,
                                    .bias = bias});
    return last_product(heads, w.self.out, numerics);
  });
  return residual(config, w.ffn_norm, attended,
                  [&](MatrixView n) { return feed_forward(n, w.ffn, config.activation, numerics); });
}

Matrix encoder_forward(const ModelConfig& config, const EncoderWeight& w, const TransformerBatch& source,
                       const Numerics& numerics) {
  const auto bias = [&](const EncoderLayerWeight& layer) -> RelativeBias {
    return {.table = layer.relative_bias.empty() ? w.relative_bias : layer.relative_bias,
            .bidirectional = true,
            .max_distance = config.relative_max_distance};
  };
  Matrix x = embed_tokens(config, w, source.ids, packed_positions(source), numerics.ranks);
  for (const EncoderLayerWeight& layer : w.layers)
    x = encoder_layer(config, layer, bias(layer), source, x, numerics);
  return config.final_norm ? normalise(config, w.final_norm, x) : x;
}

}  // namespace tandem::reference
