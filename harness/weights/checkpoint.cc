#include "harness/weights/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "harness/base/error.h"
#include "harness/weights/convert.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

Checkpoint::Checkpoint(const std::string& folder) : folder_(folder), sources_(folder_.tables()) {
  const Family family = folder_.family();
  const ModelConfig& config = folder_.config();
  const WeightLayout layout =
      about_file((fs::path(folder) / "config.json").string(), [&] { return weight_layout(config); });
  const TableNames tables = hf_tables(family, folder_.prefix());
  std::set<std::string> used = {tables.shared, tables.encoder, tables.decoder, tables.head};
  std::vector<std::string> missing;
  for (const TensorSpec& spec : layout.tensors) {
    if (!sources_.contains(spec.name)) {
      const std::string name = hf_name(family, folder_.prefix(), spec.name, config.gated);
      sources_[spec.name] = {name, folder_.find(name)};
    }
    const CheckpointTensor& source = sources_[spec.name];
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
    throw UsageError(fmt::format("{}: {} missing tensor(s): {}", folder, missing.size(), listed(missing)));
  }
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : folder_.tensors()) {
    if (used.contains(name)) continue;
    if (!hf_ignored(family, name)) {
      unused.push_back(name);
    } else if (family == Family::kMarian && name.ends_with("embed_positions.weight")) {
      expect_sinusoids(name, *tensor, config);
    }
  }
  if (!unused.empty()) {
    throw UsageError(fmt::format("{}: {} tensor(s) that {} does not use: {}", folder, unused.size(),
                                 family_name(family), listed(unused)));
  }
}

std::vector<std::string> Checkpoint::read(const WeightLayout& layout, DType dtype,
                                          std::span<std::byte> arena) const {
  const int64_t bytes = layout.elements * dtype_bytes(dtype);
  if (static_cast<int64_t>(arena.size()) != bytes) {
    throw Error(fmt::format("{}: an arena of {} bytes for {}", folder_.path(), arena.size(), bytes));
  }
  std::vector<std::string> with_nan;
  int64_t end = 0;
  const auto clear_to = [&](int64_t offset) {
    std::memset(arena.data() + end * dtype_bytes(dtype), 0, (offset - end) * dtype_bytes(dtype));
  };
  for (const TensorSpec& spec : layout.tensors) {
    const auto found = sources_.find(spec.name);
    if (found == sources_.end()) throw Error(fmt::format("{}: has no '{}'", folder_.path(), spec.name));
    const StoredTensor& t = *found->second.tensor;
    const bool rows_fit = spec.rows > 1 && t.shape.size() == 2 && t.shape[1] == spec.cols;
    if (spec.size() > t.size() || (spec.rows > 1 && !rows_fit)) {
      throw Error(fmt::format("{}: '{}' of shape {} has no [{}, {}]", folder_.path(), spec.name,
                              shape_text(t.shape), spec.rows, spec.cols));
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
