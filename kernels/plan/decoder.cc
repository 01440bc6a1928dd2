// One decoder step: self-attention over the tokens so far, cross-attention to the source, feed-forward
// network, head. Pre-norm or post-norm, eight kernels a layer where products and norms fuse, as prologues or by statistics:
// norm + qkv, self-attention, out + residual, norm + q, cross-attention, out + residual, norm + up + activation, down +
// residual.
#include <fmt/format.h>

#include <algorithm>

#include "kernels/plan/builder.h"

namespace tandem::kernels {
namespace {

/// What the layers of a step share.
struct StepTensors {
  PlanTensor offsets;  ///< of the source
  std::vector<RelativeBiasRef> biases;
  TokenState token;
  PlanTensor ancestry;  ///< when beams search
};

/// Above this many source tokens, or bytes of a token in all layers, the keys and values of each layer get a matrix of their own: in
/// one matrix of all layers an attention kernel would walk memory `layers` times as wide as what it reads. That took 1 % of t5-3b's step
/// at batch 1, 393 KB a token (LOG.md); between there and nllb-1.3b's 98 KB nothing was measured.
constexpr int64_t kOneProductTokens = 2048;
constexpr int64_t kOneProductBytes = 256 << 10;

Stream decoder_layer(PlanBuilder& b, const DecoderLayerWeight& w, int layer, const StepTensors& step,
                     const CrossKeysValues& cross, const Stream& x) {
  const ModelConfig& c = b.config();
  const PlanRequest& request = b.request();
  const int64_t inner = c.inner(c.decoder);
  const int64_t batch = request.rows();
  const DType kv = kv_dtype(request.precision, request.kv);
  const auto cache = [&](std::string_view which, DType dtype, int64_t cols) {
    return b.state(fmt::format("decoder/{}/self.{}", layer, which), dtype,
                   batch * c.decoder.heads * request.capacity, cols);
  };
  const auto scales = [&](std::string_view which) {
    return dtype_bits(kv) == 8 ? cache(which, DType::kF32, 1) : PlanTensor{};
  };

  const Stream self = sublayer(b, w.self_norm, x, [&](const Stream& in, Residual* skip) -> SublayerEnd {
    const PlanTensor qkv = b.dense(in, {.kind = PhaseKind::kSelfQkv, .weight = w.self.qkv}, skip);
    const PlanTensor heads = b.activations(PhaseKind::kSelfAttention, batch, inner);
    b.add(PhaseKind::kSelfAttention, SelfAttentionOp{.q = qkv.columns(0, inner),
                                                     .k = qkv.columns(inner, inner),
                                                     .v = qkv.columns(2 * inner, inner),
                                                     .k_cache = cache("k_cache", kv, c.head_dim),
                                                     .v_cache = cache("v_cache", kv, c.head_dim),
                                                     .k_scales = scales("k_scales"),
                                                     .v_scales = scales("v_scales"),
                                                     .out = heads,
                                                     .position = step.token.position,
                                                     .finished = step.token.finished,
                                                     .ancestry = step.ancestry,
                                                     .bias = step.biases[layer],
                                                     .heads = c.decoder.heads,
                                                     .capacity = request.capacity});
    return {heads, {.kind = PhaseKind::kSelfOut, .weight = w.self.out}};
  });
  const Stream crossed =
      sublayer(b, w.cross_norm, self, [&](const Stream& in, Residual* skip) -> SublayerEnd {
        const PlanTensor q = b.dense(in, {.kind = PhaseKind::kCrossQkv, .weight = w.cross.q}, skip);
        const PlanTensor heads = b.activations(PhaseKind::kCrossAttention, batch, inner);
        b.add(PhaseKind::kCrossAttention, CrossAttentionOp{.q = q,
                                                           .k = cross.k,
                                                           .v = cross.v,
                                                           .k_scales = cross.k_scales,
                                                           .v_scales = cross.v_scales,
                                                           .offsets = step.offsets,
                                                           .out = heads,
                                                           .finished = step.token.finished,
                                                           .heads = c.decoder.heads,
                                                           .max_source = request.max_source});
        return {heads, {.kind = PhaseKind::kCrossOut, .weight = w.cross.out}};
      });
  return feed_forward(b, w.ffn_norm, w.ffn, crossed);
}

}  // namespace

std::vector<CrossKeysValues> cross_keys_values(PlanBuilder& b, const DecoderWeight& w,
                                               const PlanTensor& encoder_output) {
  const ModelConfig& c = b.config();
  const int64_t inner = c.inner(c.decoder);
  const int64_t tokens = encoder_output.rows;
  b.section(PlanSection::kCrossKv, Side::kDecoder);
  const Stream x{.rows = encoder_output, .pending = {}};
  std::vector<CrossKeysValues> layers;
  const DType dtype = kv_dtype(b.request().precision, b.request().kv);
  /// Keys and values of `count` layers, columns of one matrix, as they are kept.
  const auto add = [&](const PlanTensor& rows, int count, const std::string& name) {
    PlanBuilder::Quantised kept{.codes = rows, .scales = {}};
    if (dtype_bits(dtype) == 8) {
      kept = b.quantised(PhaseKind::kCrossKv, rows, dtype, c.head_dim);
      b.keep(kept.scales, name + ".scales");
    }
    b.keep(kept.codes, name);
    const int64_t heads = c.decoder.heads;
    for (int64_t at = 0; at < 2 * count; at += 2) {
      CrossKeysValues& layer = layers.emplace_back();
      layer.k = kept.codes.columns(at * inner, inner);
      layer.v = kept.codes.columns((at + 1) * inner, inner);
      if (kept.scales.empty()) continue;
      layer.k_scales = kept.scales.some_rows(at * heads, heads);
      layer.v_scales = kept.scales.some_rows((at + 1) * heads, heads);
    }
  };
  const int64_t token_bytes = tensor_bytes(dtype, 2 * inner * c.decoder.layers);
  if (tokens <= kOneProductTokens && token_bytes <= kOneProductBytes) {
    add(b.dense(x, {.kind = PhaseKind::kCrossKv, .weight = w.cross_kv}), c.decoder.layers,
        std::string(plan_names::kCrossKv));
    return layers;
  }
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    b.layer(layer);
    add(b.dense(x, {.kind = PhaseKind::kCrossKv, .weight = w.layers[layer].cross.kv}), 1,
        fmt::format("decoder/{}/cross.kv", layer));
  }
  return layers;
}

void decoder_forward(PlanBuilder& b, const DecoderWeight& w, const SourceTensors& source,
                     const std::vector<CrossKeysValues>& cross) {
  const ModelConfig& c = b.config();
  const PlanRequest& request = b.request();
  const int64_t rows = request.rows();
  b.section(PlanSection::kStep, Side::kDecoder);
  StepTensors step{
      .offsets = source.offsets,
      .biases = relative_biases(b, w, bias_tables(w.layers), c.decoder, plan_names::kDecoderBias),
      .token = {.next_ids = b.state(plan_names::kNextIds, DType::kI32, 1, rows, BufferRole::kInput),
                .tokens =
                    b.state(plan_names::kTokens, DType::kI32, rows, request.capacity, BufferRole::kInput),
                .position = b.state(plan_names::kPosition, DType::kI32, 1, 1, BufferRole::kInput),
                .finished = {},
                .running = {}},
      .ancestry = {}};
  if (request.stop_at_eos || request.generation) {
    step.token.finished = b.state(plan_names::kFinished, DType::kI32, 1, rows, BufferRole::kInput);
    step.token.running = b.state(plan_names::kRunning, DType::kI32, 1, 1, BufferRole::kInput);
  }
  if (request.generation && request.generation->beams > 1)
    step.ancestry = b.state(plan_names::kAncestry, DType::kI32, rows, request.capacity);

  Stream x = embed(
      b, w, {.ids = step.token.next_ids, .position = step.token.position, .sinusoids = source.sinusoids},
      rows);
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    b.layer(layer);
    x = decoder_layer(b, w.layers[layer], layer, step, cross[layer], x);
  }
  b.layer(-1);
  if (c.final_norm) x = b.normed(x, w.final_norm);
  b.head(x, w.head, step.token, step.ancestry);
}

StepPlan build_plan(const PlanRequest& request) {
  const ModelConfig& c = request.config;
  PlanBuilder b(request);
  SourceTensors source{
      .ids = b.state(plan_names::kSourceIds, DType::kI32, 1, request.source_tokens, BufferRole::kInput),
      .offsets = b.state(plan_names::kSourceOffsets, DType::kI32, 1, request.batch + 1, BufferRole::kInput),
      .sinusoids = {}};
  if (c.position == Position::kSinusoidal || c.position == Position::kSinusoidalHalves) {
    const int rows = c.position_offset + std::max(request.max_source, request.capacity);
    source.sinusoids = b.state(plan_names::kSinusoids, DType::kF32, rows, c.d_model, BufferRole::kInput);
  }
  const PlanTensor encoded = encoder_forward(b, request.weights.encoder, source);
  if (request.capacity > 0) {
    const auto cross = cross_keys_values(b, request.weights.decoder, encoded);
    decoder_forward(b, request.weights.decoder, source, cross);
  }
  return b.finish();
}

}  // namespace tandem::kernels
