#include "harness/model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <concepts>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <type_traits>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/model/checkpoint_folder.h"
#include "harness/model/model_spec.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, 2> kNormNames = {"layer", "rms"};
constexpr std::array<std::string_view, 2> kPlacementNames = {"pre", "post"};
constexpr std::array<std::string_view, 5> kPositionNames = {"none", "sinusoidal", "sinusoidal_halves",
                                                            "learned", "relative"};
constexpr std::array<std::string_view, 6> kActivationNames = {"relu", "gelu", "gelu_tanh",
                                                              "silu", "tanh", "sigmoid"};

const auto& names_of(Norm) {
  return kNormNames;
}
const auto& names_of(NormPlacement) {
  return kPlacementNames;
}
const auto& names_of(Position) {
  return kPositionNames;
}
const auto& names_of(Activation) {
  return kActivationNames;
}

// Every field once: reading, writing and the list of allowed keys all come from here.
template <typename Config, typename Visit>
requires std::same_as<std::remove_const_t<Config>, StackConfig>
void each_field(Config& c, Visit&& visit) {
  visit("layers", c.layers);
  visit("heads", c.heads);
  visit("d_ff", c.d_ff);
}

template <typename Config, typename Visit>
requires std::same_as<std::remove_const_t<Config>, ModelConfig>
void each_field(Config& c, Visit&& visit) {
  visit("name", c.name);
  visit("d_model", c.d_model);
  visit("head_dim", c.head_dim);
  visit("encoder", c.encoder);
  visit("decoder", c.decoder);
  visit("vocab", c.vocab);
  visit("norm", c.norm);
  visit("placement", c.placement);
  visit("final_norm", c.final_norm);
  visit("embedding_norm", c.embedding_norm);
  visit("norm_eps", c.norm_eps);
  visit("position", c.position);
  visit("max_positions", c.max_positions);
  visit("position_offset", c.position_offset);
  visit("sinusoid_spans_end", c.sinusoid_spans_end);
  visit("relative_buckets", c.relative_buckets);
  visit("relative_max_distance", c.relative_max_distance);
  visit("activation", c.activation);
  visit("gated", c.gated);
  visit("bias", c.bias);
  visit("head_bias", c.head_bias);
  visit("attention_scale", c.attention_scale);
  visit("embedding_scale", c.embedding_scale);
  visit("head_scale", c.head_scale);
  visit("shared_embeddings", c.shared_embeddings);
  visit("tied_head", c.tied_head);
  visit("pad_id", c.pad_id);
  visit("eos_id", c.eos_id);
  visit("decoder_start_id", c.decoder_start_id);
}

template <typename Config>
nlohmann::json write(const Config& config) {
  nlohmann::json j = nlohmann::json::object();
  each_field(config, [&](const char* key, const auto& value) {
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::is_enum_v<T>) {
      j[key] = names_of(value).at(static_cast<size_t>(value));
    } else if constexpr (std::same_as<T, StackConfig>) {
      j[key] = write(value);
    } else {
      j[key] = value;
    }
  });
  return j;
}

[[noreturn]] void refuse(const std::string& field, const nlohmann::json& got, std::string_view allowed) {
  throw UsageError(fmt::format("model: {}: {} is not {}", field, shown(got), allowed));
}

template <typename Config>
void read(const nlohmann::json& j, const std::string& prefix, Config& config) {
  if (!j.is_object()) refuse(prefix.empty() ? "config" : prefix.substr(0, prefix.size() - 1), j, "an object");
  std::vector<std::string> keys;
  each_field(config, [&](const char* key, auto& value) {
    using T = std::remove_cvref_t<decltype(value)>;
    keys.emplace_back(key);
    const auto found = j.find(key);
    if (found == j.end()) return;
    const std::string field = prefix + key;
    if constexpr (std::is_enum_v<T>) {
      const auto& names = names_of(value);
      const auto at = found->is_string()
                          ? std::find(names.begin(), names.end(), found->template get<std::string>())
                          : names.end();
      if (at == names.end()) refuse(field, *found, fmt::format("one of {}", fmt::join(names, " ")));
      value = static_cast<T>(at - names.begin());
    } else if constexpr (std::same_as<T, StackConfig>) {
      read(*found, field + ".", value);
    } else if constexpr (std::same_as<T, std::string>) {
      if (!found->is_string()) refuse(field, *found, "a string");
      value = found->template get<std::string>();
    } else if constexpr (std::same_as<T, bool>) {
      if (!found->is_boolean()) refuse(field, *found, "true or false");
      value = found->template get<bool>();
    } else if constexpr (std::same_as<T, double>) {
      if (!found->is_number()) refuse(field, *found, "a number");
      value = found->template get<double>();
    } else {
      static_assert(std::same_as<T, int>);
      const bool fits = found->is_number_integer() && std::abs(found->template get<double>()) < 2147483648.0;
      if (!fits) refuse(field, *found, "an integer of 32 bits");
      value = found->template get<int>();
    }
  });
  for (const auto& item : j.items()) {
    if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
      throw UsageError(
          fmt::format("model: unknown field '{}{}'; allowed: {}", prefix, item.key(), fmt::join(keys, " ")));
    }
  }
}

template <typename T>
void require(bool ok, std::string_view field, const T& value, std::string_view allowed) {
  if (!ok) throw UsageError(fmt::format("model: {}: {} is not {}", field, value, allowed));
}

// Large enough for any model, small enough that no count of elements leaves 63 bits.
constexpr int kMaxSize = 1 << 22;
constexpr int kMaxLayers = 1024;

void check_size(std::string_view field, int value) {
  require(value >= 1 && value <= kMaxSize, field, value, fmt::format("between 1 and {}", kMaxSize));
}

void check_stack(std::string_view side, const StackConfig& stack) {
  const std::string layers = fmt::format("{}.layers", side);
  require(stack.layers >= 1 && stack.layers <= kMaxLayers, layers, stack.layers,
          fmt::format("between 1 and {}", kMaxLayers));
  check_size(fmt::format("{}.heads", side), stack.heads);
  check_size(fmt::format("{}.d_ff", side), stack.d_ff);
}

}  // namespace

std::string_view norm_name(Norm norm) {
  return kNormNames.at(static_cast<size_t>(norm));
}
std::string_view placement_name(NormPlacement p) {
  return kPlacementNames.at(static_cast<size_t>(p));
}
std::string_view position_name(Position position) {
  return kPositionNames.at(static_cast<size_t>(position));
}
std::string_view activation_name(Activation a) {
  return kActivationNames.at(static_cast<size_t>(a));
}

void check(const ModelConfig& c) {
  require(!c.name.empty(), "name", "''", "a name");
  check_size("d_model", c.d_model);
  check_size("head_dim", c.head_dim);
  check_stack("encoder", c.encoder);
  check_stack("decoder", c.decoder);
  const int64_t inner = int64_t{c.head_dim} * std::max(c.encoder.heads, c.decoder.heads);
  require(inner <= kMaxSize, "heads * head_dim", inner, fmt::format("at most {}", kMaxSize));
  check_size("vocab", c.vocab);
  require(c.norm_eps > 0 && c.norm_eps < 1, "norm_eps", c.norm_eps, "between 0 and 1");

  check_size("max_positions", c.max_positions);
  require(c.position_offset >= 0 && c.position_offset <= kMaxSize, "position_offset", c.position_offset,
          "0 or more");
  if (c.position == Position::kSinusoidal || c.position == Position::kSinusoidalHalves) {
    require(c.d_model % 2 == 0 && c.d_model >= 4, "d_model", c.d_model,
            "even and at least 4 (sinusoidal positions)");
  }
  if (c.position == Position::kRelative) {
    const int buckets = c.relative_buckets;
    require(buckets >= 4 && buckets % 4 == 0 && buckets <= 1024, "relative_buckets", buckets,
            "a multiple of 4 between 4 and 1024");
    require(c.relative_max_distance > buckets / 2 && c.relative_max_distance <= kMaxSize,
            "relative_max_distance", c.relative_max_distance,
            fmt::format("more than relative_buckets / 2 = {}", buckets / 2));
  }

  for (const auto& [field, scale] :
       {std::pair{"attention_scale", c.attention_scale}, std::pair{"embedding_scale", c.embedding_scale},
        std::pair{"head_scale", c.head_scale}}) {
    require(scale > 0 && std::isfinite(scale), field, scale, "positive and finite");
  }
  for (const auto& [field, id] : {std::pair{"pad_id", c.pad_id}, std::pair{"eos_id", c.eos_id},
                                  std::pair{"decoder_start_id", c.decoder_start_id}}) {
    require(id >= 0 && id < c.vocab, field, id, fmt::format("between 0 and vocab - 1 = {}", c.vocab - 1));
  }
}

std::optional<int> position_limit(const ModelConfig& config) {
  const bool table = config.position == Position::kLearned ||
                     (config.position == Position::kSinusoidalHalves && !config.sinusoid_spans_end);
  return table ? std::optional(config.max_positions) : std::nullopt;
}

void to_json(nlohmann::json& j, const ModelConfig& config) {
  j = write(config);
}

void from_json(const nlohmann::json& j, ModelConfig& config) {
  ModelConfig result;
  read(j, "", result);
  if (!j.contains("attention_scale") && result.head_dim > 0)
    result.attention_scale = 1 / std::sqrt(result.head_dim);
  config = std::move(result);
}

bool is_model_path(const std::string& spec) {
  if (spec.find('/') != std::string::npos || spec.ends_with(".json")) return true;
  const auto& names = preset_names();
  return std::find(names.begin(), names.end(), spec) == names.end() && std::filesystem::is_directory(spec);
}

ModelConfig load_model(const std::string& spec) {
  if (!is_model_path(spec)) return preset(spec);
  if (std::filesystem::is_directory(spec)) return CheckpointFolder(spec).config();
  std::ifstream file(spec, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw IoError(fmt::format("model: cannot read {}: {}", spec, std::strerror(errno)));
  try {
    ModelConfig config = parse_json(text.view()).get<ModelConfig>();
    check(config);
    return config;
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", spec, e.what()));
  }
}

}  // namespace tandem
