#include "reference/model/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "harness/base/error.h"
#include "reference/model/sublayer.h"
#include "reference/ops/attention.h"
#include "reference/ops/dense.h"
#include "reference/ops/ffn.h"
#include "reference/ops/head.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {
namespace {

RelativeBias decoder_bias(const ModelConfig& config, const DecoderWeight& w,
                          const DecoderLayerWeight& layer) {
  return {.table = layer.relative_bias.empty() ? w.relative_bias : layer.relative_bias,
          .bidirectional = false,
          .max_distance = config.relative_max_distance};
}

/// Keys or values of x [tokens, d_model] as the cache keeps them -> [tokens, inner].
Matrix keys_or_values(const ModelConfig& config, MatrixView x, const DenseWeight& w,
                      const Numerics& numerics) {
  return kept(dense(x, w, numerics), numerics, config.head_dim);
}

/// Row b of `rows` becomes row b * capacity + position of the cache.
void append(Matrix& cache, const Matrix& rows, int capacity, int position) {
  for (int64_t b = 0; b < rows.rows; ++b) {
    std::copy_n(rows.row(b), rows.cols, cache.row(b * capacity + position));
  }
}

/// 0, stride, 2 * stride, ...: count + 1 of them.
std::vector<int32_t> even_offsets(int count, int stride) {
  std::vector<int32_t> offsets(count + 1);
  for (int b = 0; b <= count; ++b) offsets[b] = b * stride;
  return offsets;
}

/// One token a sequence: x [batch, d_model] -> [batch, d_model]. Self-attention reads the cache of earlier
/// steps.
Matrix decoder_layer_step(const ModelConfig& config, const DecoderLayerWeight& w, const RelativeBias& bias,
                          DecoderState& state, LayerCache& cache, MatrixView x) {
  const Numerics& numerics = state.numerics;
  const std::vector<int32_t> one_query = even_offsets(state.batch(), 1);
  const std::vector<int32_t> cache_rows = even_offsets(state.batch(), state.capacity);
  const std::vector<int32_t> lengths(state.batch(), state.length + 1);

  const Matrix self = residual(config, w.self_norm, x, [&](MatrixView n) {
    const Matrix q = dense(n, w.self.q, numerics);
    append(cache.self_k, keys_or_values(config, n, w.self.k, numerics), state.capacity, state.length);
    append(cache.self_v, keys_or_values(config, n, w.self.v, numerics), state.capacity, state.length);
    const Matrix heads = attention({.q = q,
                                    .query_offsets = one_query,
                                    .query_position = state.length,
                                    .k = cache.self_k,
                                    .v = cache.self_v,
                                    .key_offsets = cache_rows,
                                    .mask = {AttentionMask::Kind::kCausal, lengths.data()},
                                    .heads = config.decoder.heads,
                                    .scale = config.attention_scale,
                                    .bias = bias});
    return last_product(heads, w.self.out, numerics);
  });
  const Matrix cross = residual(config, w.cross_norm, self, [&](MatrixView n) {
    const Matrix q = dense(n, w.cross.q, numerics);
    const Matrix heads = attention({.q = q,
                                    .query_offsets = one_query,
                                    .query_position = state.length,
                                    .k = cache.cross_k,
                                    .v = cache.cross_v,
                                    .key_offsets = state.source_offsets,
                                    .mask = {AttentionMask::Kind::kCross, state.source_lengths.data()},
                                    .heads = config.decoder.heads,
                                    .scale = config.attention_scale});
    return last_product(heads, w.cross.out, numerics);
  });
  return residual(config, w.ffn_norm, cross,
                  [&](MatrixView n) { return feed_forward(n, w.ffn, config.activation, numerics); });
}

/// All positions at once: x [target tokens, d_model] -> [target tokens, d_model].
Matrix decoder_layer_full(const ModelConfig& config, const DecoderLayerWeight& w, const RelativeBias& bias,
                          const TransformerBatch& source, MatrixView encoder_output,
                          const TransformerBatch& target, MatrixView x, const Numerics& numerics) {
  const Matrix self = residual(config, w.self_norm, x, [&](MatrixView n) {
    const Matrix q = dense(n, w.self.q, numerics);
    const Matrix k = keys_or_values(config, n, w.self.k, numerics);
    const Matrix v = keys_or_values(config, n, w.self.v, numerics);
    const Matrix heads = attention({.q = q,
                                    .query_offsets = target.offsets,
                                    .k = k,
                                    .v = v,
                                    .key_offsets = target.offsets,
                                    .mask = {AttentionMask::Kind::kCausal, target.lengths.data()},
                                    .heads = config.decoder.heads,
                                    .scale = config.attention_scale,
                                    .bias = bias});
    return last_product(heads, w.self.out, numerics);
  });
  const Matrix cross = residual(config, w.cross_norm, self, [&](MatrixView n) {
    const Matrix q = dense(n, w.cross.q, numerics);
    const Matrix k = keys_or_values(config, encoder_output, w.cross.k, numerics);
    const Matrix v = keys_or_values(config, encoder_output, w.cross.v, numerics);
    const Matrix heads = attention({.q = q,
                                    .query_offsets = target.offsets,
                                    .k = k,
                                    .v = v,
                                    .key_offsets = source.offsets,
                                    .mask = {AttentionMask::Kind::kCross, source.lengths.data()},
                                    .heads = config.decoder.heads,
                                    .scale = config.attention_scale});
    return last_product(heads, w.cross.out, numerics);
  });
  return residual(config, w.ffn_norm, cross,
                  [&](MatrixView n) { return feed_forward(n, w.ffn, config.activation, numerics); });
}

Matrix to_logits(const ModelConfig& config, const DecoderWeight& w, MatrixView x, const Numerics& numerics) {
  const DenseWeight ids = without_padding(w.head, config, numerics.ranks);
  if (config.final_norm) return head(normalise(config, w.final_norm, x), ids, config.head_scale, numerics);
  return head(x, ids, config.head_scale, numerics);
}

}  // namespace

DecoderState start_decoder(const ModelConfig& config, const DecoderWeight& w, const TransformerBatch& source,
                           MatrixView encoder_output, int capacity, const Numerics& numerics) {
  expect_shape(encoder_output, source.tokens(), config.d_model, "encoder output");
  const int64_t inner = config.inner(config.decoder);
  const int64_t rows = static_cast<int64_t>(source.size()) * capacity;
  DecoderState state{.source_lengths = source.lengths,
                     .source_offsets = source.offsets,
                     .capacity = capacity,
                     .length = 0,
                     .layers = {},
                     .numerics = numerics};
  for (const DecoderLayerWeight& layer : w.layers) {
    state.layers.push_back({.self_k = Matrix(rows, inner),
                            .self_v = Matrix(rows, inner),
                            .cross_k = keys_or_values(config, encoder_output, layer.cross.k, numerics),
                            .cross_v = keys_or_values(config, encoder_output, layer.cross.v, numerics)});
  }
  return state;
}

void reorder(DecoderState& state, std::span<const int32_t> rows) {
  for (const int32_t row : rows) {
    if (row < 0 || row >= state.batch()) {
      throw Error(fmt::format("decoder: row {} of a batch of {}", row, state.batch()));
    }
  }
  const auto chosen = [&](const std::vector<int32_t>& from) {
    std::vector<int32_t> to;
    for (const int32_t row : rows) to.push_back(from[row]);
    return to;
  };
  const auto chosen_cache = [&](const Matrix& from) {
    Matrix to(static_cast<int64_t>(rows.size()) * state.capacity, from.cols);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy_n(from.row(int64_t{rows[r]} * state.capacity), from.cols * state.length,
                  to.row(static_cast<int64_t>(r) * state.capacity));
    }
    return to;
  };
  for (LayerCache& layer : state.layers) {
    layer.self_k = chosen_cache(layer.self_k);
    layer.self_v = chosen_cache(layer.self_v);
  }
  state.source_lengths = chosen(state.source_lengths);
  state.source_offsets = chosen(state.source_offsets);
}

Matrix append_tokens(const ModelConfig& config, const DecoderWeight& w, DecoderState& state,
                     std::span<const int32_t> ids) {
  if (static_cast<int>(ids.size()) != state.batch()) {
    throw Error(fmt::format("decoder step: {} ids for a batch of {}", ids.size(), state.batch()));
  }
  if (state.length >= state.capacity) {
    throw Error(fmt::format("decoder step: the K/V cache of {} tokens is full", state.capacity));
  }
  const std::vector<int32_t> positions(ids.size(), state.length);
  Matrix x = embed_tokens(config, w, ids, positions, state.numerics.ranks);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    x = decoder_layer_step(config, w.layers[i], decoder_bias(config, w, w.layers[i]), state, state.layers[i],
                           x);
  }
  state.length += 1;
  return x;
}

Matrix decoder_step(const ModelConfig& config, const DecoderWeight& w, DecoderState& state,
                    std::span<const int32_t> ids) {
  return to_logits(config, w, append_tokens(config, w, state, ids), state.numerics);
}

Matrix decoder_full(const ModelConfig& config, const DecoderWeight& w, const TransformerBatch& source,
                    MatrixView encoder_output, const TransformerBatch& target, const Numerics& numerics) {
  if (target.size() != source.size()) {
    throw Error(fmt::format("decoder: {} targets for {} sources", target.size(), source.size()));
  }
  Matrix x = embed_tokens(config, w, target.ids, packed_positions(target), numerics.ranks);
  for (const DecoderLayerWeight& layer : w.layers) {
    x = decoder_layer_full(config, layer, decoder_bias(config, w, layer), source, encoder_output, target, x,
                           numerics);
  }
  return to_logits(config, w, x, numerics);
}

}  // namespace tandem::reference
