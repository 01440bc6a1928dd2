#include "harness/weights/pruning/prune.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/materialise.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

ModelConfig small_model() {
  ModelConfig c = preset("tiny");
  c.d_model = 40;
  c.head_dim = 8;
  c.encoder = {.layers = 3, .heads = 4, .d_ff = 56};
  c.decoder = {.layers = 4, .heads = 8, .d_ff = 72};
  c.vocab = 101;
  return c;
}

/// Values by a function of the tensor's name and the index.
class MadeSource : public WeightSource {
 public:
  using Make = std::function<float(const std::string&, int64_t row, int64_t col)>;
  explicit MadeSource(Make make) : make_(std::move(make)) {}
  void read(const WholeTensor& t, const Rectangle& at, std::span<float> out) const override {
    for (int64_t i = 0; i < at.size(); ++i)
      out[static_cast<size_t>(i)] = make_(t.name, at.first_row + i / at.cols, at.first_col + i % at.cols);
  }
  std::string key() const override { return "made"; }

 private:
  Make make_;
};

/// Which values of the whole model's matrix are kept, by a plain sort.
std::vector<bool> sorted_mask(const std::vector<float>& values, double fraction) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order,
                           [&](size_t a, size_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  std::vector<bool> kept(values.size(), true);
  const auto removed = static_cast<size_t>(std::floor(fraction * static_cast<double>(values.size())));
  for (size_t i = values.size() - removed; i < values.size(); ++i) kept[order[i]] = false;
  return kept;
}

std::vector<float> dense_values(const WeightSource& source, const TensorSpec& t) {
  std::vector<float> values(static_cast<size_t>(t.size()));
  read_values(source, t, {.rows = t.rows, .cols = t.cols}, values);
  return values;
}

// Breaks when another number than floor(R * size) goes, when not the smallest go, or when of equal ones a lower index goes first:
// seeded values, which have ties, and ones that are nearly all ties.
TEST(Prune, UnstructuredRemovesTheSmallestOfEachMatrix) {
  const ModelConfig c = small_model();
  const SeededSource seeded({.seed = test_seed(), .outliers = true});
  const MadeSource ties([](const std::string&, int64_t r, int64_t col) {
    return static_cast<float>((r * 7 + col * 3) % 5 - 2);
  });
  for (const WeightSource* source :
       {static_cast<const WeightSource*>(&seeded), static_cast<const WeightSource*>(&ties)}) {
    for (const double fraction : {0.001, 0.3, 0.5, 0.77, 0.999}) {
      const HostWeights host = host_weights(c, *source, {.sparsity = {.unstructured = fraction}});
      for (const TensorSpec& t : host.layout.tensors) {
        const std::vector<float> dense = dense_values(*source, t);
        const auto got = host.tensor(t.name);
        const bool product = t.use == TensorUse::kProduct;
        const std::vector<bool> kept =
            product ? sorted_mask(dense, fraction) : std::vector<bool>(dense.size(), true);
        for (size_t i = 0; i < dense.size(); ++i)
          ASSERT_EQ(got[i], kept[i] ? dense[i] : 0.0f) << t.name << " " << i << " of " << fraction;
      }
    }
  }
}

// The bar: a threshold that unstructured pruning found keeps the same weights. Where several have that magnitude, the fraction is
// set so that all of them stay.
TEST(Prune, ThresholdKeepsWhatUnstructuredKeepsAboveIt) {
  ModelConfig c = small_model();
  c.encoder.layers = c.decoder.layers = 1;
  const MadeSource source([seed = test_seed()](const std::string& name, int64_t r, int64_t col) {
    return static_cast<float>(centred_sum(stream_key(seed, name), static_cast<uint64_t>(1000 * r + col)));
  });
  const Pruning found = prune(source, c, {.sparsity = {.unstructured = 0.5}});
  for (const auto& [name, matrix] : found.matrices) {
    const float threshold = std::bit_cast<float>(matrix.cut.threshold);
    const TensorSpec t = weight_layout(c).at(name);
    const std::vector<float> dense = dense_values(source, t);
    const auto below = std::ranges::count_if(dense, [&](float v) { return std::abs(v) < threshold; });
    const double fraction = (static_cast<double>(below) + 0.5) / static_cast<double>(dense.size());
    const HostWeights by_fraction = host_weights(c, source, {.sparsity = {.unstructured = fraction}});
    const HostWeights by_threshold = host_weights(c, source, {.sparsity = {.threshold = threshold}});
    EXPECT_TRUE(std::ranges::equal(by_fraction.tensor(name), by_threshold.tensor(name))) << name;
  }
}

// A threshold that no float is equal to: compared in double, as it was written.
TEST(Prune, AThresholdBetweenTwoFloatsRemovesTheLowerOne) {
  const ModelConfig c = small_model();
  const float low = 0.1f, high = std::nextafter(low, 1.0f);
  const MadeSource source(
      [&](const std::string&, int64_t, int64_t col) { return col % 2 == 0 ? low : -high; });
  const double between = (static_cast<double>(low) + static_cast<double>(high)) / 2;
  for (const double threshold : {between, static_cast<double>(high)}) {
    const HostWeights host = host_weights(c, source, {.sparsity = {.threshold = threshold}});
    const auto got = host.tensor("encoder.layers.0.ffn.up.weight");
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i % 2 == 0 ? 0.0f : -high);
  }
  const HostWeights all = host_weights(c, source, {.sparsity = {.threshold = low}});
  EXPECT_EQ(std::ranges::count(all.tensor("encoder.layers.0.ffn.up.weight"), 0.0f), 0) << "not below it";
}

// Two of four, the larger ones; of equal ones the lower index.
TEST(Prune, TwoOfFourKeepsTheLargerTwo) {
  const auto kept = [](std::array<float, 4> v) { return two_of_four(v); };
  EXPECT_EQ(kept({1, 2, 3, 4}), (std::array{2, 3}));
  EXPECT_EQ(kept({4, -3, 2, 1}), (std::array{0, 1}));
  EXPECT_EQ(kept({0, 0, 0, 0}), (std::array{0, 1}));
  EXPECT_EQ(kept({0, 5, 0, 0}), (std::array{0, 1}));
  EXPECT_EQ(kept({1, -1, 1, 2}), (std::array{0, 3}));
  EXPECT_EQ(kept({1, 2, -2, 2}), (std::array{1, 2}));
  EXPECT_EQ(kept({1, NAN, 3, 2}), (std::array{1, 2})) << "a NaN stays, so that it shows";
  const ModelConfig c = small_model();
  const SeededSource source({.seed = test_seed()});
  const HostWeights host = host_weights(c, source, {.sparsity = {.two_of_four = true}});
  for (const TensorSpec& t : host.layout.tensors) {
    const std::vector<float> dense = dense_values(source, t);
    const auto got = host.tensor(t.name);
    for (size_t i = 0; t.use == TensorUse::kProduct && i < got.size(); i += 4) {
      const auto [first, second] = kept({dense[i], dense[i + 1], dense[i + 2], dense[i + 3]});
      for (int j = 0; j < 4; ++j) {
        const auto at = i + static_cast<size_t>(j);
        ASSERT_EQ(got[at], j == first || j == second ? dense[at] : 0.0f) << t.name << " " << at;
      }
    }
    if (t.use != TensorUse::kProduct) {
      ASSERT_TRUE(std::ranges::equal(got, dense)) << t.name;
    }
  }
}

// Structured pruning keeps the parts of the largest norm, each layer and each attention its own; of equal ones the lowest.
TEST(Prune, WholePartsGoByTheirNorm) {
  const ModelConfig c = small_model();
  const auto value = [&](const std::string& name, int64_t row, int64_t col) {
    // Decoder layers 1 and 2 are small. Of self-attention odd heads are large; of cross-attention the last four. Of the
    // FFN's columns every third one is large, by `down` alone.
    float v = 1;
    if (name.starts_with("decoder.layers.1.") || name.starts_with("decoder.layers.2.")) v = 0.01f;
    const auto part = [&](int64_t rows) { return (name.ends_with("out.weight") ? col : row) / rows; };
    if (name.find(".self.") != std::string::npos && part(c.head_dim) % 2 == 1) v *= 2;
    if (name.find(".cross.") != std::string::npos && part(c.head_dim) >= 4) v *= 2;
    if (name.find(".down.") != std::string::npos && col % 3 == 1) v *= 2;
    return v;
  };
  const Pruning p = prune(MadeSource(value), c, {.sparsity = {.heads = 0.5, .ffn = 2.0 / 3, .layers = 0.5}});
  EXPECT_EQ(p.kept.decoder.layers, (std::vector{0, 3}));
  EXPECT_EQ(p.kept.encoder.layers, (std::vector{0})) << "all alike: 2 of 3 go, the lowest stays";
  EXPECT_EQ(p.kept.decoder.self_heads, (std::vector<std::vector<int>>(2, {1, 3, 5, 7})));
  EXPECT_EQ(p.kept.decoder.cross_heads, (std::vector<std::vector<int>>(2, {4, 5, 6, 7})));
  ASSERT_EQ(p.kept.decoder.ffn.size(), 2U);
  EXPECT_EQ(p.kept.decoder.ffn[1].size(), 24U);
  EXPECT_TRUE(std::ranges::all_of(p.kept.decoder.ffn[1], [](int i) { return i % 3 == 1; }));
  EXPECT_EQ(kept_config(c, p.kept).decoder.d_ff, 24);
}

// Every form on every rank: what is stored, unpacked, is the masked values of the whole model, rounded.
TEST(Prune, StoredFormsHoldTheValuesOfTheReference) {
  ModelConfig c = small_model();
  c.d_model = 64, c.head_dim = 32;  // a rank's columns of out and down are whole groups of four-bit codes
  c.encoder = {.layers = 2, .heads = 8, .d_ff = 256};
  c.decoder = {.layers = 2, .heads = 8, .d_ff = 512};
  const SeededSource source({.seed = test_seed(), .outliers = true});
  const SparsitySpec patterns[] = {{.two_of_four = true},
                                   {.unstructured = 0.5},
                                   {.unstructured = 0.8},
                                   {.unstructured = 0.1},
                                   {.two_of_four = true, .ffn = 0.5},
                                   {.unstructured = 0.6, .heads = 0.5, .layers = 0.5}};
  for (const Precision precision : {Precision::kFp32, Precision::kFp16, Precision::kBf16, Precision::kW8a16,
                                    Precision::kFp8, Precision::kInt8, Precision::kW4a16}) {
    for (const SparsitySpec& sparsity : patterns) {
      const WeightForm whole_form{.precision = precision, .sparsity = sparsity};
      const HostWeights whole = host_weights(c, source, whole_form);
      for (const TensorSlice slice : {TensorSlice{}, TensorSlice{2, 1}}) {
        WeightForm form = whole_form;
        form.slice = slice;
        SCOPED_TRACE(form_text(form));
        const Pruning pruning = prune(source, c, form);
        const WeightLayout layout = weight_layout(c, form, pruning);
        std::vector<std::byte> arena(static_cast<size_t>(layout.bytes), std::byte{0xee});
        materialise(source, layout, {.host = arena});
        const HostWeights here = host_weights(c, source, form);
        int64_t bitmaps = 0;
        for (const TensorSpec& t : layout.tensors) {
          ASSERT_EQ(t.cut, here.layout.at(t.name).cut);
          bitmaps += t.storage.bitmap ? 1 : 0;
          if (t.use != TensorUse::kProduct) continue;
          const auto of_rank = here.tensor(t.name);
          const auto of_whole = whole.tensor(t.name);
          const TensorSpec& w = whole.layout.at(t.name);
          const int64_t row0 = t.rows == w.rows ? 0 : slice.rank * t.rows,
                        col0 = t.cols == w.cols ? 0 : slice.rank * t.cols;
          for (int64_t i = 0; i < t.size(); ++i) {
            ASSERT_EQ(of_rank[static_cast<size_t>(i)],
                      of_whole[static_cast<size_t>((row0 + i / t.cols) * w.cols + col0 + i % t.cols)])
                << t.name << " " << i;
          }
          // As bits: read back by the planes that kernels read.
          if (!t.storage.bitmap && !t.storage.two_of_four) continue;
          const ModelWeights views = bind_weights(layout, arena.data());
          DenseWeight view =
              t.name.find(".ffn.up") != std::string::npos && t.name.starts_with("encoder.layers.0")
                  ? views.encoder.layers[0].ffn.up
                  : DenseWeight{};
          if (view.weight.empty()) continue;
          const std::vector<uint32_t> bits = unpack_sparse(view);
          ASSERT_EQ(static_cast<int64_t>(bits.size()), t.size());
          for (size_t i = 0; i < bits.size(); ++i) {
            // A kept value may be 0 as a code; a removed one always is.
            if (bits[i] != 0) {
              ASSERT_NE(of_rank[i], 0.0f) << i;
            }
            if (of_rank[i] != 0) {
              ASSERT_NE(bits[i], 0u) << i;
            }
            if (precision == Precision::kFp32) {
              ASSERT_EQ(std::bit_cast<float>(bits[i]), of_rank[i]);
            }
          }
        }
        const bool packed = sparsity.unstructured >= kBitmapLeastRemoved;
        EXPECT_EQ(bitmaps > 0, packed);
      }
    }
  }
}

// Of merged matrices each has its own mask; as one view they are the parts' rows one after the other.
TEST(Prune, PartsOfOneBitmapAreRowsOfTheirGroup) {
  const ModelConfig c = small_model();
  const SeededSource source({.seed = test_seed(), .outliers = true});
  const WeightForm form{.precision = Precision::kBf16, .sparsity = {.unstructured = 0.5}};
  const WeightLayout layout = weight_layout(c, form, prune(source, c, form));
  std::vector<std::byte> arena(static_cast<size_t>(layout.bytes));
  materialise(source, layout, {.host = arena});
  const ModelWeights w = bind_weights(layout, arena.data());
  const auto joined = [](std::initializer_list<DenseWeight> parts) {
    std::vector<uint32_t> all;
    for (const DenseWeight& part : parts) {
      const auto one = unpack_sparse(part);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  };
  const AttentionWeight& self = w.decoder.layers[1].self;
  EXPECT_EQ(unpack_sparse(self.qkv), joined({self.q, self.k, self.v}));
  const auto& layers = w.decoder.layers;
  EXPECT_EQ(unpack_sparse(w.decoder.cross_kv),
            joined({layers[0].cross.k, layers[0].cross.v, layers[1].cross.k, layers[1].cross.v,
                    layers[2].cross.k, layers[2].cross.v, layers[3].cross.k, layers[3].cross.v}));
  // Each row of each part starts on 16 bytes and ends where the next one starts.
  for (int64_t r = 0; r < self.qkv.weight.rows; ++r)
    ASSERT_LE(self.qkv.row_starts[r], self.qkv.row_starts[r + 1]);
}

// Breaks when rectangles land in other places than the whole rows that materialise() stores.
TEST(Prune, SparseFormsFilledInPiecesAreTheSame) {
  std::mt19937_64 rng(test_seed());
  const ModelConfig c = small_model();
  const SeededSource source({.seed = 7});
  for (const Precision precision : {Precision::kBf16, Precision::kW8a16}) {
    for (const SparsitySpec& sparsity :
         {SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.6}}) {
      const WeightForm form{.precision = precision, .sparsity = sparsity};
      const WeightLayout layout = weight_layout(c, form, prune(source, c, form));
      std::vector<std::byte> want(static_cast<size_t>(layout.bytes)), got(want.size());
      materialise(source, layout, {.host = want});
      for (const TensorSpec& t : layout.tensors) {
        const auto row = static_cast<int64_t>(rng() % static_cast<uint64_t>(t.rows));
        const auto col = static_cast<int64_t>(rng() % static_cast<uint64_t>(t.cols));
        for (const Rectangle& at :
             {Rectangle{0, row, 0, t.cols}, Rectangle{row, t.rows - row, col, t.cols - col},
              Rectangle{row, t.rows - row, 0, col}}) {
          if (at.size() > 0) store_rectangle(source, layout, t, at, got);
        }
      }
      EXPECT_EQ(got, want) << form_text(form);
    }
  }
}

// The record's fraction: counted one by one.
TEST(Prune, CountsWhatIsKept) {
  const SeededSource source({.seed = 3});
  for (const char* name : {"tiny", "t5-small"}) {
    ModelConfig c = preset(name);
    c.d_model = 40, c.head_dim = 8, c.vocab = 99;
    c.encoder = c.decoder = {.layers = 2, .heads = 4, .d_ff = 64};
    for (const SparsitySpec& sparsity :
         {SparsitySpec{}, SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.37},
          SparsitySpec{.threshold = 0.05}, SparsitySpec{.heads = 0.5},
          SparsitySpec{.ffn = 0.5, .layers = 0.5}, SparsitySpec{.unstructured = 0.5, .heads = 0.25}}) {
      const WeightForm form{.precision = Precision::kFp8, .sparsity = sparsity};
      const WeightCount count = count_weights(c, form, prune(source, c, form));
      const HostWeights dense = host_weights(c, source),
                        pruned = host_weights(c, source, {.sparsity = sparsity});
      EXPECT_EQ(count.dense, dense.layout.size()) << "a head that is stored apart is no other weight";
      int64_t kept = 0;
      std::set<std::pair<std::string, int64_t>> heads;
      for (const TensorSpec& t : pruned.layout.tensors) {
        // The seeded values that are exactly 0 are few and stay last.
        const auto values = pruned.tensor(t.name);
        const bool masked = t.use == TensorUse::kProduct && (sparsity.two_of_four || sparsity.by_magnitude());
        if (t.name.ends_with(".relative_bias")) {  // layers may have columns in common
          for (const IndexRun& run : t.col_runs) {
            for (int64_t i = 0; i < run.count; ++i) heads.emplace(t.whole.name, run.first + i);
          }
          continue;
        }
        kept += masked ? static_cast<int64_t>(values.size()) - std::ranges::count(values, 0.0f) : t.size();
      }
      kept += static_cast<int64_t>(heads.size()) * c.relative_buckets;
      EXPECT_NEAR(count.fraction_kept(), static_cast<double>(kept) / static_cast<double>(count.dense), 1e-3)
          << sparsity_text(sparsity);
      EXPECT_LE(count.kept, count.dense);
    }
  }
}

// Sizes that are predicted without the values are those that the values make, but for how rows differ.
TEST(Prune, ExpectedSizesAreNear) {
  const ModelConfig c = preset("tiny");
  const SeededSource source({.seed = 3});
  for (const SparsitySpec& sparsity :
       {SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.5},
        SparsitySpec{.unstructured = 0.8, .heads = 0.5}, SparsitySpec{.ffn = 0.5}}) {
    const WeightForm form{.precision = Precision::kBf16, .sparsity = sparsity};
    const auto expected = static_cast<double>(weight_layout(c, form).bytes);
    const auto real = static_cast<double>(weight_layout(c, form, prune(source, c, form)).bytes);
    EXPECT_NEAR(expected / real, 1, 0.08) << sparsity_text(sparsity);
  }
  const WeightLayout guessed = weight_layout(c, {.sparsity = {.unstructured = 0.5}});
  std::vector<std::byte> arena(static_cast<size_t>(guessed.bytes));
  EXPECT_THROW(materialise(source, guessed, {.host = arena}), Error) << "nothing may be made of a guess";
}

// The bad input of the issue: what would leave a model without a part, or has no storage, is refused and named.
TEST(Prune, RefusesWhatLeavesNothing) {
  const ModelConfig c = small_model();
  const SeededSource source({.seed = 1});
  const auto why = [&](const ModelConfig& config, const WeightForm& form) -> std::string {
    try {
      const Pruning p = prune(source, config, form);
      (void)weight_layout(config, form, p);
    } catch (const ImpossibleCase& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(why(c, {.sparsity = {.threshold = 1e6}}).find("sparsity: 'threshold:1000000' removes all"),
            std::string::npos);
  EXPECT_NE(why(c, {.sparsity = {.heads = 0.9}}).find("sparsity: 0.9 removes 4 of 4 heads"),
            std::string::npos);
  EXPECT_NE(why(c, {.sparsity = {.layers = 0.1}}).find("removes 0 of 3 layers"), std::string::npos);
  EXPECT_NE(why(c, {.sparsity = {.heads = 0.25}, .slice = {2, 0}}).find("tp: 2 does not divide heads 3"),
            std::string::npos);
  ModelConfig odd = c;
  odd.encoder.d_ff = 54;
  EXPECT_NE(why(odd, {.sparsity = {.two_of_four = true}}).find("2:4 needs rows that 4 divides"),
            std::string::npos);
  EXPECT_NE(why(c, {.sparsity = {.two_of_four = true, .ffn = 0.26}}).find("2:4 needs rows"),
            std::string::npos);
}

// Breaks when weights are chosen otherwise here than in scripts/peers/twin/pruning.py, whose test (reports/tests/test_pruning.py)
// holds the same hashes.
TEST(Prune, PrunedModelsAreTheTwinsToo) {
  ModelConfig c = preset("tiny");
  c.position = Position::kRelative;
  const std::pair<const char*, const char*> all[] = {
      {"2:4", "76b5e47ae71a1de87893baf422a0efb32d0e836468b13c8f9c0ca4775a4dec9d"},
      {"unstructured:0.5", "3a74e91a8321375d917b16fa6cde699ecb1897399f97c0e3909e784e8bd20db7"},
      {"threshold:0.05", "5a359860c9d6bdd96efd19a14ed1d05ea9696079c8951709e673d99e649d012d"},
      {"unstructured:0.8+heads:0.5", "87af85eb67702ac10de777ad3fe754beab86b123b39a319c66cd72b6c1461132"},
      {"2:4+ffn:0.25+layers:0.5", "125b68b0143b7d2315a77876d9bb80e11cfffd643fbddbef603b273b71ab5f63"}};
  for (const auto& [sparsity, want] : all) {
    const HostWeights host =
        host_weights(c, SeededSource({.seed = 17, .outliers = true}), {.sparsity = parse_sparsity(sparsity)});
    std::map<std::string, std::span<const float>> by_name;
    for (const TensorSpec& t : host.layout.tensors) by_name[t.name] = host.tensor(t.name);
    Sha256 hash;
    for (const auto& [name, values] : by_name) {
      hash.update(name);
      hash.update(std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
    }
    EXPECT_EQ(hash.hex(), want) << sparsity;
  }
}

// Breaks when who looks at the matrices instead is not asked, is asked of other ones, or what it says is not used.
TEST(Prune, AnotherMayLookAtTheMatrices) {
  const ModelConfig c = small_model();
  const SeededSource source({.seed = test_seed()});
  const WeightForm form{.sparsity = parse_sparsity("unstructured:0.5+ffn:0.5"),
                        .slice = {.degree = 2, .rank = 1}};
  const Pruning want = prune(source, c, form);
  std::set<std::string> asked;
  const Pruning got =
      prune(source, c, form, [&](const SparsitySpec& s, const TensorSpec& t, const TensorSpec& here) {
        EXPECT_EQ(s, form.sparsity);
        EXPECT_EQ(here.name, t.name);
        EXPECT_EQ(static_cast<size_t>(here.rows), want.matrices.at(t.name).row_kept.size());
        asked.insert(t.name);
        PrunedMatrix m = want.matrices.at(t.name);
        m.kept += 1;
        return m;
      });
  EXPECT_EQ(asked.size(), want.matrices.size());
  for (const auto& [name, matrix] : got.matrices)
    EXPECT_EQ(matrix.kept, want.matrices.at(name).kept + 1) << name;
}

}  // namespace
}  // namespace tandem
