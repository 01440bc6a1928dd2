#include "reference/model/generate.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/base/error.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/next_token.h"

namespace tandem::reference {
namespace {

void expect_tokens(const TransformerBatch& source, std::span<const int32_t> tokens, int steps) {
  if (steps < 1 || static_cast<int64_t>(tokens.size()) != static_cast<int64_t>(source.size()) * steps) {
    throw Error(fmt::format("forced decoding: {} tokens for a batch of {} and {} steps", tokens.size(),
                            source.size(), steps));
  }
}

}  // namespace

Generated greedy_generate(const ModelConfig& config, const ModelWeights& w, const TransformerBatch& source,
                          const GreedyOptions& options) {
  const int batch = source.size();
  const int steps = options.max_tokens;
  const Matrix encoded = encoder_forward(config, w.encoder, source, options.numerics);
  DecoderState state = start_decoder(config, w.decoder, source, encoded, steps, options.numerics);
  if (options.progress) options.progress(-1);

  Generated out;
  out.tokens.assign(static_cast<size_t>(batch) * steps, config.pad_id);
  out.lengths.assign(batch, 0);
  if (options.keep_logits) out.logits = Matrix(static_cast<int64_t>(steps) * batch, config.vocab);

  const std::span<const int32_t> eos(&config.eos_id, options.stop_at_eos ? 1 : 0);
  const EndRule rule{.eos_ids = eos, .pad_id = config.pad_id};
  std::vector<int32_t> input(batch, config.decoder_start_id);
  std::vector<bool> ended(batch, false);
  for (int step = 0; step < steps && std::find(ended.begin(), ended.end(), false) != ended.end(); ++step) {
    const Matrix logits = decoder_step(config, w.decoder, state, input);
    if (options.keep_logits) {
      const Matrix whole = whole_logits(logits, config, options.numerics.ranks);
      std::copy(whole.values.begin(), whole.values.end(), out.logits.row(static_cast<int64_t>(step) * batch));
    }
    const std::vector<NextToken> next =
        greedy_tokens(logits, ended, rule, vocabulary_part(config, options.numerics.ranks));
    for (int b = 0; b < batch; ++b) {
      input[b] = next[b].id;
      out.tokens[static_cast<size_t>(b) * steps + step] = next[b].id;
      out.lengths[b] += ended[b] ? 0 : 1;
      ended[b] = next[b].ended;
    }
    if (options.progress) options.progress(step);
  }
  return out;
}

Matrix forced_logits(const ModelConfig& config, const ModelWeights& w, const TransformerBatch& source,
                     std::span<const int32_t> tokens, int steps, const Numerics& numerics) {
  expect_tokens(source, tokens, steps);
  const int batch = source.size();
  const Matrix encoded = encoder_forward(config, w.encoder, source, numerics);
  DecoderState state = start_decoder(config, w.decoder, source, encoded, steps, numerics);

  Matrix out(static_cast<int64_t>(steps) * batch, config.vocab);
  std::vector<int32_t> input(batch);
  for (int step = 0; step < steps; ++step) {
    for (int b = 0; b < batch; ++b) input[b] = tokens[static_cast<size_t>(b) * steps + step];
    const Matrix logits = whole_logits(decoder_step(config, w.decoder, state, input), config, numerics.ranks);
    std::copy(logits.values.begin(), logits.values.end(), out.row(static_cast<int64_t>(step) * batch));
  }
  return out;
}

Matrix forced_logits_uncached(const ModelConfig& config, const ModelWeights& w,
                              const TransformerBatch& source, std::span<const int32_t> tokens, int steps,
                              const Numerics& numerics) {
  expect_tokens(source, tokens, steps);
  const int batch = source.size();
  TransformerBatch target{.lengths = std::vector<int32_t>(batch, steps),
                          .offsets = {0},
                          .ids = std::vector<int32_t>(tokens.begin(), tokens.end()),
                          .longest = steps};
  for (int b = 0; b < batch; ++b) target.offsets.push_back((b + 1) * steps);
  const Matrix encoded = encoder_forward(config, w.encoder, source, numerics);
  const Matrix packed = whole_logits(decoder_full(config, w.decoder, source, encoded, target, numerics),
                                     config, numerics.ranks);

  Matrix out(packed.rows, packed.cols);
  for (int b = 0; b < batch; ++b) {
    for (int step = 0; step < steps; ++step) {
      std::copy_n(packed.row(target.offsets[b] + step), packed.cols,
                  out.row(static_cast<int64_t>(step) * batch + b));
    }
  }
  return out;
}

}  // namespace tandem::reference
