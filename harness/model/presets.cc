// The presets: shapes and conventions as published. Sources: Vaswani et al. 2017, table 3 (transformer-*);
// the config files of the Hugging Face checkpoints named beside each (marian, bart, t5, flan-t5, m2m100,
// nllb).
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <utility>

#include "harness/base/error.h"
#include "harness/model/config.h"

namespace tandem {
namespace {

struct Shape {
  int d_model;
  int layers;  ///< on each side
  int heads;
  int head_dim;
  int d_ff;
  int vocab;
};

ModelConfig shaped(const Shape& shape) {
  ModelConfig c;
  c.d_model = shape.d_model;
  c.head_dim = shape.head_dim;
  c.encoder = c.decoder = {.layers = shape.layers, .heads = shape.heads, .d_ff = shape.d_ff};
  c.vocab = shape.vocab;
  c.attention_scale = 1 / std::sqrt(shape.head_dim);
  return c;
}

// Post-norm, relu, interleaved sinusoids, one table for both embeddings and the head.
ModelConfig transformer(const Shape& shape) {
  ModelConfig c = shaped(shape);
  c.embedding_scale = std::sqrt(shape.d_model);
  return c;
}

// Helsinki-NLP/opus-mt-en-de: post-norm, swish, sinusoids in halves, pad is the last id and starts the
// decoder.
ModelConfig marian(const Shape& shape) {
  ModelConfig c = transformer(shape);
  c.activation = Activation::kSilu;
  c.position = Position::kSinusoidalHalves;
  c.max_positions = 512;
  c.head_bias = true;
  c.eos_id = 0;
  c.pad_id = c.decoder_start_id = shape.vocab - 1;
  return c;
}

// facebook/bart-base, facebook/bart-large.
ModelConfig bart(const Shape& shape) {
  ModelConfig c = shaped(shape);
  c.activation = Activation::kGelu;
  c.position = Position::kLearned;
  c.max_positions = 1024;
  c.position_offset = 2;
  c.embedding_norm = true;
  c.head_bias = true;
  c.pad_id = 1;
  c.eos_id = c.decoder_start_id = 2;
  return c;
}

// t5-small, t5-base, t5-large, t5-3b (v1.0). T5 does not divide scores by sqrt(head_dim).
ModelConfig t5(const Shape& shape) {
  ModelConfig c = shaped(shape);
  c.norm = Norm::kRms;
  c.placement = NormPlacement::kPre;
  c.final_norm = true;
  c.norm_eps = 1e-6;
  c.position = Position::kRelative;
  c.bias = false;
  c.attention_scale = 1;
  c.head_scale = 1 / std::sqrt(shape.d_model);
  return c;
}

// google/flan-t5-base, google/flan-t5-xl (T5 v1.1): gated, own head without a scale.
ModelConfig flan_t5(const Shape& shape) {
  ModelConfig c = t5(shape);
  c.activation = Activation::kGeluTanh;
  c.gated = true;
  c.tied_head = false;
  c.head_scale = 1;
  return c;
}

// facebook/m2m100_418M and facebook/nllb-200-*: pre-norm, relu, fairseq's sinusoids (first position is pad +
// 1 = 2).
ModelConfig m2m100(const Shape& shape) {
  ModelConfig c = shaped(shape);
  c.placement = NormPlacement::kPre;
  c.final_norm = true;
  c.position = Position::kSinusoidalHalves;
  c.max_positions = 1024;
  c.position_offset = 2;
  c.sinusoid_spans_end = true;
  c.embedding_scale = std::sqrt(shape.d_model);
  c.pad_id = 1;
  c.eos_id = c.decoder_start_id = 2;
  return c;
}

struct Preset {
  std::string name;
  std::function<ModelConfig(const Shape&)> family;
  Shape shape;  ///< d_model, layers, heads, head_dim, d_ff, vocab
};

const std::vector<Preset>& presets() {
  static const std::vector<Preset> table = {
      {"transformer-base", transformer, {512, 6, 8, 64, 2048, 32000}},
      {"transformer-big", transformer, {1024, 6, 16, 64, 4096, 32000}},
      {"marian-base", marian, {512, 6, 8, 64, 2048, 58101}},
      {"bart-base", bart, {768, 6, 12, 64, 3072, 50265}},
      {"bart-large", bart, {1024, 12, 16, 64, 4096, 50265}},
      {"t5-small", t5, {512, 6, 8, 64, 2048, 32128}},
      {"t5-base", t5, {768, 12, 12, 64, 3072, 32128}},
      {"t5-large", t5, {1024, 24, 16, 64, 4096, 32128}},
      {"t5-3b", t5, {1024, 24, 32, 128, 16384, 32128}},
      {"flan-t5-base", flan_t5, {768, 12, 12, 64, 2048, 32128}},
      {"flan-t5-xl", flan_t5, {2048, 24, 32, 64, 5120, 32128}},
      {"m2m100-418m", m2m100, {1024, 12, 16, 64, 4096, 128112}},
      {"nllb-600m", m2m100, {1024, 12, 16, 64, 4096, 256206}},
      {"nllb-1.3b", m2m100, {1024, 24, 16, 64, 8192, 256206}},
      {"nllb-3.3b", m2m100, {2048, 24, 16, 128, 8192, 256206}},
      {"tiny", transformer, {64, 2, 4, 16, 128, 256}},
  };
  return table;
}

}  // namespace

const std::vector<std::string>& preset_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Preset& p : presets()) all.push_back(p.name);
    return all;
  }();
  return names;
}

ModelConfig preset(std::string_view name) {
  for (const Preset& p : presets()) {
    if (p.name != name) continue;
    ModelConfig config = p.family(p.shape);
    config.name = p.name;
    return config;
  }
  throw UsageError(
      fmt::format("model: '{}' is not a preset ({}), the path of a JSON file, or a checkpoint folder", name,
                  fmt::join(preset_names(), " ")));
}

}  // namespace tandem
