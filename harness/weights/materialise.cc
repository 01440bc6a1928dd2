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
#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/checkpoint.h"
#include "harness/weights/values/convert.h"
#include "harness/weights/values/quantise.h"
#include "harness/weights/values/rounding.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // values in fp32 at once

/// A rectangle of a tensor on the grid of a form.
struct GridRectangle {
  std::vector<uint32_t> codes = {};  // [rows, cols]; with scales
  std::vector<float> scales = {};    // [rows, groups]
  std::vector<float> values = {};    // [rows, cols]
  std::vector<uint8_t> kept = {};    // [rows, cols]
  int64_t first_group = 0, groups = 0;
};

int64_t count_of(const IndexRuns& runs) {
  int64_t count = 0;
  for (const IndexRun& run : runs) count += run.count;
  return count;
}

/// The column of the smaller model that the first column of `t` is; those after it follow.
int64_t first_model_col(const TensorSpec& t) {
  int64_t at = 0;
  for (const IndexRun& run : t.model_cols) {
    const int64_t first = t.col_runs.front().first;
    if (first >= run.first && first < run.first + run.count) return at + first - run.first;
    at += run.count;
  }
  throw Error(fmt::format("weights: {} has columns that its model has not", t.name));
}

/// The group of the model's row whose scale the columns of group `g` of `t` have. Throws ImpossibleCase where they have two.
int64_t model_group(const TensorSpec& t, const Storage& storage, int64_t g) {
  if (storage.scale_group == Storage::kWholeRow) return 0;
  const int64_t first = g * storage.scale_group, last = std::min(first + storage.scale_group, t.cols) - 1;
  const int64_t here = first_model_col(t);
  const int64_t group = (here + first) / storage.scale_group;
  if ((here + last) / storage.scale_group != group) {
    throw ImpossibleCase(
        fmt::format("precision: columns {} to {} of {} would need scales of two groups of {}", first, last,
                    t.name, storage.scale_group));
  }
  return group;
}

/// The scales are the whole matrix's, all ranks': its whole rows are read, whatever part of them is here.
GridRectangle quantise_rectangle(const WeightSource& source, const SparsitySpec& sparsity,
                                 const TensorSpec& t, const Storage& storage, const Rectangle& at) {
  GridRectangle q;
  const int64_t width = storage.scale_group == Storage::kWholeRow ? t.cols : storage.scale_group;
  q.first_group = at.first_col / width;
  q.groups = at.size() == 0 ? 0 : (at.first_col + at.cols - 1) / width - q.first_group + 1;
  q.codes.assign(static_cast<size_t>(at.size()), 0);
  q.values.assign(static_cast<size_t>(at.size()), 0.0f);
  q.kept.assign(static_cast<size_t>(at.size()), 0);
  q.scales.assign(static_cast<size_t>(at.rows * q.groups), 0.0f);
  std::vector<int64_t> groups;
  for (int64_t g = 0; g < q.groups; ++g) groups.push_back(model_group(t, storage, q.first_group + g));
  const int64_t first_col = first_model_col(t) + at.first_col;

  TensorSpec whole_rows{.name = t.name,
                        .rows = t.rows,
                        .cols = count_of(t.model_cols),
                        .whole = t.whole,
                        .row_runs = t.row_runs,
                        .col_runs = t.model_cols,
                        .use = t.use,
                        .cut = t.cut};
  const Rectangle read{at.first_row, at.rows, 0, whole_rows.cols};
  std::vector<float> rows(static_cast<size_t>(read.size()));
  std::vector<uint8_t> kept(rows.size());
  read_kept(source, sparsity, whole_rows, read, rows, kept);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < at.rows; ++r) {
    const auto n = static_cast<size_t>(read.cols);
    const std::span<const float> row(rows.data() + r * read.cols, n);
    std::vector<uint32_t> codes(n);
    std::vector<float> scales(static_cast<size_t>(storage.scales_per_row(read.cols))), back(n);
    quantise_row(storage, row, codes, scales);
    dequantise_row(storage, codes, scales, back);
    const int64_t count = std::min(at.cols, read.cols - first_col);  // the rest is padding
    std::copy_n(codes.data() + first_col, count, q.codes.data() + r * at.cols);
    std::copy_n(back.data() + first_col, count, q.values.data() + r * at.cols);
    std::copy_n(kept.data() + r * read.cols + first_col, count, q.kept.data() + r * at.cols);
    for (int64_t g = 0; g < q.groups; ++g)
      q.scales[static_cast<size_t>(r * q.groups + g)] =
          scales[static_cast<size_t>(groups[static_cast<size_t>(g)])];
  }
  return q;
}

/// On the grid of the form's own storage.
GridRectangle grid_rectangle(const WeightSource& source, const WeightForm& form, const TensorSpec& t,
                             const Rectangle& at) {
  const Storage own = own_storage(form, t.use);
  if (own.scale_group != 0) return quantise_rectangle(source, form.sparsity, t, own, at);
  GridRectangle g{.values = std::vector<float>(static_cast<size_t>(at.size())),
                  .kept = std::vector<uint8_t>(static_cast<size_t>(at.size()))};
  read_kept(source, form.sparsity, t, at, g.values, g.kept);
  // What is not quantised stays in the type of activations.
  round_weights(lossy({.precision = form.precision}) ? Precision::kBf16 : form.precision, g.values);
  return g;
}

uint32_t stored_bits(DType type, float scale) {
  return type == DType::kBF16 ? float_to_bf16(scale) : std::bit_cast<uint32_t>(scale);
}

/// The bits of values that lie on their type's grid.
std::vector<uint32_t> value_bits(DType type, const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  std::ranges::transform(values, bits.begin(), [&](float v) -> uint32_t {
    if (type == DType::kF16) return float_to_fp16(v);
    return stored_bits(type, v);
  });
  return bits;
}

/// Of 2:4: the rectangle's columns are whole groups of four.
void store_fours(const TensorSpec& t, const Rectangle& at, const GridRectangle& grid,
                 const std::vector<uint32_t>& bits, std::span<std::byte> arena) {
  const Rectangle half{at.first_row, at.rows, at.first_col / 2, at.cols / 2};
  std::vector<uint32_t> values, marks;
  for (size_t i = 0; i < bits.size(); ++i) {
    if (grid.kept[i] == 0) continue;
    values.push_back(bits[i]);
    marks.push_back(static_cast<uint32_t>(i % 4));
  }
  pack(value_plane(t), half, values, arena);
  pack(metadata_plane(t), half, marks, arena);
}

/// Of a bitmap: the rectangle is whole rows.
void store_bitmap(const TensorSpec& t, const Rectangle& at, const GridRectangle& grid,
                  const std::vector<uint32_t>& bits, std::span<std::byte> arena) {
  pack(bitmap_plane(t), at, std::vector<uint32_t>(grid.kept.begin(), grid.kept.end()), arena);
  pack(starts_plane(t), {0, 1, at.first_row, at.rows + 1},
       std::span(t.row_starts).subspan(static_cast<size_t>(at.first_row), static_cast<size_t>(at.rows + 1)),
       arena);
  for (int64_t r = 0; r < at.rows; ++r) {
    std::vector<uint32_t> values;
    for (int64_t i = r * at.cols; i < (r + 1) * at.cols; ++i) {
      if (grid.kept[static_cast<size_t>(i)] != 0) values.push_back(bits[static_cast<size_t>(i)]);
    }
    const auto stored = static_cast<int64_t>(values.size());
    pack(bitmap_row_plane(t, at.first_row + r, stored), {0, 1, 0, stored}, values, arena);
  }
}

void store_scales(const TensorSpec& t, const Rectangle& at, const GridRectangle& grid,
                  std::span<std::byte> arena) {
  if (t.storage.scale_group == 0) return;
  std::vector<uint32_t> scales;
  for (const float scale : grid.scales) scales.push_back(stored_bits(t.storage.scale_dtype, scale));
  pack(scale_plane(t), {at.first_row, at.rows, grid.first_group, grid.groups}, scales, arena);
}

/// What a sparse storage has of a rectangle, or of a wider one of the same rows.
void store_sparse(const WeightSource& source, const WeightLayout& layout, const TensorSpec& t, Rectangle at,
                  std::span<std::byte> arena) {
  const Storage& storage = t.storage;
  const int64_t end = storage.bitmap ? t.cols : (at.first_col + at.cols + 3) / 4 * 4;
  at.first_col = storage.bitmap ? 0 : at.first_col / 4 * 4;
  at.cols = end - at.first_col;
  const GridRectangle grid = grid_rectangle(source, layout.form, t, at);
  const auto bits = storage.scale_group != 0 ? grid.codes : value_bits(storage.dtype, grid.values);
  (storage.bitmap ? store_bitmap : store_fours)(t, at, grid, bits, arena);
  store_scales(t, at, grid, arena);
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
    if (t.cut) hash.update(fmt::format(" over {} to {}", t.cut->threshold, t.cut->last_tie));
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
  std::ranges::copy(grid_rectangle(source, layout.form, t, at).values, out.begin());
}

void store_rectangle(const WeightSource& source, const WeightLayout& layout, const TensorSpec& t,
                     const Rectangle& at, std::span<std::byte> arena) {
  const Storage& storage = t.storage;
  if (storage.two_of_four || storage.bitmap) return store_sparse(source, layout, t, at, arena);
  if (storage.scale_group != 0) {
    const GridRectangle grid = grid_rectangle(source, layout.form, t, at);
    pack(value_plane(t), at, grid.codes, arena);
    return store_scales(t, at, grid, arena);
  }
  std::vector<float> values(static_cast<size_t>(at.size()));
  // Storing in the form's own 16 bits rounds to its grid.
  if (storage.dtype == DType::kF32 || storage.dtype != activation_dtype(layout.form.precision)) {
    read_rounded(source, layout, t, at, values);
  } else {
    read_kept(source, layout.form.sparsity, t, at, values);
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
  if (layout.expected) throw Error("weights: a layout of expected sizes has no values");
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
  const WeightForm plain = form.in_fp32();
  const Pruning pruning = prune(source, config, plain);
  HostWeights host{.layout = weight_layout(config, plain, pruning)};
  host.count = count_weights(config, plain, pruning);
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
