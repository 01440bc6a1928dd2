// Pruned seeded weights on the device: which go (seeded_cut.h) and how the rest is stored (seeded_sparse.h).
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/weights/materialise.h"
#include "kernels/common/device_test.h"
#include "kernels/seeded/seeded_cut.h"
#include "kernels/seeded/seeded_fill.h"
#include "kernels/seeded/seeded_sparse.h"

namespace tandem::kernels {
namespace {

/// Widths that no warp and no byte of metadata divides; halves of halves are still whole fours.
ModelConfig small_config() {
  ModelConfig c = preset("tiny");
  c.d_model = 76;
  c.head_dim = 20;
  c.encoder = {.layers = 2, .heads = 4, .d_ff = 112};
  c.decoder = {.layers = 4, .heads = 8, .d_ff = 80};
  c.vocab = 99;
  return c;
}

constexpr const char* kPatterns[] = {"2:4",
                                     "unstructured:0.0001",
                                     "unstructured:0.25",
                                     "unstructured:0.5",
                                     "unstructured:0.95",
                                     "unstructured:0.9999",
                                     "threshold:0.02",
                                     "2:4+ffn:0.5",
                                     "unstructured:0.5+heads:0.5",
                                     "unstructured:0.8+layers:0.5+ffn:0.25"};

void expect_same(const Pruning& got, const Pruning& want, const std::string& what) {
  EXPECT_EQ(got.kept, want.kept) << what;
  ASSERT_EQ(got.matrices.size(), want.matrices.size()) << what;
  for (const auto& [name, matrix] : want.matrices) {
    const PrunedMatrix& other = got.matrices.at(name);
    EXPECT_EQ(other.cut, matrix.cut) << what << " " << name;
    EXPECT_EQ(other.kept, matrix.kept) << what << " " << name;
    EXPECT_EQ(other.size, matrix.size) << what << " " << name;
    EXPECT_TRUE(other.row_kept == matrix.row_kept) << what << " " << name;
  }
}

void expect_equal_arenas(const WeightsSpec& spec, const WeightLayout& layout, const std::string& what) {
  ASSERT_TRUE(seeded_arena_fits(layout)) << what;
  const DeviceTensor arena(layout.bytes, DType::kU8);
  launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = arena.data()}, nullptr);
  std::vector<std::byte> want(static_cast<size_t>(layout.bytes));
  materialise(SeededSource(spec), layout, {.host = want});
  const std::vector<uint8_t> got = arena.bytes();
  for (const TensorSpec& t : layout.tensors) {
    const auto part = [&](int64_t from, int64_t bytes, const char* name) {
      for (int64_t i = from; i < from + bytes; ++i) {
        if (std::byte{got[static_cast<size_t>(i)]} == want[static_cast<size_t>(i)]) continue;
        ADD_FAILURE() << what << ": " << name << " of " << t.name << ", byte " << i - from << " of " << bytes;
        return;
      }
    };
    const bool bitmap = t.storage.bitmap;
    part(bitmap ? t.group_offset + t.row_starts.front() * Storage::kRowStartBytes : t.offset, t.value_bytes(),
         "values");
    part(t.scale_offset, t.scale_bytes(), "scales");
    part(t.metadata_offset, t.metadata_bytes(), "metadata");
    if (bitmap) part(t.bitmap_offset, t.bitmap_bytes(), "bitmap");
    if (bitmap) part(t.starts_offset, t.starts_bytes(), "row starts");
  }
  size_t bad = 0;
  for (size_t i = 0; i < want.size(); ++i) bad += std::byte{got[i]} != want[i] ? 1 : 0;
  EXPECT_EQ(bad, 0u) << what;
}

// Without it: a model pruned on the card is another than the one that the reference computes; or two ranks have masks of their
// own.
TEST(SeededPrune, ChoosesAndStoresWhatTheHostDoes) {
  TANDEM_NEEDS_DEVICE();
  const ModelConfig config = small_config();
  for (const bool outliers : {false, true}) {
    const WeightsSpec spec{.seed = test_seed(), .outliers = outliers};
    const SeededSource source(spec);
    const MatrixPruner on_card = seeded_pruner(spec, nullptr);
    for (const char* pattern : kPatterns) {
      for (const int degree : {1, 2}) {
        for (const Precision precision : {Precision::kBf16, Precision::kFp16, Precision::kFp32}) {
          const bool slices = degree == 2 && precision == Precision::kBf16;
          if (degree == 2 && !slices) continue;
          const WeightForm form{.precision = precision,
                                .sparsity = parse_sparsity(pattern),
                                .slice = {.degree = degree, .rank = degree - 1}};
          const std::string what = form_text(form) + (outliers ? " outliers" : "");
          const Pruning want = prune(source, config, form);
          expect_same(prune(source, config, form, on_card), want, what);
          expect_equal_arenas(spec, weight_layout(config, form, want), what);
        }
      }
    }
  }
}

// Without it: pruned codes have the scales of what was removed, or their metadata is another's.
TEST(SeededPrune, Codes) {
  TANDEM_NEEDS_DEVICE();
  ModelConfig config = small_config();
  config.d_model = 96;
  const WeightsSpec spec{.seed = test_seed(), .outliers = true};
  for (const Precision precision : {Precision::kFp8, Precision::kInt8, Precision::kW8a16}) {
    for (const char* pattern : {"2:4", "2:4+ffn:0.5", "unstructured:0.5", "unstructured:0.99+heads:0.5"}) {
      for (const bool zeros : {false, true}) {
        const WeightForm form{
            .precision = precision, .sparsity = parse_sparsity(pattern), .zeros_stored = zeros};
        if (form.sparsity.by_magnitude() && !zeros) continue;  // the host's
        const Pruning pruning = prune(SeededSource(spec), config, form);
        expect_equal_arenas(spec, weight_layout(config, form, pruning), form_text(form));
      }
    }
  }
}

// Without it: weights pruned to plain fp32 for the truth are others than the stored ones.
TEST(SeededPrune, PlainForms) {
  TANDEM_NEEDS_DEVICE();
  const ModelConfig config = small_config();
  const WeightsSpec spec{.seed = test_seed()};
  for (const char* pattern : kPatterns) {
    const WeightForm form =
        WeightForm{.precision = Precision::kFp32, .sparsity = parse_sparsity(pattern)}.in_fp32();
    const Pruning pruning = prune(SeededSource(spec), config, form);
    expect_equal_arenas(spec, weight_layout(config, form, pruning), form_text(form));
  }
}

// Without it: what the card cannot make is made wrong instead of left to the host.
TEST(SeededPrune, LeavesTheRestToTheHost) {
  const ModelConfig config = small_config();
  const auto fits = [&](const WeightForm& form) {
    return seeded_arena_fits(weight_layout(config, form, prune(SeededSource({.seed = 1}), config, form)));
  };
  EXPECT_FALSE(fits({.precision = Precision::kW8a16, .sparsity = {.unstructured = 0.5}}));
  EXPECT_FALSE(fits({.precision = Precision::kW4a16, .sparsity = {.two_of_four = true}}));
  EXPECT_FALSE(fits(WeightForm{.precision = Precision::kFp8, .sparsity = {.two_of_four = true}}.in_fp32()));
  EXPECT_TRUE(fits({.precision = Precision::kBf16, .sparsity = {.unstructured = 0.5}}));
}

// The bar: t5-3b pruned and packed in under 10 s. Says how long each part takes.
TEST(SeededPrune, LargeModelInTime) {
  TANDEM_NEEDS_DEVICE();
  const char* model = std::getenv("TANDEM_BENCH");
  if (model == nullptr) GTEST_SKIP() << "TANDEM_BENCH=MODEL is not set";
  const ModelConfig config = preset(model);
  const WeightsSpec spec{.seed = 0, .outliers = true};
  const SeededSource source(spec);
  const MatrixPruner on_card = seeded_pruner(spec, nullptr);
  const auto seconds = [](auto&& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (const char* pattern :
       {"2:4", "unstructured:0.5", "unstructured:0.8", "ffn:0.5", "heads:0.5", "layers:0.5"}) {
    const WeightForm form{.precision = Precision::kBf16, .sparsity = parse_sparsity(pattern)};
    Pruning pruning;
    const double choose_s = seconds([&] { pruning = prune(source, config, form, on_card); });
    WeightLayout layout;
    const double layout_s = seconds([&] { layout = weight_layout(config, form, pruning); });
    const DeviceBuffer arena(layout.bytes);
    const double store_s = seconds(
        [&] { launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = arena.data()}, nullptr); });
    std::printf("%s %s: chosen in %.2f s, laid out in %.2f s, made in %.2f s, %.3f GB\n", model, pattern,
                choose_s, layout_s, store_s, static_cast<double>(layout.bytes) * 1e-9);
    EXPECT_LT(choose_s + layout_s + store_s, 10);
  }
}

}  // namespace
}  // namespace tandem::kernels
