// One decoder step: self-attention over the tokens so far, cross-attention to the source, feed-forward
// network, head. Pre-norm or post-norm, eight kernels a layer where products and norms fuse: norm + qkv,
// self-attention, out + residual, norm + q, cross-attention, out + residual, norm + up + activation, down +
// residual.
#include <fmt/format.h>

#include <algorithm>

#include "kernels/plan/builder.h"

namespace tandem::kernels {
namespace {

/// What the layers of a step share.
struct StepTensors {
  PlanTensor offsets;  ///< of the source
  RelativeBiasRef bias;
  TokenState token;
  PlanTensor ancestry;  ///< when beams search
};

/// Above this many source tokens the keys and values of each layer get a matrix of their own: in one matrix
/// of all layers an attention kernel would walk memory `layers` times as wide as what it reads.
constexpr int64_t kOneProductTokens = 2048;

Stream decoder_layer(PlanBuilder& b, const DecoderLayerWeight& w, int layer, const StepTensors& step,
                     const CrossKeysValues& cross, const Stream& x) {
  const ModelConfig& c = b.config();
  const PlanRequest& request = b.request();
  const int64_t inner = c.inner(c.decoder);
  const int64_t batch = request.rows();
  const auto cache = [&](std::string_view which) {
    return b.state(fmt::format("decoder/{}/self.{}_cache", layer, which),
                   kv_dtype(request.precision, KvType::kSame), batch * c.decoder.heads * request.capacity,
                   c.head_dim);
  };

  const Stream self = sublayer(b, w.self_norm, x, [&](const Stream& in, PlanTensor* skip) -> SublayerEnd {
    const PlanTensor qkv = b.dense(in, {.kind = PhaseKind::kSelfQkv, .weight = w.self.qkv}, skip);
    const PlanTensor heads = b.activations(PhaseKind::kSelfAttention, batch, inner);
    b.add(PhaseKind::kSelfAttention, SelfAttentionOp{.q = qkv.columns(0, inner),
                                                     .k = qkv.columns(inner, inner),
                                                     .v = qkv.columns(2 * inner, inner),
                                                     .k_cache = cache("k"),
                                                     .v_cache = cache("v"),
                                                     .out = heads,
                                                     .position = step.token.position,
                                                     .finished = step.token.finished,
                                                     .ancestry = step.ancestry,
                                                     .bias = step.bias,
                                                     .heads = c.decoder.heads,
                                                     .capacity = request.capacity});
    return {heads, {.kind = PhaseKind::kSelfOut, .weight = w.self.out}};
  });
  const Stream crossed =
      sublayer(b, w.cross_norm, self, [&](const Stream& in, PlanTensor* skip) -> SublayerEnd {
        const PlanTensor q = b.dense(in, {.kind = PhaseKind::kCrossQkv, .weight = w.cross.q}, skip);
        const PlanTensor heads = b.activations(PhaseKind::kCrossAttention, batch, inner);
        b.add(PhaseKind::kCrossAttention, CrossAttentionOp{.q = q,
                                                           .k = cross.k,
                                                           .v = cross.v,
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
  const auto add = [&](const PlanTensor& kv) {
    layers.push_back({kv.columns(0, inner), kv.columns(inner, inner)});
  };
  if (tokens <= kOneProductTokens) {
    const PlanTensor all =
        b.keep(b.dense(x, {.kind = PhaseKind::kCrossKv, .weight = w.cross_kv}), "decoder/cross.kv");
    for (int layer = 0; layer < c.decoder.layers; ++layer) add(all.columns(layer * 2 * inner, 2 * inner));
    return layers;
  }
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    b.layer(layer);
    add(b.keep(b.dense(x, {.kind = PhaseKind::kCrossKv, .weight = w.layers[layer].cross.kv}),
               fmt::format("decoder/{}/cross.kv", layer)));
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
      .bias = relative_bias(b, w, c.decoder, plan_names::kDecoderBias),
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
