#include "harness/model/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/model/convert.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSingle = "model.safetensors";

json read_json(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw IoError(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
  try {
    return parse_json(text.view());
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path.string(), e.what()));
  }
}

/// Runs `body`; what it throws names the file.
template <typename Body>
auto about(const fs::path& path, Body&& body) {
  try {
    return body();
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path.string(), e.what()));
  }
}

/// The weight files an index names, after checking that it is one.
std::set<std::string> indexed_files(const fs::path& path, const json& index) {
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    throw UsageError(fmt::format("{}: weight_map: missing, empty or not an object", path.string()));
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    // A plain name: an index must not lead out of its folder.
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      throw UsageError(fmt::format("{}: weight_map: '{}': {} is not a file of this folder", path.string(),
                                   tensor, shown(file)));
    }
    files.insert(file.get<std::string>());
  }
  return files;
}

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  const std::vector<std::string> some(names.begin(),
                                      names.begin() + static_cast<ptrdiff_t>(std::min(kShown, names.size())));
  std::string text = fmt::format("{}", fmt::join(some, ", "));
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

/// Marian's checkpoints may carry the tables that its positions are computed from, and transformers reads them. Throws
/// when one is another table than the computed one (in 16 bits it is rounded).
void expect_sinusoids(const std::string& name, const StoredTensor& t, const ModelConfig& c) {
  constexpr double kRounding = 5e-3;
  const auto refuse = [&](const std::string& why) {
    throw UsageError(
        fmt::format("{}: tensor {} is not the sinusoidal table of config.json: {}", t.file, name, why));
  };
  if (t.shape != std::vector<int64_t>{c.max_positions, c.d_model} || !t.float_type()) {
    refuse(fmt::format("{} {}", t.dtype, shape_text(t.shape)));
  }
  std::vector<float> values(t.size());
  convert_values({.from = t.bytes.data(),
                  .from_type = *t.float_type(),
                  .to = reinterpret_cast<std::byte*>(values.data()),
                  .to_type = DType::kF32,
                  .count = t.size()});
  const int half = c.d_model / 2;
  for (int64_t i = 0; i < t.size(); ++i) {
    const int64_t channel = i % c.d_model, pair = channel % half;
    const double angle = static_cast<double>(i / c.d_model) / std::pow(10000.0, 2.0 * pair / c.d_model);
    const double expected = channel < half ? std::sin(angle) : std::cos(angle);
    if (!(std::abs(values[i] - expected) < kRounding)) {
      refuse(fmt::format("[{}, {}] is {}", i / c.d_model, channel, values[i]));
    }
  }
}

bool equal(const StoredTensor& a, const StoredTensor& b) {
  if (&a == &b) return true;
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

}  // namespace

Checkpoint::Checkpoint(const std::string& folder) : folder_(folder) {
  const fs::path root(folder);
  const fs::path config_path = root / "config.json";
  const fs::path generation_path = root / "generation_config.json";
  const json config = read_json(config_path);
  const json generation = fs::exists(generation_path) ? read_json(generation_path) : json();

  family_ = about(config_path, [&] { return read_family(config); });
  config_ = about(config_path, [&] { return read_hf_config(family_, config); });
  config_.name = fs::path(root.filename().empty() ? root.parent_path() : root).filename().string();
  if (config_.name.empty()) config_.name = family_name(family_);
  generation_ = about(generation.is_null() ? config_path : generation_path,
                      [&] { return read_generation(generation, config, config_.vocab, is_t5(family_)); });
  config_.decoder_start_id = generation_.decoder_start_id;
  config_.pad_id = generation_.pad_id;
  config_.eos_id = generation_.eos_ids.front();
  about(config_path, [&] { check(config_); });

  open_files();
  const bool prefixed = std::any_of(tensors_.begin(), tensors_.end(),
                                    [](const auto& t) { return t.first.starts_with("model."); });
  const std::string prefix = prefixed ? "model." : "";
  const auto tie = config.find("tie_word_embeddings");
  resolve_tables(prefix, tie == config.end() || !tie->is_boolean() || tie->get<bool>());
  match(prefix);
}

void Checkpoint::open_files() {
  const fs::path root(folder_);
  std::set<std::string> names;
  json index;
  if (fs::exists(root / kIndex)) {
    index = read_json(root / kIndex);
    names = indexed_files(root / kIndex, index);
  } else if (fs::exists(root / kSingle)) {
    names.insert(kSingle);
  } else {
    for (const auto& entry : fs::directory_iterator(root)) {
      if (entry.path().extension() == ".safetensors") names.insert(entry.path().filename().string());
    }
    if (names.size() > 1) {
      throw UsageError(fmt::format("{}: {} *.safetensors files and no {}", folder_, names.size(), kIndex));
    }
  }
  if (names.empty()) {
    throw UsageError(fmt::format("{}: no {} and no {} in it", folder_, kSingle, kIndex));
  }
  for (const std::string& name : names) {
    const auto& file = *files_.emplace_back(std::make_unique<SafetensorsFile>((root / name).string()));
    for (const auto& [tensor, stored] : file.tensors()) {
      const auto [at, fresh] = tensors_.emplace(tensor, &stored);
      if (!fresh) {
        throw UsageError(fmt::format("{}: tensor '{}' is in {} too", stored.file, tensor, at->second->file));
      }
    }
  }
  if (index.is_null()) return;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    const StoredTensor* stored = find(tensor);
    if (stored == nullptr || stored->file != (root / file.get<std::string>()).string()) {
      throw UsageError(fmt::format("{}: weight_map: '{}' is not in {}", (root / kIndex).string(), tensor,
                                   file.get<std::string>()));
    }
  }
}

const StoredTensor* Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

// Embeddings and head: which tables there are, and which of them are one.
void Checkpoint::resolve_tables(const std::string& prefix, bool tied) {
  const TableNames names = hf_tables(family_, prefix);
  const auto first = [&](std::initializer_list<std::string> candidates) -> Source {
    for (const std::string& name : candidates) {
      if (const StoredTensor* tensor = find(name)) return {name, tensor};
    }
    throw UsageError(fmt::format("{}: missing tensor {}", folder_, names.shared));
  };
  // Writers keep any one of a set of tied tables, so that each may stand for the others.
  const Source encoder = first({names.encoder, names.shared, names.decoder, names.head});
  const Source decoder = first({names.decoder, names.shared, names.head, names.encoder});
  const StoredTensor* head = find(names.head);
  if (head == nullptr && !tied && !is_t5(family_)) {
    throw UsageError(
        fmt::format("{}: missing tensor {}, and config.json does not tie it", folder_, names.head));
  }
  config_.shared_embeddings = equal(*encoder.tensor, *decoder.tensor);
  config_.tied_head = head == nullptr || equal(*head, *decoder.tensor);
  config_.head_bias = !is_t5(family_) && find("final_logits_bias") != nullptr;
  if (config_.shared_embeddings) {
    sources_["shared.embedding"] = encoder;
  } else {
    sources_["encoder.embedding"] = encoder;
    sources_["decoder.embedding"] = decoder;
  }
  if (!config_.tied_head) sources_["head.weight"] = {names.head, head};
}

void Checkpoint::match(const std::string& prefix) {
  const WeightLayout layout =
      about(fs::path(folder_) / "config.json", [&] { return weight_layout(config_); });
  const TableNames tables = hf_tables(family_, prefix);
  std::set<std::string> used = {tables.shared, tables.encoder, tables.decoder, tables.head};
  std::vector<std::string> missing;
  for (const TensorSpec& spec : layout.tensors) {
    if (!sources_.contains(spec.name)) {
      const std::string name = hf_name(family_, prefix, spec.name, config_.gated);
      sources_[spec.name] = {name, find(name)};
    }
    const Source& source = sources_[spec.name];
    used.insert(source.name);
    if (source.tensor == nullptr) {
      missing.push_back(source.name);
      continue;
    }
    const StoredTensor& t = *source.tensor;
    const bool vector = spec.rows == 1 && (t.shape == std::vector<int64_t>{spec.cols} ||
                                           t.shape == std::vector<int64_t>{1, spec.cols});
    if (!vector && t.shape != std::vector<int64_t>{spec.rows, spec.cols}) {
      throw UsageError(fmt::format("{}: tensor {}: shape {} is not [{}, {}], which config.json makes it",
                                   t.file, source.name, shape_text(t.shape), spec.rows, spec.cols));
    }
    if (!t.float_type()) {
      throw UsageError(
          fmt::format("{}: tensor {}: dtype {} is not F32, F16 or BF16", t.file, source.name, t.dtype));
    }
  }
  if (!missing.empty()) {
    throw UsageError(fmt::format("{}: {} missing tensor(s): {}", folder_, missing.size(), listed(missing)));
  }
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : tensors_) {
    if (used.contains(name)) continue;
    if (!hf_ignored(family_, name)) {
      unused.push_back(name);
    } else if (family_ == Family::kMarian && name.ends_with("embed_positions.weight")) {
      expect_sinusoids(name, *tensor, config_);
    }
  }
  if (!unused.empty()) {
    throw UsageError(fmt::format("{}: {} tensor(s) that {} does not use: {}", folder_, unused.size(),
                                 family_name(family_), listed(unused)));
  }
}

std::vector<std::string> Checkpoint::read(const WeightLayout& layout, DType dtype,
                                          std::span<std::byte> arena) const {
  const int64_t bytes = layout.elements * dtype_bytes(dtype);
  if (static_cast<int64_t>(arena.size()) != bytes) {
    throw Error(fmt::format("{}: an arena of {} bytes for {}", folder_, arena.size(), bytes));
  }
  std::vector<std::string> with_nan;
  int64_t end = 0;
  const auto clear_to = [&](int64_t offset) {
    std::memset(arena.data() + end * dtype_bytes(dtype), 0, (offset - end) * dtype_bytes(dtype));
  };
  for (const TensorSpec& spec : layout.tensors) {
    const auto found = sources_.find(spec.name);
    if (found == sources_.end()) throw Error(fmt::format("{}: has no '{}'", folder_, spec.name));
    const StoredTensor& t = *found->second.tensor;
    const bool rows_fit = spec.rows > 1 && t.shape.size() == 2 && t.shape[1] == spec.cols;
    if (spec.size() > t.size() || (spec.rows > 1 && !rows_fit)) {
      throw Error(fmt::format("{}: '{}' of shape {} has no [{}, {}]", folder_, spec.name, shape_text(t.shape),
                              spec.rows, spec.cols));
    }
    clear_to(spec.offset);
    const bool nan = convert_values({.from = t.bytes.data(),
                                     .from_type = *t.float_type(),
                                     .to = arena.data() + spec.offset * dtype_bytes(dtype),
                                     .to_type = dtype,
                                     .count = spec.size()});
    if (nan) with_nan.push_back(found->second.name);
    end = spec.offset + spec.size();
  }
  clear_to(layout.elements);
  return with_nan;
}

std::vector<std::string> nan_warnings(const std::string& folder, const std::vector<std::string>& names) {
  std::vector<std::string> lines;
  for (const std::string& name : names) {
    lines.push_back(fmt::format("warning: {}: tensor {} holds NaN", folder, name));
  }
  return lines;
}

}  // namespace tandem
