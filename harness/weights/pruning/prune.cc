#include "harness/weights/pruning/prune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

// ---- Whole parts -----------------------------------------------------------------------------------------------------

/// Of a matrix, one sum of squares each.
enum class Lines : uint8_t { kRows, kCols };

std::vector<float> values_of(const WeightSource& source, const TensorSpec& t) {
  std::vector<float> values(static_cast<size_t>(t.size()));
  read_values(source, t, {.rows = t.rows, .cols = t.cols}, values);
  return values;
}

/// A row's values are added in the order of columns, a column's in that of rows. `buffer` only grows: new pages for each matrix of a
/// large model would take longer than all that is done with them.
std::vector<double> norms_of(const WeightSource& source, const TensorSpec& t, Lines lines,
                             std::vector<float>& buffer) {
  if (buffer.size() < static_cast<size_t>(t.size())) buffer.resize(static_cast<size_t>(t.size()));
  const std::span<float> values = std::span(buffer).first(static_cast<size_t>(t.size()));
  read_values(source, t, {.rows = t.rows, .cols = t.cols}, values);
  std::vector<double> sums(static_cast<size_t>(lines == Lines::kRows ? t.rows : t.cols));
  if (lines == Lines::kRows) {
    constexpr int64_t kTogether = 8;  // rows side by side: one alone waits for its own last addition
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < t.rows; first += kTogether) {
      const int64_t n = std::min(kTogether, t.rows - first);
      double sum[kTogether] = {};
      for (int64_t c = 0; c < t.cols; ++c) {
        for (int64_t r = 0; r < n; ++r) {
          const double v = values[static_cast<size_t>((first + r) * t.cols + c)];
          sum[r] += v * v;
        }
      }
      std::copy_n(sum, n, sums.begin() + first);
    }
    return sums;
  }
  constexpr int64_t kBlock = 64;  // columns that are neighbours share cache lines
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < t.cols; first += kBlock) {
    const int64_t n = std::min(kBlock, t.cols - first);
    double sum[kBlock] = {};  // of its own: threads that write side by side would pass a line to and fro
    for (int64_t r = 0; r < t.rows; ++r) {
      const float* row = values.data() + r * t.cols + first;
      for (int64_t c = 0; c < n; ++c) sum[c] += static_cast<double>(row[c]) * row[c];
    }
    std::copy_n(sum, n, sums.begin() + first);
  }
  return sums;
}

/// What goes of `count` units, at least one and not all.
int checked_removed(double fraction, int count, std::string_view what) {
  const int removed = removed_units(fraction, count);
  if (removed < 1 || removed >= count) {
    throw ImpossibleCase(fmt::format("sparsity: {} removes {} of {} {}; at least one must go and one stay",
                                     fraction, removed, count, what));
  }
  return removed;
}

/// Indices of the largest, in rising order; of equal ones the lowest stay.
std::vector<int> largest(const std::vector<double>& norms, int count) {
  std::vector<int> order(norms.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](int a, int b) { return norms[static_cast<size_t>(a)] > norms[static_cast<size_t>(b)]; });
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

/// Chooses the parts of one side that stay.
class StackPruner {
 public:
  /// `source` null: the first parts stay.
  StackPruner(const WeightSource* source, const WeightLayout& dense, const SparsitySpec& sparsity,
              std::string side)
      : source_(source),
        dense_(dense),
        sparsity_(sparsity),
        side_(std::move(side)),
        stack_(side_ == "encoder" ? dense.config.encoder : dense.config.decoder) {}

  KeptStack kept() const {
    KeptStack kept;
    std::vector<int> layers(static_cast<size_t>(stack_.layers));
    std::iota(layers.begin(), layers.end(), 0);
    if (sparsity_.layers != 0) kept.layers = layers = kept_layers();
    for (const int layer : layers) {
      if (sparsity_.heads != 0) {
        kept.self_heads.push_back(kept_heads(layer, "self"));
        if (side_ == "decoder") kept.cross_heads.push_back(kept_heads(layer, "cross"));
      }
      if (sparsity_.ffn != 0) kept.ffn.push_back(kept_columns(layer));
    }
    return kept;
  }

 private:
  std::string name(int layer, std::string_view tensor) const {
    return fmt::format("{}.layers.{}.{}", side_, layer, tensor);
  }
  std::vector<double> norms(const std::string& name, Lines lines) const {
    return norms_of(*source_, dense_.at(name + ".weight"), lines, buffer_);
  }

  std::vector<int> kept_layers() const {
    const int stay =
        stack_.layers - checked_removed(sparsity_.layers, stack_.layers, "layers of the " + side_);
    std::vector<double> sums(static_cast<size_t>(stack_.layers));
    for (int layer = 0; source_ != nullptr && layer < stack_.layers; ++layer) {
      const std::string prefix = name(layer, "");
      for (const TensorSpec& t : dense_.tensors) {
        if (t.use != TensorUse::kProduct || !t.name.starts_with(prefix)) continue;
        const std::vector<double> rows = norms_of(*source_, t, Lines::kRows, buffer_);
        sums[static_cast<size_t>(layer)] += std::accumulate(rows.begin(), rows.end(), 0.0);
      }
    }
    return largest(sums, stay);
  }

  std::vector<int> kept_heads(int layer, const std::string& attention) const {
    const int stay = stack_.heads - checked_removed(sparsity_.heads, stack_.heads, "heads of the " + side_);
    std::vector<double> sums(static_cast<size_t>(stack_.heads));
    if (source_ != nullptr) {
      const auto add = [&](const std::vector<double>& of) {
        for (size_t i = 0; i < of.size(); ++i) sums[i / static_cast<size_t>(dense_.config.head_dim)] += of[i];
      };
      for (const char* tensor : {".q", ".k", ".v"}) add(norms(name(layer, attention + tensor), Lines::kRows));
      add(norms(name(layer, attention + ".out"), Lines::kCols));
    }
    return largest(sums, stay);
  }

  std::vector<int> kept_columns(int layer) const {
    const int stay = stack_.d_ff - checked_removed(sparsity_.ffn, stack_.d_ff, "FFN columns of the " + side_);
    std::vector<double> sums(static_cast<size_t>(stack_.d_ff));
    if (source_ != nullptr) {
      const auto add = [&](const std::vector<double>& of) {
        for (size_t i = 0; i < of.size(); ++i) sums[i] += of[i];
      };
      if (dense_.config.gated) add(norms(name(layer, "ffn.gate"), Lines::kRows));
      add(norms(name(layer, "ffn.up"), Lines::kRows));
      add(norms(name(layer, "ffn.down"), Lines::kCols));
    }
    return largest(sums, stay);
  }

  const WeightSource* source_;
  const WeightLayout& dense_;
  SparsitySpec sparsity_;
  std::string side_;
  StackConfig stack_;
  mutable std::vector<float> buffer_ = {};  // of the matrix that is looked at
};

Kept kept_parts(const WeightSource* source, const ModelConfig& config, const SparsitySpec& sparsity) {
  if (!sparsity.structured()) return {};
  const WeightLayout dense = weight_layout(config);
  return {.encoder = StackPruner(source, dense, sparsity, "encoder").kept(),
          .decoder = StackPruner(source, dense, sparsity, "decoder").kept()};
}

// ---- Single weights --------------------------------------------------------------------------------------------------

/// The indices of a whole tensor that runs name.
std::vector<int64_t> indices_of(const IndexRuns& runs) {
  std::vector<int64_t> all;
  for (const IndexRun& run : runs) {
    for (int64_t i = 0; i < run.count; ++i) all.push_back(run.first + i);
  }
  return all;
}

/// The smallest float that is not below `threshold`: a float is below one exactly where it is below the other.
float float_at_least(double threshold) {
  const auto near = static_cast<float>(threshold);
  return static_cast<double>(near) < threshold ? std::nextafter(near, std::numeric_limits<float>::infinity())
                                               : near;
}

/// `values`: of the smaller model's matrix, all of it.
MatrixCut cut_of(const SparsitySpec& sparsity, const TensorSpec& t, const std::vector<float>& values) {
  if (sparsity.threshold != 0) return given_cut(sparsity);
  const int64_t removed = removed_weights(sparsity.unstructured, t.size());
  if (removed == 0) return {};
  std::vector<uint32_t> bits(values.size());
  std::ranges::transform(values, bits.begin(), magnitude_bits);
  const auto least_kept = bits.begin() + removed;
  std::nth_element(bits.begin(), least_kept, bits.end());
  const uint32_t threshold = *least_kept;
  int64_t ties = t.size() - removed - std::ranges::count_if(bits, [&](uint32_t b) { return b > threshold; });
  const auto cols = indices_of(t.col_runs), rows = indices_of(t.row_runs);
  for (size_t i = 0; i < values.size(); ++i) {
    if (magnitude_bits(values[i]) != threshold || --ties != 0) continue;
    return {.threshold = threshold, .last_tie = rows[i / cols.size()] * t.whole.cols + cols[i % cols.size()]};
  }
  throw Error(fmt::format("pruning: {} has no weight at its own threshold", t.name));
}

/// Kept values of each row.
std::vector<uint32_t> row_counts(const TensorSpec& t, const MatrixCut& cut,
                                 const std::vector<float>& values) {
  const auto cols = indices_of(t.col_runs), rows = indices_of(t.row_runs);
  std::vector<uint32_t> counts(rows.size());
#pragma omp parallel for schedule(static)
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < cols.size(); ++c)
      counts[r] += cut.keeps(values[r * cols.size() + c], rows[r] * t.whole.cols + cols[c]) ? 1 : 0;
  }
  return counts;
}

/// Layouts of what whole parts leave, in fp32: of all ranks, and of this one.
struct Smaller {
  WeightLayout model, here;
  Smaller(const ModelConfig& config, const WeightForm& form, const Kept& kept)
      : model(weight_layout(config, {}, kept)), here(weight_layout(config, {.slice = form.slice}, kept)) {}
};

PrunedMatrix prune_matrix(const WeightSource& source, const SparsitySpec& sparsity,
                          const TensorSpec& of_model, const TensorSpec& here) {
  const std::vector<float> values = values_of(source, of_model);
  PrunedMatrix m{.cut = cut_of(sparsity, of_model, values), .size = of_model.size()};
  m.row_kept = row_counts(of_model, m.cut, values);
  m.kept = std::accumulate(m.row_kept.begin(), m.row_kept.end(), int64_t{0});
  const bool part = here.row_runs != of_model.row_runs || here.col_runs != of_model.col_runs;
  if (part) m.row_kept = row_counts(here, m.cut, values_of(source, here));
  return m;
}

}  // namespace

ModelConfig smaller_config(const ModelConfig& config, const SparsitySpec& sparsity) {
  ModelConfig smaller = config;
  const auto shrink = [&](StackConfig& stack, const std::string& side) {
    if (sparsity.layers != 0)
      stack.layers -= checked_removed(sparsity.layers, stack.layers, "layers of the " + side);
    if (sparsity.heads != 0)
      stack.heads -= checked_removed(sparsity.heads, stack.heads, "heads of the " + side);
    if (sparsity.ffn != 0)
      stack.d_ff -= checked_removed(sparsity.ffn, stack.d_ff, "FFN columns of the " + side);
  };
  shrink(smaller.encoder, "encoder");
  shrink(smaller.decoder, "decoder");
  return smaller;
}

void check_threshold(const WeightsSpec& seed, const ModelConfig& config, const SparsitySpec& sparsity) {
  if (sparsity.threshold == 0 || seed.checkpoint) return;
  constexpr double kLargestSum = 131070;  // centred_sum
  for (const TensorSpec& t : weight_layout(config).tensors) {
    if (t.use != TensorUse::kProduct) continue;
    double largest = kLargestSum * std::ldexp(1.0, t.whole.exponent);
    if (seed.outliers && t.whole.outlier_rows)
      largest *= std::ldexp(*std::ranges::max_element(kOutlierScale), -kOutlierShift);
    if (sparsity.threshold <= largest) continue;
    throw ImpossibleCase(
        fmt::format("sparsity: '{}' removes all weights of {}, of which none is over {}; some must stay",
                    sparsity_text(sparsity), t.name, largest));
  }
}

MatrixCut given_cut(const SparsitySpec& sparsity) {
  if (sparsity.threshold == 0) return {};
  return {.threshold = magnitude_bits(float_at_least(sparsity.threshold))};
}

Pruning prune(const WeightSource& source, const ModelConfig& config, const WeightForm& form,
              const MatrixPruner& matrices) {
  Pruning p{.kept = kept_parts(&source, config, form.sparsity)};
  if (!form.sparsity.by_magnitude()) return p;
  const Smaller smaller(config, form, p.kept);
  for (const TensorSpec& t : smaller.model.tensors) {
    if (t.use != TensorUse::kProduct) continue;
    const TensorSpec& here = smaller.here.at(t.name);
    PrunedMatrix m =
        matrices ? matrices(form.sparsity, t, here) : prune_matrix(source, form.sparsity, t, here);
    if (m.kept == 0) {
      throw ImpossibleCase(fmt::format("sparsity: '{}' removes all {} weights of {}; some must stay",
                                       sparsity_text(form.sparsity), m.size, t.name));
    }
    p.matrices.emplace(t.name, std::move(m));
  }
  return p;
}

Pruning expected_pruning(const ModelConfig& config, const WeightForm& form) {
  Pruning p{.kept = kept_parts(nullptr, config, form.sparsity),
            .expected = form.sparsity.structured() || form.sparsity.by_magnitude()};
  if (!form.sparsity.by_magnitude()) return p;
  const Smaller smaller(config, form, p.kept);
  for (const TensorSpec& t : smaller.model.tensors) {
    if (t.use != TensorUse::kProduct) continue;
    const TensorSpec& here = smaller.here.at(t.name);
    const int64_t kept = t.size() - removed_weights(form.sparsity.unstructured, t.size());
    const auto of_row = static_cast<uint32_t>((kept * here.cols + t.size() / 2) / t.size());
    p.matrices.emplace(t.name, PrunedMatrix{.size = t.size(),
                                            .kept = kept,
                                            .row_kept = std::vector(static_cast<size_t>(here.rows), of_row)});
  }
  return p;
}

void read_kept(const WeightSource& source, const SparsitySpec& sparsity, const TensorSpec& t,
               const Rectangle& at, std::span<float> out, std::span<uint8_t> kept) {
  const bool fours = sparsity.two_of_four && t.use == TensorUse::kProduct;
  if (!fours) {
    read_values(source, t, at, out);
    std::ranges::fill(kept, uint8_t{1});
    if (!t.cut) return;
    const auto cols = indices_of(t.col_runs), rows = indices_of(t.row_runs);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < at.rows; ++r) {
      for (int64_t c = 0; c < at.cols; ++c) {
        const auto i = static_cast<size_t>(r * at.cols + c);
        const int64_t index = rows[static_cast<size_t>(at.first_row + r)] * t.whole.cols +
                              cols[static_cast<size_t>(at.first_col + c)];
        if (t.cut->keeps(out[i], index)) continue;
        out[i] = 0;
        if (!kept.empty()) kept[i] = 0;
      }
    }
    return;
  }
  Rectangle wide = at;  // whole groups of four
  wide.first_col = at.first_col / 4 * 4;
  wide.cols = (at.first_col + at.cols + 3) / 4 * 4 - wide.first_col;
  std::vector<float> values(static_cast<size_t>(wide.size()));
  read_values(source, t, wide, values);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < at.rows; ++r) {
    for (int64_t c = 0; c < at.cols; ++c) {
      const int64_t from = at.first_col + c - wide.first_col;
      const std::span<const float, 4> four(&values[static_cast<size_t>(r * wide.cols + from / 4 * 4)], 4);
      const auto [first, second] = two_of_four(four);
      const bool stays = from % 4 == first || from % 4 == second;
      const auto i = static_cast<size_t>(r * at.cols + c);
      out[i] = stays ? four[static_cast<size_t>(from % 4)] : 0.0f;
      if (!kept.empty()) kept[i] = stays ? 1 : 0;
    }
  }
}

namespace {

void add_removed(const std::string& side, const StackConfig& whole, const StackConfig& left,
                 const KeptStack& kept, std::vector<RemovedPart>& to) {
  if (!kept.layers.empty()) {
    RemovedPart layers{.what = side + " layers", .removed = whole.layers - left.layers, .of = whole.layers};
    for (int layer = 0; layer < whole.layers; ++layer) {
      if (!std::ranges::binary_search(kept.layers, layer)) layers.which.push_back(layer);
    }
    to.push_back(std::move(layers));
  }
  if (!kept.self_heads.empty())
    to.push_back({.what = side + " heads", .removed = whole.heads - left.heads, .of = whole.heads});
  if (!kept.ffn.empty())
    to.push_back({.what = side + " ffn columns", .removed = whole.d_ff - left.d_ff, .of = whole.d_ff});
}

}  // namespace

WeightCount count_weights(const ModelConfig& config, const WeightForm& form, const Pruning& pruning) {
  WeightCount count;
  for (const TensorSpec& t : weight_layout(config).tensors) count.dense += t.size();
  std::map<std::string, std::set<int64_t>> shared;  // columns of a table that several layers have parts of
  const WeightLayout left = weight_layout(config, {}, pruning.kept);
  for (const TensorSpec& t : left.tensors) {
    if (t.use == TensorUse::kProduct) {
      const auto matrix = pruning.matrices.find(t.name);
      const int64_t kept = matrix != pruning.matrices.end() ? matrix->second.kept
                           : form.sparsity.two_of_four      ? t.size() / 2
                                                            : t.size();
      count.products += t.size();
      count.products_kept += kept;
      count.kept += kept;
    } else if (t.name.ends_with(".relative_bias")) {
      for (const int64_t col : indices_of(t.col_runs))
        count.kept += shared[t.whole.name].insert(col).second ? t.rows : 0;
    } else {
      count.kept += t.size();
    }
  }
  if (count.kept != count.dense)
    count.removed.push_back({.what = "weights", .removed = count.dense - count.kept, .of = count.dense});
  add_removed("encoder", config.encoder, left.config.encoder, pruning.kept.encoder, count.removed);
  add_removed("decoder", config.decoder, left.config.decoder, pruning.kept.decoder, count.removed);
  return count;
}

}  // namespace tandem
