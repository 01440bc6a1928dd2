#include "harness/model/hugging_face.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/json_text.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 6> kFamilyNames = {"t5", "mt5", "bart", "mbart", "marian", "m2m_100"};

[[noreturn]] void refuse(std::string_view field, const json& got, std::string_view allowed) {
  throw UsageError(fmt::format("config: {}: {} is not {}", field, shown(got), allowed));
}

const json* value(const json& config, const char* key) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() ? nullptr : &*found;
}

int integer(const json& config, const char* key) {
  const json* j = value(config, key);
  if (j == nullptr) throw UsageError(fmt::format("config: {}: missing", key));
  constexpr double kMost = 1 << 30;  // so that one more is an int too
  if (!j->is_number_integer()) refuse(key, *j, "an integer");
  if (std::abs(j->get<double>()) > kMost)
    refuse(key, *j, fmt::format("between {:.0f} and {:.0f}", -kMost, kMost));
  return j->get<int>();
}
int integer(const json& config, const char* key, int otherwise) {
  return value(config, key) == nullptr ? otherwise : integer(config, key);
}
// A field that is there and null is no field that is missing: transformers does not put its default there, and fails.
double number(const json& config, const char* key, double otherwise) {
  const auto j = config.find(key);
  if (j == config.end()) return otherwise;
  if (!j->is_number()) refuse(key, *j, "a number");
  return j->get<double>();
}
bool flag(const json& config, const char* key, bool otherwise) {
  const auto j = config.find(key);
  if (j == config.end()) return otherwise;
  if (!j->is_boolean()) refuse(key, *j, "true or false");
  return j->get<bool>();
}
std::string word(const json& config, const char* key, const std::string& otherwise) {
  const auto j = config.find(key);
  if (j == config.end()) return otherwise;
  if (!j->is_string()) refuse(key, *j, "a string");
  return j->get<std::string>();
}

Activation activation(const char* key, const std::string& name) {
  static const std::pair<std::string_view, Activation> kNames[] = {
      {"relu", Activation::kRelu},          {"gelu", Activation::kGelu},
      {"gelu_new", Activation::kGeluTanh},  {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh}, {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},         {"tanh", Activation::kTanh},
      {"sigmoid", Activation::kSigmoid}};
  for (const auto& [word, a] : kNames) {
    if (word == name) return a;
  }
  refuse(key, name, "relu gelu gelu_new gelu_pytorch_tanh gelu_fast silu swish tanh or sigmoid");
}

ModelConfig read_t5(Family family, const json& j) {
  ModelConfig c;
  c.d_model = integer(j, "d_model");
  c.head_dim = integer(j, "d_kv");
  c.vocab = integer(j, "vocab_size");
  const int heads = integer(j, "num_heads");
  const int d_ff = integer(j, "d_ff");
  c.encoder = {.layers = integer(j, "num_layers"), .heads = heads, .d_ff = d_ff};
  c.decoder = {.layers = integer(j, "num_decoder_layers", c.encoder.layers), .heads = heads, .d_ff = d_ff};
  c.norm = Norm::kRms;
  c.placement = NormPlacement::kPre;
  c.final_norm = true;
  c.norm_eps = number(j, "layer_norm_epsilon", 1e-6);
  c.position = Position::kRelative;
  c.relative_buckets = integer(j, "relative_attention_num_buckets", 32);
  c.relative_max_distance = integer(j, "relative_attention_max_distance", 128);
  c.bias = false;
  c.attention_scale = 1;

  // "gated-gelu" means the tanh form, as Google's checkpoints have it; "gelu" alone is the exact one.
  const std::string kind = word(j, "feed_forward_proj", family == Family::kMt5 ? "gated-gelu" : "relu");
  constexpr std::string_view kGated = "gated-";
  c.gated = kind.starts_with(kGated);
  const std::string name = c.gated ? kind.substr(kGated.size()) : kind;
  c.activation = kind == "gated-gelu" ? Activation::kGeluTanh : activation("feed_forward_proj", name);
  // What transformers writes beside feed_forward_proj counts where the two differ.
  if (j.contains("dense_act_fn")) c.activation = activation("dense_act_fn", word(j, "dense_act_fn", ""));
  c.gated = flag(j, "is_gated_act", c.gated);

  // v1.0 scales what enters the head. Its sign was tie_word_embeddings; transformers 5 writes its own field, and
  // true for the other whatever the model. mT5 never scales.
  const bool scaled =
      flag(j, "scale_decoder_outputs",
           value(j, "tie_word_embeddings") == nullptr || flag(j, "tie_word_embeddings", true));
  c.head_scale = family == Family::kT5 && scaled ? 1 / std::sqrt(static_cast<double>(c.d_model)) : 1;
  return c;
}

ModelConfig read_bart_like(Family family, const json& j) {
  ModelConfig c;
  c.d_model = integer(j, "d_model");
  c.vocab = integer(j, "vocab_size");
  c.encoder = {.layers = integer(j, "encoder_layers"),
               .heads = integer(j, "encoder_attention_heads"),
               .d_ff = integer(j, "encoder_ffn_dim")};
  c.decoder = {.layers = integer(j, "decoder_layers"),
               .heads = integer(j, "decoder_attention_heads"),
               .d_ff = integer(j, "decoder_ffn_dim")};
  for (const auto& [key, heads] : {std::pair{"encoder_attention_heads", c.encoder.heads},
                                   std::pair{"decoder_attention_heads", c.decoder.heads}}) {
    if (heads < 1 || c.d_model % heads != 0) {
      refuse(key, heads, fmt::format("a divisor of d_model = {}", c.d_model));
    }
  }
  c.head_dim = c.d_model / c.encoder.heads;
  if (c.decoder.heads != c.encoder.heads) {
    refuse(
        "decoder_attention_heads", c.decoder.heads,
        fmt::format("{}, the encoder's: sides with heads of two sizes are not supported", c.encoder.heads));
  }
  c.attention_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  c.embedding_scale =
      flag(j, "scale_embedding", family == Family::kM2m100) ? std::sqrt(static_cast<double>(c.d_model)) : 1;
  c.activation = activation("activation_function",
                            word(j, "activation_function", family == Family::kM2m100 ? "relu" : "gelu"));
  c.max_positions = integer(j, "max_position_embeddings", 1024);

  const bool marian = family == Family::kMarian;
  // Their embeddings have a row of their own for padding, whether or not anything is padded.
  constexpr int kMarianPad = 58100;
  if (const int pad = integer(j, "pad_token_id", marian ? kMarianPad : 1); pad >= c.vocab)
    refuse("pad_token_id", pad, fmt::format("an id below vocab_size = {}", c.vocab));
  const bool pre = family == Family::kMbart || family == Family::kM2m100;
  c.placement = pre ? NormPlacement::kPre : NormPlacement::kPost;
  c.final_norm = pre;
  if (marian || family == Family::kM2m100) {
    c.position = Position::kSinusoidalHalves;
    c.sinusoid_spans_end = !marian;
    // fairseq counts positions from pad + 1.
    c.position_offset = marian ? 0 : integer(j, "pad_token_id", 1) + 1;
  } else {
    c.position = Position::kLearned;
    c.position_offset = 2;
    c.embedding_norm = true;
  }
  if (marian && integer(j, "decoder_vocab_size", c.vocab) != c.vocab) {
    refuse("decoder_vocab_size", j["decoder_vocab_size"],
           fmt::format("vocab_size = {}: two vocabularies are not supported", c.vocab));
  }
  return c;
}

/// "encoder.layers.3.self.q.weight" -> side "encoder", layer 3, rest "self.q.weight"; layer -1 outside the layers.
struct Place {
  std::string side;
  int layer = -1;
  std::string rest;
};

Place place_of(const std::string& name) {
  Place p;
  const size_t dot = name.find('.');
  p.side = name.substr(0, dot);
  p.rest = name.substr(dot + 1);
  constexpr std::string_view kLayers = "layers.";
  if (p.rest.starts_with(kLayers)) {
    const size_t end = p.rest.find('.', kLayers.size());
    p.layer = std::stoi(p.rest.substr(kLayers.size(), end - kLayers.size()));
    p.rest = p.rest.substr(end + 1);
  }
  return p;
}

/// Replaces a leading `from` by `to`; false when there is none.
bool replace_front(std::string& text, std::string_view from, std::string_view to) {
  if (!text.starts_with(from)) return false;
  text = std::string(to) + text.substr(from.size());
  return true;
}
bool replace_back(std::string& text, std::string_view from, std::string_view to) {
  if (!text.ends_with(from)) return false;
  text = text.substr(0, text.size() - from.size()) + std::string(to);
  return true;
}

std::string t5_name(const Place& p, bool gated) {
  std::string rest = p.rest;
  if (p.layer < 0) {
    if (rest == "relative_bias") {
      return p.side + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    }
    return p.side + ".final_layer_norm.weight";  // final_norm.gamma, the only other
  }
  const int ffn = p.side == "encoder" ? 1 : 2;
  int sublayer = 0;
  if (replace_front(rest, "self_norm.gamma", "layer_norm.weight") ||
      replace_front(rest, "self.", "SelfAttention.")) {
    sublayer = 0;
  } else if (replace_front(rest, "cross_norm.gamma", "layer_norm.weight") ||
             replace_front(rest, "cross.", "EncDecAttention.")) {
    sublayer = 1;
  } else {
    sublayer = ffn;
    if (!replace_front(rest, "ffn_norm.gamma", "layer_norm.weight")) {
      replace_front(rest, "ffn.", "DenseReluDense.");
    }
  }
  replace_back(rest, ".out.weight", ".o.weight");
  replace_back(rest, ".gate.weight", ".wi_0.weight");
  replace_back(rest, ".up.weight", gated ? ".wi_1.weight" : ".wi.weight");
  replace_back(rest, ".down.weight", ".wo.weight");
  return fmt::format("{}.block.{}.layer.{}.{}", p.side, p.layer, sublayer, rest);
}

std::string bart_name(const std::string& prefix, const Place& p) {
  std::string rest = p.rest;
  replace_back(rest, ".gamma", ".weight");
  replace_back(rest, ".beta", ".bias");
  if (p.layer < 0) {
    if (rest == "position") rest = "embed_positions.weight";
    replace_front(rest, "embedding_norm.", "layernorm_embedding.");
    replace_front(rest, "final_norm.", "layer_norm.");
    return fmt::format("{}{}.{}", prefix, p.side, rest);
  }
  static const std::pair<std::string_view, std::string_view> kParts[] = {
      {"self_norm.", "self_attn_layer_norm."},
      {"cross_norm.", "encoder_attn_layer_norm."},
      {"ffn_norm.", "final_layer_norm."},
      {"ffn.up.", "fc1."},
      {"ffn.down.", "fc2."},
      {"self.q.", "self_attn.q_proj."},
      {"self.k.", "self_attn.k_proj."},
      {"self.v.", "self_attn.v_proj."},
      {"self.out.", "self_attn.out_proj."},
      {"cross.q.", "encoder_attn.q_proj."},
      {"cross.k.", "encoder_attn.k_proj."},
      {"cross.v.", "encoder_attn.v_proj."},
      {"cross.out.", "encoder_attn.out_proj."}};
  for (const auto& [ours, theirs] : kParts) {
    if (replace_front(rest, ours, theirs)) break;
  }
  return fmt::format("{}{}.layers.{}.{}", prefix, p.side, p.layer, rest);
}

// transformers' common names of fields, which it takes over the family's own where a file has both.
json with_family_names(Family family, json config) {
  using Names = std::vector<std::pair<const char*, const char*>>;
  static const Names kT5Names = {{"hidden_size", "d_model"},
                                 {"num_attention_heads", "num_heads"},
                                 {"num_hidden_layers", "num_layers"},
                                 {"head_dim", "d_kv"}};
  static const Names kBartNames = {{"hidden_size", "d_model"},
                                   {"num_attention_heads", "encoder_attention_heads"},
                                   {"num_hidden_layers", "encoder_layers"}};
  for (const auto& [common, own] : is_t5(family) ? kT5Names : kBartNames) {
    if (config.contains(common)) config[own] = config[common];
  }
  return config;
}

}  // namespace

std::string_view family_name(Family family) {
  return kFamilyNames.at(static_cast<size_t>(family));
}

Family read_family(const json& config) {
  if (!config.is_object()) throw UsageError("config: not a JSON object");
  if (const json* by = value(config, "quantization_config"); by != nullptr) {
    const json* method = by->is_object() ? value(*by, "quant_method") : nullptr;
    throw UsageError(
        fmt::format("config: quantization_config: weights that another tool quantised ({}) are not read; "
                    "take the checkpoint they were made of, "
                    "and axis precision",
                    method == nullptr ? "quant_method missing" : shown(*method)));
  }
  const json* type = value(config, "model_type");
  if (type == nullptr) throw UsageError("config: model_type: missing");
  const auto at = type->is_string()
                      ? std::find(kFamilyNames.begin(), kFamilyNames.end(), type->get<std::string>())
                      : kFamilyNames.end();
  if (at == kFamilyNames.end()) {
    refuse("model_type", *type, fmt::format("a supported family ({})", fmt::join(kFamilyNames, " ")));
  }
  return static_cast<Family>(at - kFamilyNames.begin());
}

ModelConfig read_hf_config(Family family, const json& file) {
  const json config = with_family_names(family, file);
  ModelConfig c = is_t5(family) ? read_t5(family, config) : read_bart_like(family, config);
  c.name = family_name(family);
  return c;
}

TableNames hf_tables(Family family, const std::string& prefix) {
  const std::string front = is_t5(family) ? "" : prefix;
  return {.shared = front + "shared.weight",
          .encoder = front + "encoder.embed_tokens.weight",
          .decoder = front + "decoder.embed_tokens.weight",
          .head = "lm_head.weight"};
}

std::string hf_name(Family family, const std::string& prefix, const std::string& name, bool gated) {
  if (name == "head.bias") return "final_logits_bias";
  return is_t5(family) ? t5_name(place_of(name), gated) : bart_name(prefix, place_of(name));
}

bool hf_ignored(Family family, std::string_view name) {
  if (is_t5(family)) {
    return name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
  }
  const bool computed = family == Family::kMarian || family == Family::kM2m100;
  if (computed && (name.ends_with("embed_positions.weight") || name.ends_with("embed_positions.weights"))) {
    return true;
  }
  return name.ends_with("encoder.version") || name.ends_with("decoder.version");
}

}  // namespace tandem
