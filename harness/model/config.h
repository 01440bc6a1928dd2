// One config-driven encoder-decoder covers the families; a family is data, not a class.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace tandem {

enum class Norm : uint8_t { kLayer, kRms };
enum class NormPlacement : uint8_t { kPre, kPost };
enum class Position : uint8_t {
  kNone,
  kSinusoidal,        ///< interleaved sin, cos (Vaswani et al. 2017, section 3.5)
  kSinusoidalHalves,  ///< [all sin, all cos], as Marian and M2M100 store them
  kLearned,           ///< a table with position_offset leading rows that are never used (BART: 2)
  kRelative,          ///< T5 buckets, added to self-attention scores only
};
enum class Activation : uint8_t { kRelu, kGelu, kGeluTanh, kSilu, kTanh, kSigmoid };

/// Sizes of one side. Encoder and decoder may differ.
struct StackConfig {
  int layers = 6;
  int heads = 8;
  int d_ff = 2048;

  bool operator==(const StackConfig&) const = default;
};

struct ModelConfig {
  std::string name = "custom";
  int d_model = 512;
  int head_dim = 64;  ///< heads * head_dim ("inner") may differ from d_model (T5-3B)
  StackConfig encoder;
  StackConfig decoder;
  int vocab = 32000;

  Norm norm = Norm::kLayer;
  NormPlacement placement = NormPlacement::kPost;
  bool final_norm = false;      ///< a norm after the last layer of each side
  bool embedding_norm = false;  ///< BART: a norm right after embedding + position
  double norm_eps = 1e-5;

  Position position = Position::kSinusoidal;
  int max_positions = 1024;  ///< rows a position table can serve; kRelative and kNone have no such limit
  int position_offset =
      0;  ///< learned: table row of position 0; sinusoidal: added to the position (M2M100: 2)
  /// Sinusoidal, pair i of d/2: the angle of position p is p * 10000^(-i / (d/2)) as in the paper and Marian,
  /// or, when true, p * 10000^(-i / (d/2 - 1)) as fairseq and M2M100 have it.
  bool sinusoid_spans_end = false;
  int relative_buckets = 32;
  int relative_max_distance = 128;

  Activation activation = Activation::kRelu;
  bool gated = false;      ///< FFN(x) = (act(x Wgate) * (x Wup)) Wdown
  bool bias = true;        ///< on every projection of attention and FFN
  bool head_bias = false;  ///< final_logits_bias

  double attention_scale = 0.125;  ///< scores are q.k * this; 1/sqrt(head_dim), or 1 for T5
  double embedding_scale = 1.0;    ///< sqrt(d_model) or 1
  double head_scale = 1.0;         ///< tied head of T5 v1.0: d_model^-0.5
  bool shared_embeddings = true;   ///< encoder and decoder read one table
  bool tied_head = true;           ///< the head is the decoder's embedding table

  int pad_id = 0;
  int eos_id = 1;
  int decoder_start_id = 0;

  bool operator==(const ModelConfig&) const = default;
  int inner(const StackConfig& side) const { return side.heads * head_dim; }
};

/// Names of the presets, in the order `tandem list` and the README show them.
const std::vector<std::string>& preset_names();
/// A preset by name; throws UsageError that names the allowed ones.
ModelConfig preset(std::string_view name);
/// `spec` is a preset's name, the path of a JSON file with the fields above (see to_json), or a checkpoint folder
/// (checkpoint_folder.h). A path has a '/' or ends in .json. Throws UsageError, and IoError for a file that cannot be read.
ModelConfig load_model(const std::string& spec);
/// Throws UsageError naming the field and what is allowed.
void check(const ModelConfig& config);

/// Every field by its name, enumerations by the words below. from_json refuses an unknown key; a missing key
/// keeps the default of ModelConfig, except attention_scale (1/sqrt(head_dim)). Throws UsageError.
void to_json(nlohmann::json& j, const ModelConfig& config);
void from_json(const nlohmann::json& j, ModelConfig& config);

std::string_view norm_name(Norm);                // layer rms
std::string_view placement_name(NormPlacement);  // pre post
std::string_view position_name(Position);        // none sinusoidal sinusoidal_halves learned relative
std::string_view activation_name(Activation);    // relu gelu gelu_tanh silu tanh sigmoid

}  // namespace tandem
