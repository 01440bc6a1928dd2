#include "harness/weights/materialise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/weights/values/checkpoint.h"
#include "harness/weights/values/convert.h"
#include "harness/weights/values/rounding.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // values in fp32 at once

void fill_arena(const WeightSource& source, const WeightLayout& layout, std::span<std::byte> arena) {
  std::memset(arena.data(), 0, arena.size());
  for (const TensorSpec& t : layout.tensors) {
    const int64_t rows = std::max<int64_t>(1, kChunk / t.cols);
    for (int64_t row = 0; row < t.rows; row += rows) {
      store_rectangle(
          source, layout, t,
          {.first_row = row, .rows = std::min(rows, t.rows - row), .first_col = 0, .cols = t.cols}, arena);
    }
  }
}

/// Through the Level-1 cache; says whether it had room.
bool upload_cached(const WeightSource& source, const WeightLayout& layout, const WeightTarget& target) {
  const std::string key =
      fmt::format("{} {} {}", target.content.empty() ? source.key() : target.content, form_text(layout.form),
                  sha256_hex(nlohmann::json(layout.config).dump()));
  std::optional<Level1Object> object;
  try {
    object = target.cache->get(key, layout.bytes,
                               [&](std::span<std::byte> out) { fill_arena(source, layout, out); });
  } catch (const OutOfMemory&) {
    return false;
  }
  target.upload({static_cast<const std::byte*>(object->data()), static_cast<size_t>(layout.bytes)}, true);
  return true;
}

}  // namespace

void read_rounded(const WeightSource& source, const WeightLayout& layout, const TensorSpec& tensor,
                  const Rectangle& at, std::span<float> out) {
  read_values(source, tensor, at, out);
  round_weights(layout.form.precision, out);
}

void store_rectangle(const WeightSource& source, const WeightLayout& layout, const TensorSpec& t,
                     const Rectangle& at, std::span<std::byte> arena) {
  const Storage& storage = t.storage;
  if (!storage.plain() || dtype_bytes(storage.dtype) < 2)
    throw Error(
        fmt::format("weights: {} is stored as {} with scales or masks", t.name, dtype_name(storage.dtype)));
  std::vector<float> values(static_cast<size_t>(at.size()));
  // Storing in the form's own 16 bits rounds to its grid.
  if (storage.dtype == DType::kF32 || storage.dtype != activation_dtype(layout.form.precision)) {
    read_rounded(source, layout, t, at, values);
  } else {
    read_values(source, t, at, values);
  }
  const auto store = [&](int64_t row, int64_t from, int64_t count) {
    convert_values(
        {.from = reinterpret_cast<const std::byte*>(values.data() + from),
         .from_type = DType::kF32,
         .to = arena.data() + t.offset + (row * t.cols + at.first_col) * dtype_bytes(storage.dtype),
         .to_type = storage.dtype,
         .count = count});
  };
  if (at.cols == t.cols) return store(at.first_row, 0, at.size());
  for (int64_t r = 0; r < at.rows; ++r) store(at.first_row + r, r * at.cols, at.cols);
}

void materialise(const WeightSource& source, const WeightLayout& layout, const WeightTarget& target) {
  check_made(layout.form);
  if (!target.host.empty()) {
    if (static_cast<int64_t>(target.host.size()) != layout.bytes)
      throw Error(fmt::format("weights: an arena of {} bytes for {}", target.host.size(), layout.bytes));
    return fill_arena(source, layout, target.host);
  }
  if (source.seeded() != nullptr && target.fill && target.fill(*source.seeded(), layout)) return;
  if (target.cache != nullptr && upload_cached(source, layout, target)) return;
  std::vector<std::byte> arena;
  try {
    arena.resize(static_cast<size_t>(layout.bytes));
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(layout.bytes, "host memory");
  }
  fill_arena(source, layout, arena);
  target.upload(arena, false);
}

std::unique_ptr<WeightSource> weight_source(const WeightsSpec& spec, const std::string& model) {
  if (spec.checkpoint) return std::make_unique<Checkpoint>(model);
  return std::make_unique<SeededSource>(spec);
}

std::span<float> HostWeights::tensor(const std::string& name) {
  const TensorSpec& t = layout.at(name);
  return std::span(arena).subspan(static_cast<size_t>(t.offset) / sizeof(float),
                                  static_cast<size_t>(t.size()));
}
std::span<const float> HostWeights::tensor(const std::string& name) const {
  const TensorSpec& t = layout.at(name);
  return std::span(arena).subspan(static_cast<size_t>(t.offset) / sizeof(float),
                                  static_cast<size_t>(t.size()));
}

HostWeights empty_host_weights(const ModelConfig& config) {
  HostWeights host{.layout = weight_layout(config)};
  host.arena.resize(static_cast<size_t>(host.layout.bytes) / sizeof(float));
  return host;
}

HostWeights host_weights(const ModelConfig& config, const WeightSource& source, const WeightForm& form) {
  HostWeights host{.layout = weight_layout(config, form.in_fp32())};
  try {
    host.arena.resize(static_cast<size_t>(host.layout.bytes) / sizeof(float));
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(host.layout.bytes, "host memory");
  }
  materialise(source, host.layout, {.host = std::as_writable_bytes(std::span(host.arena))});
  return host;
}

HostWeights host_weights(const ModelConfig& config, const WeightsSpec& seed, const WeightForm& form) {
  return host_weights(config, SeededSource(seed), form);
}

}  // namespace tandem
