// How large the seeded weights of each tensor are: chosen so that activations and logits stay in a sensible
// range at any depth and that greedy decoding does not repeat one token.
//
// Two things make a random encoder-decoder degenerate:
// - A tied head compares the final state with the input token's own embedding. If the embedding is a share
// `a` of the
//   final stream (as a standard deviation), that token's logit stands a * sqrt(d_model) deviations out,
//   against sqrt(2 ln vocab) for the largest of all the others: a must be about 1 / sqrt(d_model) or the
//   arg-max repeats its input. So each sublayer adds `ratio` times the stream's present deviation, and sqrt(1
//   + ratio^2)^sublayers = sqrt(d_model).
// - Attention that is near uniform gives every step the same context: scores get a deviation of
// kScoreDeviation.
#pragma once

#include "harness/model/config.h"

namespace tandem {

inline constexpr double kGammaDeviation = 0.1;  ///< around 1
inline constexpr double kBetaDeviation = 0.1;
inline constexpr double kRelativeBiasDeviation = 0.5;
inline constexpr double kHeadBiasDeviation = 0.25;

/// Exponent e for which kCentredSumStd * 2^e is nearest to `deviation` (within a factor sqrt(2)).
int seed_exponent(double deviation);
/// kCentredSumStd * 2^seed_exponent(deviation): what a tensor really gets.
double seed_deviation(double deviation);

/// Standard deviations of one projection.
struct DenseScale {
  double weight = 0;
  double bias = 0;
};

struct AttentionScale {
  DenseScale q, k, v, out;
};

struct FfnScale {
  DenseScale up;  ///< of the gate too
  DenseScale down;
};

class SeedScale {
 public:
  explicit SeedScale(const ModelConfig& config);

  double embedding = 0;
  double position = 0;  ///< learned positions
  double head = 0;      ///< head of its own

  AttentionScale encoder_self(int layer) const {
    return attention(encoder_, 2 * layer, config_.inner(config_.encoder));
  }
  FfnScale encoder_ffn(int layer) const { return ffn(encoder_, 2 * layer + 1, config_.encoder.d_ff); }
  AttentionScale decoder_self(int layer) const {
    return attention(decoder_, 3 * layer, config_.inner(config_.decoder));
  }
  AttentionScale decoder_cross(int layer) const {
    return attention(decoder_, 3 * layer + 1, config_.inner(config_.decoder));
  }
  FfnScale decoder_ffn(int layer) const { return ffn(decoder_, 3 * layer + 2, config_.decoder.d_ff); }

 private:
  // One side's residual stream: its deviation where the first sublayer reads it, and what each sublayer adds.
  struct Stream {
    double start = 1;
    double ratio = 0.5;
  };

  Stream stream(int sublayers) const;
  double added(const Stream& stream,
               int sublayer) const;  // deviation of what sublayer number `sublayer` adds
  AttentionScale attention(const Stream& stream, int sublayer, int64_t inner) const;
  FfnScale ffn(const Stream& stream, int sublayer, int64_t d_ff) const;

  ModelConfig config_;
  Stream encoder_;
  Stream decoder_;
};

}  // namespace tandem
