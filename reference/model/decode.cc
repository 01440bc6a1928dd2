#include "reference/model/decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/base/error.h"
#include "reference/model/beam_search.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/logits.h"
#include "reference/model/next_token.h"
#include "reference/model/sampling.h"

namespace tandem::reference {
namespace {

/// One source, encoded, and a decoder of several rows over it.
class Rows {
 public:
  Rows(const ModelConfig& config, const ModelWeights& w, const TransformerBatch& batch, int b, int rows,
       int capacity, const Numerics& numerics)
      : config_(config), w_(w) {
    const TransformerBatch one =
        pack(config, {{batch.ids.begin() + batch.offsets[b], batch.ids.begin() + batch.offsets[b + 1]}});
    state_ = start_decoder(config, w.decoder, one, encoder_forward(config, w.encoder, one, numerics),
                           capacity, numerics);
    reorder(state_, std::vector<int32_t>(rows, 0));
  }

  Matrix step(std::span<const int32_t> parents, std::span<const int32_t> ids) {
    if (state_.length > 0) reorder(state_, parents);
    Matrix logits = decoder_step(config_, w_.decoder, state_, ids);
    const int32_t nan = std::ranges::any_of(logits.values, [](float v) { return std::isnan(v); }) ? 1 : 0;
    // All ranks end together: one alone would leave the others waiting for it.
    const std::vector<int32_t> nans = from_ranks(state_.numerics.ranks, nan);
    if (std::ranges::count(nans, 1) > 0) {
      throw Error(fmt::format("generation: the logits of token {} hold NaN", state_.length));
    }
    return logits;
  }

  /// The ids that logits are of.
  VocabularyPart part() const { return vocabulary_part(config_, state_.numerics.ranks); }

 private:
  const ModelConfig& config_;
  const ModelWeights& w_;
  DecoderState state_;
};

/// Greedy (one row) or n_best samples, a row each.
std::vector<Hypothesis> token_by_token(const GenerationConfig& g, Rows& rows) {
  const int count = g.sample ? g.n_best : 1;
  std::vector<std::vector<int32_t>> tokens(count, {g.decoder_start_id});
  std::vector<Hypothesis> out(count);
  std::vector<bool> ended(count, false);
  std::vector<int32_t> parents(count);
  std::iota(parents.begin(), parents.end(), 0);

  for (int step = 0; step + 1 < g.max_length && std::find(ended.begin(), ended.end(), false) != ended.end();
       ++step) {
    std::vector<int32_t> ids;
    for (int r = 0; r < count; ++r) ids.push_back(ended[r] ? g.pad_id : tokens[r].back());
    const Matrix logits = rows.step(parents, ids);
    for (int r = 0; r < count; ++r) {
      if (ended[r]) continue;
      const std::span<const float> row(logits.row(r), static_cast<size_t>(logits.cols));
      std::vector<float> scores(row.begin(), row.end());
      process(g, tokens[r], scores, rows.part());
      const int32_t token = choose_token(
          g, scores, sampling_uniform(g.seed, static_cast<uint64_t>(r), static_cast<uint64_t>(step)),
          rows.part());
      tokens[r].push_back(token);
      out[r].tokens.push_back(token);
      out[r].log_probabilities.push_back(value_of(log_softmax(row, rows.part()), token, rows.part()));
      out[r].score += out[r].log_probabilities.back();
      ended[r] = next_token(token, false, {.eos_ids = g.eos_ids, .pad_id = g.pad_id}).ended;
    }
  }
  return out;
}

}  // namespace

std::vector<std::vector<Hypothesis>> decode(const ModelConfig& config, const ModelWeights& w,
                                            const TransformerBatch& source, const GenerationConfig& g,
                                            std::span<const uint64_t> seeds, const Numerics& numerics) {
  check_fits(g, config, source.longest);
  if (!seeds.empty() && static_cast<int>(seeds.size()) != source.size()) {
    throw Error(fmt::format("generation: {} seeds for {} sources", seeds.size(), source.size()));
  }
  std::vector<std::vector<Hypothesis>> out;
  for (int b = 0; b < source.size(); ++b) {
    GenerationConfig own = g;
    own.seed = seeds.empty() ? g.seed + static_cast<uint64_t>(b) : seeds[b];
    const int count = g.beams > 1 ? g.beams : g.sample ? g.n_best : 1;
    Rows rows(config, w, source, b, count, g.max_length - 1, numerics);
    if (g.beams == 1) {
      out.push_back(token_by_token(own, rows));
    } else {
      const auto step = [&](std::span<const int32_t> parents, std::span<const int32_t> ids) {
        return rows.step(parents, ids);
      };
      out.push_back(beam_search(own, step, rows.part()));
    }
  }
  return out;
}

}  // namespace tandem::reference
