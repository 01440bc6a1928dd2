#include "reference/ops/embedding.h"

#include <fmt/format.h>

#include <cmath>

#include "harness/base/error.h"

namespace tandem::reference {

double sinusoid(const ModelConfig& config, int64_t position, int64_t channel) {
  const int64_t half = config.d_model / 2;
  const bool interleaved = config.position == Position::kSinusoidal;
  const int64_t i = interleaved ? channel / 2 : channel % half;
  const bool is_sine = interleaved ? channel % 2 == 0 : channel < half;
  const int64_t steps = config.sinusoid_spans_end ? half - 1 : half;  // from frequency 1 to 1/10000
  const double angle =
      static_cast<double>(position) / std::pow(10000.0, static_cast<double>(i) / static_cast<double>(steps));
  return is_sine ? std::sin(angle) : std::cos(angle);
}

namespace {

double position_encoding(const ModelConfig& config, MatrixView table, int64_t position, int64_t channel) {
  switch (config.position) {
    case Position::kSinusoidal:
    case Position::kSinusoidalHalves:
      return sinusoid(config, position, channel);
    case Position::kLearned:
      return table.row(position)[channel];
    case Position::kNone:
    case Position::kRelative:
      break;
  }
  return 0;
}

}  // namespace

Matrix embed(const ModelConfig& config, const EmbeddingParams& p) {
  const auto tokens = static_cast<int64_t>(p.ids.size());
  expect_shape(p.table, p.table.rows, config.d_model, "embedding table");
  if (p.positions.size() != p.ids.size()) {
    throw Error(fmt::format("embedding: {} ids but {} positions", p.ids.size(), p.positions.size()));
  }
  const int64_t vocab = p.first_id ? config.vocab : p.table.rows;
  Matrix x(tokens, config.d_model);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t id = p.ids[t];
    if (id < 0 || id >= vocab)
      throw Error(fmt::format("token id {} is outside the vocabulary of {}", id, vocab));
    const int64_t position = p.positions[t] + config.position_offset;
    if (config.position == Position::kLearned && (position < 0 || position >= p.position_table.rows)) {
      throw Error(fmt::format("position {} is outside the learned table of {} rows", position,
                              p.position_table.rows));
    }
    const int64_t at = id - p.first_id.value_or(0);
    if (at < 0 || at >= p.table.rows) continue;
    const float* row = p.table.row(at);
    for (int64_t i = 0; i < config.d_model; ++i) {
      x.row(t)[i] = static_cast<float>(config.embedding_scale * row[i] +
                                       position_encoding(config, p.position_table, position, i));
    }
  }
  return x;
}

}  // namespace tandem::reference
