#include "harness/weights/values/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "harness/base/error.h"
#include "harness/weights/layout.h"
#include "harness/weights/values/convert.h"

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
    refuse(fmt::format("dtype {}, shape {}", t.dtype, shape_text(t.shape)));
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
  for (const TensorSpec& laid : layout.tensors) {
    const WholeTensor& spec = laid.whole;
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

void Checkpoint::read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const {
  const auto found = sources_.find(tensor.name);
  if (found == sources_.end()) throw Error(fmt::format("{}: has no '{}'", folder_.path(), tensor.name));
  const StoredTensor& t = *found->second.tensor;
  const bool rows_fit = tensor.rows > 1 && t.shape.size() == 2 && t.shape[1] == tensor.cols;
  if (tensor.size() > t.size() || (tensor.rows > 1 && !rows_fit)) {
    throw Error(fmt::format("{}: '{}' of shape {} has no [{}, {}]", folder_.path(), tensor.name,
                            shape_text(t.shape), tensor.rows, tensor.cols));
  }
  const DType type = *t.float_type();
  const auto copy = [&](int64_t from, int64_t to, int64_t count) {
    const bool nan = convert_values({.from = t.bytes.data() + from * dtype_bytes(type),
                                     .from_type = type,
                                     .to = reinterpret_cast<std::byte*>(out.data() + to),
                                     .to_type = DType::kF32,
                                     .count = count});
    if (nan) with_nan_.insert(found->second.name);
  };
  if (at.cols == tensor.cols) return copy(at.first_row * tensor.cols, 0, at.size());
  for (int64_t r = 0; r < at.rows; ++r)
    copy((at.first_row + r) * tensor.cols + at.first_col, r * at.cols, at.cols);
}

std::string Checkpoint::key() const {
  return "checkpoint " + folder_.path();
}

std::vector<std::string> Checkpoint::warnings() const {
  std::vector<std::string> lines;
  for (const std::string& name : with_nan_)
    lines.push_back(fmt::format("warning: {}: tensor {} holds NaN", folder_.path(), name));
  return lines;
}

}  // namespace tandem
