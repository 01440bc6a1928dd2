#include "harness/weights/values/seed_scale.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "harness/base/random.h"

namespace tandem {
namespace {

constexpr double kLogitDeviation = 3;     // a softmax neither flat nor one-hot for 256 to 256 k tokens
constexpr double kScoreDeviation = 1;     // of attention scores before the softmax
constexpr double kHiddenDeviation = 1.4;  // of the FFN before its activation
constexpr double kThreshold = 0.6;        // hidden deviations
constexpr double kBiasShare = 0.1;        // of a projection's output
constexpr double kAttentionShare = 0.3;
constexpr double kEcho = 2;
constexpr double kUntiedShare =
    0.25;  // no echo to suppress: less growth, and less noise from 16-bit rounding
constexpr double kPositionShare = 1.0 / 3;  // learned positions, of the token

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kGelu:
    case Activation::kGeluTanh:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return x;
}

// E[act(z)^2] for a normal z.
double mean_square(Activation activation, double mean, double deviation) {
  constexpr double kStep = 1.0 / 64;
  double sum = 0;
  for (int i = -512; i <= 512; ++i) {
    const double z = i * kStep;
    const double y = activate(activation, mean + deviation * z);
    sum += kStep * std::exp(-z * z / 2) * y * y;
  }
  return sum / std::sqrt(2 * std::numbers::pi);
}

}  // namespace

int seed_exponent(double deviation) {
  // By comparison, not by log2: the same on every machine.
  int e = -40;
  while (e < 40 && kCentredSumStd * std::ldexp(1.0, e) * std::numbers::sqrt2 < deviation) ++e;
  return e;
}

double seed_deviation(double deviation) {
  return kCentredSumStd * std::ldexp(1.0, seed_exponent(deviation));
}

SeedScale::SeedScale(const ModelConfig& config) : config_(config) {
  head_ = kLogitDeviation / (config.head_scale * std::sqrt(config.d_model));
  embedding_ = config.tied_head ? head_ : 1 / config.embedding_scale;
  position_ = kPositionShare * seed_deviation(embedding_) * config.embedding_scale;
  encoder_ = stream(config.encoder, 1);
  decoder_ = stream(config.decoder, 2);
}

SeedScale::Stream SeedScale::stream(const StackConfig& stack, int attentions) const {
  Stream s{.stack = stack, .attentions = attentions};
  double position = 0;
  if (config_.position == Position::kLearned) position = seed_deviation(position_);
  if (config_.position == Position::kSinusoidal || config_.position == Position::kSinusoidalHalves) {
    position = 1 / std::numbers::sqrt2;
  }
  if (!config_.embedding_norm)
    s.start = std::hypot(seed_deviation(embedding_) * config_.embedding_scale, position);

  // The ratio for which the variance grows by 1 / share^2 over all layers.
  const double share = config_.tied_head ? std::min(0.5, kEcho / std::sqrt(config_.d_model)) : kUntiedShare;
  const double layer_growth = std::pow(share, -2.0 / stack.layers);
  double low = 0;
  double high = 1 / share;
  for (int i = 0; i < 60; ++i) {
    s.ffn = (low + high) / 2;
    s.attention = kAttentionShare * s.ffn;
    double growth = 1 + s.ffn * s.ffn;
    for (int a = 0; a < attentions; ++a) growth *= 1 + s.attention * s.attention;
    (growth < layer_growth ? low : high) = s.ffn;
  }
  return s;
}

double SeedScale::before(const Stream& s, int layer, int sublayer) const {
  if (config_.placement == NormPlacement::kPost) return layer == 0 && sublayer == 0 ? s.start : 1;
  const double attention = std::sqrt(1 + s.attention * s.attention);
  const double ffn = std::sqrt(1 + s.ffn * s.ffn);
  return s.start * std::pow(ffn * std::pow(attention, s.attentions), layer) * std::pow(attention, sublayer);
}

AttentionScale SeedScale::attention(const Stream& s, int layer, int sublayer) const {
  // q, k and v read a normed stream (post-norm: but for the first sublayer, which is a few times larger).
  const double unit = 1 / std::sqrt(config_.d_model);
  const double key = seed_deviation(unit) / unit;
  const double query = kScoreDeviation / (config_.attention_scale * std::sqrt(config_.head_dim) * key);
  const double out = s.attention * before(s, layer, sublayer);
  return {.q = {.weight = query * unit, .bias = kBiasShare * query},
          .k = {.weight = unit, .bias = kBiasShare},
          .v = {.weight = unit, .bias = kBiasShare},
          .out = {.weight = out / (key * std::sqrt(config_.inner(s.stack))), .bias = kBiasShare * out}};
}

FfnScale SeedScale::ffn(const Stream& s, int layer) const {
  const double unit = 1 / std::sqrt(config_.d_model);
  const double hidden = seed_deviation(kHiddenDeviation * unit) / unit;
  // A gated product has no mean to begin with.
  const double threshold = config_.bias && !config_.gated ? -kThreshold * hidden : 0;
  double power = mean_square(config_.activation, threshold, hidden);
  if (config_.gated) power *= hidden * hidden;
  const double out = s.ffn * before(s, layer, s.attentions);
  return {.up = {.weight = kHiddenDeviation * unit, .bias = kBiasShare, .bias_mean = threshold},
          .down = {.weight = out / std::sqrt(power * s.stack.d_ff), .bias = kBiasShare * out}};
}

}  // namespace tandem
