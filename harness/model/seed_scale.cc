#include "harness/model/seed_scale.h"

#include <algorithm>
#include <cmath>

#include "harness/base/random.h"

namespace tandem {
namespace {

constexpr double kLogitDeviation = 3;  // a softmax neither flat nor one-hot, for a vocabulary of 256 to 256 k
constexpr double kScoreDeviation = 2;  // of attention scores before the softmax
constexpr double kContextDeviation = 0.5;  // of the weighted mean of unit values under such scores
constexpr double kHiddenDeviation = 1.4;   // of the FFN before its activation
constexpr double kBiasShare = 0.1;         // of a projection's output
constexpr double kEcho = 1;  // deviations by which the input token's own logit stands out (header)

// E[act(z)^2] for a normal z of deviation kHiddenDeviation, over its variance.
double activation_power(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return 0.5;
    case Activation::kGelu:
    case Activation::kGeluTanh:
      return 0.46;
    case Activation::kSilu:
      return 0.36;
    case Activation::kTanh:
      return 0.25;
    case Activation::kSigmoid:
      return 0.16;
  }
  return 0.5;
}

}  // namespace

int seed_exponent(double deviation) {
  // By comparison, not by log2: exact on every machine.
  int e = -40;
  while (e < 40 && kCentredSumStd * std::ldexp(1.0, e) * std::sqrt(2.0) < deviation) ++e;
  return e;
}

double seed_deviation(double deviation) {
  return kCentredSumStd * std::ldexp(1.0, seed_exponent(deviation));
}

SeedScale::SeedScale(const ModelConfig& config) : config_(config) {
  const double root = std::sqrt(config.d_model);
  head = kLogitDeviation / (config.head_scale * root);
  embedding = config.tied_head ? head : 1 / config.embedding_scale;
  const double token = seed_deviation(embedding) * config.embedding_scale;
  position = token / 3;  // leaves the token the larger part

  encoder_ = stream(2 * config.encoder.layers);
  decoder_ = stream(3 * config.decoder.layers);
}

SeedScale::Stream SeedScale::stream(int sublayers) const {
  Stream s;
  const double token = seed_deviation(embedding) * config_.embedding_scale;
  double place = 0;
  if (config_.position == Position::kLearned) place = seed_deviation(position);
  if (config_.position == Position::kSinusoidal || config_.position == Position::kSinusoidalHalves) {
    place = std::sqrt(0.5);
  }
  if (!config_.embedding_norm) s.start = std::hypot(token, place);
  const double share = std::min(0.5, kEcho / std::sqrt(config_.d_model));
  s.ratio = std::sqrt(std::pow(share, -2.0 / sublayers) - 1);
  return s;
}

double SeedScale::added(const Stream& stream, int sublayer) const {
  if (config_.placement == NormPlacement::kPost) return stream.ratio * (sublayer == 0 ? stream.start : 1);
  return stream.ratio * stream.start * std::pow(1 + stream.ratio * stream.ratio, 0.5 * sublayer);
}

AttentionScale SeedScale::attention(const Stream& stream, int sublayer, int64_t inner) const {
  // The input of q, k and v has unit variance: it is normed (post-norm: but for the first layer's, which is
  // close).
  const double unit = 1 / std::sqrt(config_.d_model);
  const double key = seed_deviation(unit) / unit;
  const double query = kScoreDeviation / (config_.attention_scale * std::sqrt(config_.head_dim) * key);
  const double value = seed_deviation(unit) / unit;
  const double out = added(stream, sublayer);
  return {.q = {query * unit, kBiasShare * query},
          .k = {unit, kBiasShare},
          .v = {unit, kBiasShare},
          .out = {out / (kContextDeviation * value * std::sqrt(inner)), kBiasShare * out}};
}

FfnScale SeedScale::ffn(const Stream& stream, int sublayer, int64_t d_ff) const {
  const double unit = 1 / std::sqrt(config_.d_model);
  const double hidden = seed_deviation(kHiddenDeviation * unit) / unit;
  double power = hidden * hidden * activation_power(config_.activation);
  if (config_.gated) power *= hidden * hidden;
  const double out = added(stream, sublayer);
  return {.up = {kHiddenDeviation * unit, kBiasShare},
          .down = {out / std::sqrt(power * static_cast<double>(d_ff)), kBiasShare * out}};
}

}  // namespace tandem
