// How large the seeded weights of each tensor are: activations and logits stay in a sensible range at any depth, and
// greedy decoding neither repeats a token nor forgets its source.
//
// What makes a random encoder-decoder degenerate, and what is done about it here:
// - A tied head compares the final state with the input token's own embedding, so the arg-max repeats its input as soon as
//   that embedding keeps a share of the final stream near sqrt(2 ln vocab) / sqrt(d_model). Each sublayer adds a part of
//   the stream's present size, so that the share falls to kEcho / sqrt(d_model) whatever the depth; and the gamma of the
//   norm before a tied head is -1, not 1, which turns what is left against the input token.
// - Attention averages, and what it averages is common to all positions; a few layers of that and all states are equal
//   (Dong et al. 2021, "Attention is not all you need"). Attention adds kAttentionShare of what the FFN adds.
// - Relu and its kin have a positive mean, a vector common to all tokens. The bias of the FFN's first product is centred
//   kThreshold deviations below zero, which makes the hidden units sparse as trained ones are. T5 has no bias: it keeps
//   more of the common vector and uses fewer distinct tokens than the others.
// - Scores: T5 does not divide by sqrt(head_dim), so its queries are smaller by that much.
#pragma once

#include "harness/model/config.h"

namespace tandem {

inline constexpr double kGammaDeviation = 0.1;  ///< around 1 or -1
inline constexpr double kBetaDeviation = 0.1;
inline constexpr double kRelativeBiasDeviation = 0.5;
inline constexpr double kHeadBiasDeviation = 0.25;

/// Exponent e for which kCentredSumStd * 2^e is nearest to `deviation` (within a factor sqrt(2)).
int seed_exponent(double deviation);
/// kCentredSumStd * 2^seed_exponent(deviation): what a tensor really gets.
double seed_deviation(double deviation);

/// Standard deviations of one projection, and the mean of its bias.
struct DenseScale {
  double weight = 0;
  double bias = 0;
  double bias_mean = 0;
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

  double embedding() const { return embedding_; }
  double position() const { return position_; }  ///< learned positions
  double head() const { return head_; }          ///< a head of its own
  /// Mean of the gamma of the decoder's last norm.
  double last_gamma() const { return config_.tied_head ? -1 : 1; }

  AttentionScale encoder_self(int layer) const { return attention(encoder_, layer, 0); }
  FfnScale encoder_ffn(int layer) const { return ffn(encoder_, layer); }
  AttentionScale decoder_self(int layer) const { return attention(decoder_, layer, 0); }
  AttentionScale decoder_cross(int layer) const { return attention(decoder_, layer, 1); }
  FfnScale decoder_ffn(int layer) const { return ffn(decoder_, layer); }

 private:
  // One side's residual stream: its size where the first sublayer reads it, and what each sublayer adds relative to it.
  struct Stream {
    StackConfig stack;
    int attentions = 1;  // sublayers of attention in a layer
    double start = 1;
    double ffn = 0.5;
    double attention = 0.15;
  };

  Stream stream(const StackConfig& stack, int attentions) const;
  // Size of the stream that sublayer `sublayer` of `layer` reads (and adds to).
  double before(const Stream& stream, int layer, int sublayer) const;
  AttentionScale attention(const Stream& stream, int layer, int sublayer) const;
  FfnScale ffn(const Stream& stream, int layer) const;

  ModelConfig config_;
  double head_ = 0;
  double embedding_ = 0;
  double position_ = 0;
  Stream encoder_;
  Stream decoder_;
};

}  // namespace tandem
