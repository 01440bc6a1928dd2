#include "harness/weights/materialise.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <optional>
#include <string>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/sha256.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/checkpoint.h"
#include "harness/weights/values/convert.h"
#include "harness/weights/values/quantise.h"
#include "harness/weights/values/rounding.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // values in fp32 at once

/// Codes, scales and values of a rectangle of a tensor.
struct QuantisedRectangle {
  std::vector<uint32_t> codes;  // [rows, cols]
  std::vector<float> scales;    // [rows, groups]
  std::vector<float> values;    // [rows, cols]
  int64_t first_group = 0, groups = 0;
};

/// The column of the whole tensor that column `col` of `t` is, or -1 where it is padding.
int64_t whole_col(const TensorSpec& t, int64_t col) {
  for (const IndexRun& run : t.col_runs) {
    if (col < run.count) return run.first + col;
    col -= run.count;
  }
  return -1;
}

/// The group of the whole row whose scale the columns of group `g` of `t` have. Throws ImpossibleCase where they have two.
int64_t whole_group(const TensorSpec& t, const Storage& storage, int64_t g) {
  if (storage.scale_group == Storage::kWholeRow) return 0;
  const int64_t first = g * storage.scale_group, last = std::min(first + storage.scale_group, t.cols) - 1;
  const int64_t group = whole_col(t, first) / storage.scale_group;
  for (int64_t col = first; col <= last; ++col) {
    if (whole_col(t, col) / storage.scale_group != group) {
      throw ImpossibleCase(
          fmt::format("precision: columns {} to {} of {} would need scales of two groups of {}", first, last,
                      t.name, storage.scale_group));
    }
  }
  return group;
}

/// The scales are the whole matrix's: its whole rows are read, whatever part of them is here.
QuantisedRectangle quantise_rectangle(const WeightSource& source, const TensorSpec& t, const Storage& storage,
                                      const Rectangle& at) {
  QuantisedRectangle q;
  const int64_t width = storage.scale_group == Storage::kWholeRow ? t.cols : storage.scale_group;
  q.first_group = at.first_col / width;
  q.groups = at.size() == 0 ? 0 : (at.first_col + at.cols - 1) / width - q.first_group + 1;
  q.codes.assign(static_cast<size_t>(at.size()), 0);
  q.values.assign(static_cast<size_t>(at.size()), 0.0f);
  q.scales.assign(static_cast<size_t>(at.rows * q.groups), 0.0f);
  std::vector<int64_t> cols, groups;
  for (int64_t c = 0; c < at.cols; ++c) cols.push_back(whole_col(t, at.first_col + c));
  for (int64_t g = 0; g < q.groups; ++g) groups.push_back(whole_group(t, storage, q.first_group + g));

  TensorSpec whole_rows = t;  // this layout's rows, every column
  whole_rows.cols = t.whole.cols;
  whole_rows.col_runs = {{0, t.whole.cols}};
  std::vector<float> rows(static_cast<size_t>(at.rows * t.whole.cols));
  read_values(source, whole_rows, {at.first_row, at.rows, 0, t.whole.cols}, rows);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < at.rows; ++r) {
    const auto n = static_cast<size_t>(t.whole.cols);
    const std::span<const float> row(rows.data() + r * t.whole.cols, n);
    std::vector<uint32_t> codes(n);
    std::vector<float> scales(static_cast<size_t>(storage.scales_per_row(t.whole.cols))), back(n);
    quantise_row(storage, row, codes, scales);
    dequantise_row(storage, codes, scales, back);
    for (int64_t c = 0; c < at.cols; ++c) {
      if (cols[static_cast<size_t>(c)] < 0) continue;
      const auto from = static_cast<size_t>(cols[static_cast<size_t>(c)]);
      q.codes[static_cast<size_t>(r * at.cols + c)] = codes[from];
      q.values[static_cast<size_t>(r * at.cols + c)] = back[from];
    }
    for (int64_t g = 0; g < q.groups; ++g)
      q.scales[static_cast<size_t>(r * q.groups + g)] =
          scales[static_cast<size_t>(groups[static_cast<size_t>(g)])];
  }
  return q;
}

uint32_t stored_bits(DType type, float scale) {
  return type == DType::kBF16 ? float_to_bf16(scale) : std::bit_cast<uint32_t>(scale);
}

void fill_arena(const WeightSource& source, const WeightLayout& layout, std::span<std::byte> arena) {
  std::memset(arena.data(), 0, arena.size());
  for (const TensorSpec& t : layout.tensors) {
    const int64_t rows = std::max<int64_t>(1, kChunk / t.whole.cols);
    for (int64_t row = 0; row < t.rows; row += rows) {
      store_rectangle(
          source, layout, t,
          {.first_row = row, .rows = std::min(rows, t.rows - row), .first_col = 0, .cols = t.cols}, arena);
    }
  }
}

/// Names the bytes of a layout whose values come from a known source: what of which tensor lies where, and how it is stored.
std::string layout_key(const WeightLayout& layout) {
  Sha256 hash;
  const auto add = [&](const IndexRuns& runs) {
    for (const IndexRun& run : runs) hash.update(fmt::format(" {}+{}", run.first, run.count));
  };
  hash.update(form_text(layout.form));
  for (const TensorSpec& t : layout.tensors) {
    hash.update(fmt::format("\n{} {} {}x{} {} {} at {}", t.name, t.whole.name, t.rows, t.cols, t.whole.base,
                            t.whole.exponent, t.offset));
    add(t.row_runs);
    hash.update(" /");
    add(t.col_runs);
  }
  return hash.hex();
}

/// Through the Level-1 cache; says whether it had room.
bool upload_cached(const WeightSource& source, const WeightLayout& layout, const WeightTarget& target) {
  const std::string key = fmt::format("{} {} {}", target.content.empty() ? source.key() : target.content,
                                      form_text(layout.form), layout_key(layout));
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

void read_rounded(const WeightSource& source, const WeightLayout& layout, const TensorSpec& t,
                  const Rectangle& at, std::span<float> out) {
  const Storage own = own_storage(layout.form, t.use);
  if (own.scale_group != 0) {
    const QuantisedRectangle q = quantise_rectangle(source, t, own, at);
    std::ranges::copy(q.values, out.begin());
    return;
  }
  read_values(source, t, at, out);
  // What is not quantised stays in the type of activations.
  round_weights(lossy({.precision = layout.form.precision}) ? Precision::kBf16 : layout.form.precision, out);
}

void store_rectangle(const WeightSource& source, const WeightLayout& layout, const TensorSpec& t,
                     const Rectangle& at, std::span<std::byte> arena) {
  const Storage& storage = t.storage;
  if (storage.two_of_four) throw Error(fmt::format("weights: {} is stored with masks", t.name));
  if (storage.scale_group != 0) {
    const QuantisedRectangle q = quantise_rectangle(source, t, storage, at);
    pack(value_plane(t), at, q.codes, arena);
    const Rectangle groups{at.first_row, at.rows, q.first_group, q.groups};
    std::vector<uint32_t> scales;
    for (const float scale : q.scales) scales.push_back(stored_bits(storage.scale_dtype, scale));
    pack(scale_plane(t), groups, scales, arena);
    return;
  }
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
  if (source.calibration() != layout.form.calibration)
    throw Error(fmt::format("weights: '{}' needs values that were scaled for it", form_text(layout.form)));
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
