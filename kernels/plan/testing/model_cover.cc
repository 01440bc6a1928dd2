#include "kernels/plan/testing/model_cover.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <tuple>

#include "harness/base/host_device.h"
#include "harness/weights/form.h"

namespace tandem::kernels {
namespace {

enum Factor : int {
  kNorm,
  kPlacement,
  kFinalNorm,
  kEmbeddingNorm,
  kPosition,
  kActivation,
  kGated,
  kBias,
  kHeadBias,
  kTied,
  kShared,
  kHeadDim,
  kWidth,
  kFfn,
  kVocab,
  kBatch,
  kLengths,
  kPrecision,
  kKernel,
  kKv,
  kDegree,
  kSparsity,
  kFactors,
};
constexpr const char* kNames[kFactors] = {
    "norm",    "placement", "final_norm", "embedding_norm", "position", "activation",
    "gated",   "bias",      "head_bias",  "tied",           "shared",   "head_dim",
    "d_model", "d_ff",      "vocab",      "batch",          "lengths",  "precision",
    "kernel",  "kv",        "tp",         "sparsity"};

constexpr int kHeadDims[] = {32, 64, 80, 128};
constexpr int kWidths[] = {64, 72, 128, 200};
constexpr int kFfns[] = {96, 136};
constexpr int kVocabs[] = {256, 131, 1003};
constexpr int kBatches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
constexpr const char* kLengthKinds[] = {"full 12", "one of 1", "long"};
constexpr const char* kKernels[] = {"auto", "library"};

using Row = std::vector<int>;
using Pair = std::tuple<int, int, int, int>;  // factor, value, later factor, value

std::vector<int> levels(size_t precisions, size_t kvs, size_t degrees, size_t patterns) {
  std::vector<int> n(kFactors, 2);
  n[kPosition] = 5;
  n[kActivation] = 6;
  n[kHeadDim] = std::size(kHeadDims);
  n[kWidth] = std::size(kWidths);
  n[kVocab] = std::size(kVocabs);
  n[kBatch] = std::size(kBatches);
  n[kLengths] = std::size(kLengthKinds);
  n[kPrecision] = static_cast<int>(precisions);
  n[kKv] = static_cast<int>(kvs);
  n[kDegree] = static_cast<int>(degrees);
  n[kSparsity] = static_cast<int>(patterns);
  return n;
}

int new_pairs(const Row& row, const std::set<Pair>& missing) {
  int count = 0;
  for (int a = 0; a < kFactors; ++a) {
    for (int b = a + 1; b < kFactors; ++b) count += static_cast<int>(missing.count({a, row[a], b, row[b]}));
  }
  return count;
}

/// Greedy: each row is the best of some that start with a missing pair and are otherwise random.
std::vector<Row> covering_array(const std::vector<int>& n, std::mt19937_64& rng) {
  std::set<Pair> missing;
  for (int a = 0; a < kFactors; ++a) {
    for (int b = a + 1; b < kFactors; ++b) {
      for (int i = 0; i < n[a]; ++i) {
        for (int j = 0; j < n[b]; ++j) missing.insert({a, i, b, j});
      }
    }
  }
  std::vector<Row> rows;
  while (!missing.empty()) {
    Row best;
    int best_count = -1;
    for (int attempt = 0; attempt < 60; ++attempt) {
      Row row(kFactors);
      for (int f = 0; f < kFactors; ++f) row[f] = static_cast<int>(rng() % n[f]);
      auto pick = missing.begin();
      std::advance(pick, rng() % missing.size());
      const auto [a, i, b, j] = *pick;
      row[a] = i;
      row[b] = j;
      const int count = new_pairs(row, missing);
      if (count > best_count) {
        best = row;
        best_count = count;
      }
    }
    for (int a = 0; a < kFactors; ++a) {
      for (int b = a + 1; b < kFactors; ++b) missing.erase({a, best[a], b, best[b]});
    }
    rows.push_back(best);
  }
  return rows;
}

std::vector<int32_t> source_lengths_of(int kind, int batch, std::mt19937_64& rng) {
  std::vector<int32_t> lengths(batch, 12);
  if (kind == 1) {
    for (int32_t& l : lengths) l = static_cast<int32_t>(1 + rng() % 17);
    lengths[rng() % batch] = 1;
  } else if (kind == 2) {
    for (int32_t& l : lengths) l = static_cast<int32_t>(20 + rng() % 21);
  }
  return lengths;
}

}  // namespace

std::vector<CoverCase> covering_cases(uint64_t seed, const std::vector<Precision>& precisions,
                                      const std::vector<KvType>& kvs, const std::vector<int>& degrees,
                                      const std::vector<SparsitySpec>& patterns) {
  std::mt19937_64 rng(seed);
  std::vector<CoverCase> cases;
  for (const Row& row :
       covering_array(levels(precisions.size(), kvs.size(), degrees.size(), patterns.size()), rng)) {
    CoverCase c;
    ModelConfig& m = c.config;
    m.name = "cover";
    c.precision = precisions[row[kPrecision]];
    if (activation_dtype(c.precision) == DType::kBF16) c.kv = kvs[row[kKv]];
    c.sparsity = patterns[row[kSparsity]];
    const int width = quantises_activations({.precision = c.precision}) ? 16 : 8;
    m.d_model = round_up(kWidths[row[kWidth]], width);
    m.head_dim = kHeadDims[row[kHeadDim]];
    m.encoder = {
        .layers = 2, .heads = static_cast<int>(1 + rng() % 3), .d_ff = round_up(kFfns[row[kFfn]], width)};
    m.decoder = {
        .layers = 2, .heads = static_cast<int>(1 + rng() % 3), .d_ff = round_up(kFfns[row[kFfn]], width)};
    c.degree = degrees[row[kDegree]];
    if (degrees.size() > 1) {  // many heads, and widths that every degree divides into what its kernels take
      m.head_dim /= 4;
      for (StackConfig* stack : {&m.encoder, &m.decoder}) {
        stack->heads = rng() % 2 == 0 ? 8 : 16;
        stack->d_ff = round_up(stack->d_ff, width * c.degree);
      }
    }
    // One head cannot lose half of its kind.
    if (c.sparsity.heads != 0) {
      m.encoder.heads = std::max(2, m.encoder.heads);
      m.decoder.heads = std::max(2, m.decoder.heads);
    }
    m.vocab = kVocabs[row[kVocab]];
    m.norm = static_cast<Norm>(row[kNorm]);
    m.placement = static_cast<NormPlacement>(row[kPlacement]);
    // Pre-norm without a final norm leaves the encoder's output at any size: no family has that, and its
    // cross-attention would multiply rounding errors a hundredfold.
    m.final_norm = row[kFinalNorm] != 0 || m.placement == NormPlacement::kPre;
    m.embedding_norm = row[kEmbeddingNorm] != 0;
    m.position = static_cast<Position>(row[kPosition]);
    m.max_positions = 64;
    m.position_offset = m.position == Position::kLearned || m.position == Position::kSinusoidalHalves ? 2 : 0;
    m.sinusoid_spans_end = m.position == Position::kSinusoidalHalves;
    m.relative_buckets = 8;
    m.relative_max_distance = 20;
    m.activation = static_cast<Activation>(row[kActivation]);
    m.gated = row[kGated] != 0;
    m.bias = row[kBias] != 0;
    m.head_bias = row[kHeadBias] != 0;
    m.attention_scale = m.position == Position::kRelative ? 1.0 : 1.0 / std::sqrt(m.head_dim);
    m.embedding_scale = row[kBias] != 0 ? std::sqrt(m.d_model) : 1.0;
    m.tied_head = row[kTied] != 0;
    // No family scales its embeddings and a tied head: seeded tables that such a head wants make embeddings of deviation 30,
    // whose attention, of scores in the thousands, is an arg-max that a rounding in 16 bits turns to another key.
    const bool scales_head = m.tied_head && !m.head_bias && m.embedding_scale == 1;
    m.head_scale = scales_head ? 1.0 / std::sqrt(m.d_model) : 1.0;
    m.shared_embeddings = row[kShared] != 0;
    c.kernel = kKernels[row[kKernel]];
    c.lengths = source_lengths_of(row[kLengths], kBatches[row[kBatch]], rng);

    for (int f = 0; f < kFactors; ++f) c.text += fmt::format("{}{}={}", f == 0 ? "" : " ", kNames[f], row[f]);
    c.text +=
        fmt::format(" ({} {} kv {} {} tp {} d{} h{}x{} vocab {} lengths {})", precision_name(c.precision),
                    sparsity_text(c.sparsity), kv_name(c.kv), c.kernel, c.degree, m.d_model, m.encoder.heads,
                    m.head_dim, m.vocab, fmt::join(c.lengths, ","));
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace tandem::kernels
