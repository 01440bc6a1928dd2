// Layouts of every form: places that do not overlap, and values that are the whole model's, whatever part is laid out.
#include "harness/weights/layout.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <random>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/materialise.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/quantise.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr Precision kPrecisions8[] = {Precision::kFp32,  Precision::kTf32, Precision::kFp16,
                                      Precision::kBf16,  Precision::kFp8,  Precision::kInt8,
                                      Precision::kW8a16, Precision::kW4a16};

/// Small models whose sizes 8 divides where a rank needs it, and whose vocabulary it does not.
std::vector<ModelConfig> models() {
  std::vector<ModelConfig> all;
  for (const char* name : {"tiny", "bart-base", "t5-small", "flan-t5-base", "m2m100-418m"}) {
    ModelConfig c = preset(name);
    c.d_model = 40;
    c.head_dim = 8;
    c.encoder = {.layers = 3, .heads = 8, .d_ff = 56};
    c.decoder = {.layers = 4, .heads = 16, .d_ff = 72};
    c.vocab = 101;
    c.max_positions = 33;
    c.pad_id = c.eos_id = c.decoder_start_id = 0;
    all.push_back(c);
  }
  all.push_back(all.front());
  all.back().shared_embeddings = false;
  all.back().tied_head = false;
  return all;
}

std::vector<WeightForm> forms() {
  std::vector<WeightForm> all;
  for (const Precision p : kPrecisions8) {
    for (const bool two_of_four : {false, true}) {
      for (const HeadStorage head : {HeadStorage::kSame, HeadStorage::k16Bit})
        all.push_back({.precision = p, .sparsity = {.two_of_four = two_of_four}, .head = head});
    }
    all.push_back({.precision = p, .sparsity = {.unstructured = 0.7}});
  }
  return all;
}

struct Piece {
  int64_t offset, bytes;
  std::string name;
};

std::vector<Piece> pieces(const WeightLayout& layout) {
  std::vector<Piece> all;
  for (const TensorSpec& t : layout.tensors) {
    all.push_back({t.offset, t.value_bytes(), t.name});
    if (t.scale_bytes() > 0) all.push_back({t.scale_offset, t.scale_bytes(), t.name + " scales"});
    if (t.metadata_bytes() > 0) all.push_back({t.metadata_offset, t.metadata_bytes(), t.name + " metadata"});
    if (!t.storage.bitmap) continue;
    all.push_back({t.bitmap_offset, t.bitmap_bytes(), t.name + " bitmap"});
    all.push_back({t.starts_offset, t.starts_bytes(), t.name + " row starts"});
  }
  std::ranges::sort(all, {}, &Piece::offset);
  return all;
}

// Tensors, scales or metadata would overwrite each other, or vector loads would be misaligned.
TEST(WeightLayout, PiecesOfEveryFormAreDisjointAndAligned) {
  for (const ModelConfig& c : models()) {
    for (WeightForm form : forms()) {
      for (const int degree : {1, 2, 4, 8}) {
        if (degree > 2 && form.sparsity.two_of_four) continue;  // four does not divide a rank's d_ff
        form.slice = {.degree = degree, .rank = degree - 1};
        const WeightLayout layout = weight_layout(c, form);
        int64_t end = 0;
        for (const Piece& p : pieces(layout)) {
          ASSERT_GT(p.bytes, 0) << p.name;
          ASSERT_TRUE(p.offset == end || p.offset % kGroupAlignment == 0) << p.name;
          ASSERT_GE(p.offset, end) << p.name << " of " << form_text(form);
          end = p.offset + p.bytes;
        }
        ASSERT_LE(end, layout.bytes);
        ASSERT_EQ(layout.index.size(), layout.tensors.size()) << "two tensors have one name";
      }
    }
  }
}

// A product of parts that lie together would take wrong rows, scales or metadata.
TEST(WeightLayout, PartsOfOneMatrixLieBackToBack) {
  for (const WeightForm& form : forms()) {
    const WeightLayout layout = weight_layout(models().front(), form);
    const TensorSpec& q = layout.at("decoder.layers.1.self.q.weight");
    const TensorSpec& k = layout.at("decoder.layers.1.self.k.weight");
    EXPECT_EQ(k.offset, q.offset + q.value_bytes());
    if (q.storage.scale_group != 0) {
      EXPECT_EQ(k.scale_offset, q.scale_offset + q.scale_bytes());
    }
    if (q.storage.two_of_four) {
      EXPECT_EQ(k.metadata_offset, q.metadata_offset + q.metadata_bytes());
    }
  }
}

// Breaks when a precision is stored in more or fewer bytes than it says: values, scales and metadata of one row, by hand.
TEST(WeightLayout, BytesOfARow) {
  const auto bytes = [](Precision p, bool two_of_four) {
    const Storage s =
        storage_of({.precision = p, .sparsity = {.two_of_four = two_of_four}}, TensorUse::kProduct);
    return s.row_bytes(1000);
  };
  EXPECT_EQ(bytes(Precision::kFp32, false), 4000);
  EXPECT_EQ(bytes(Precision::kBf16, false), 2000);
  EXPECT_EQ(bytes(Precision::kFp8, false), 1000 + 4);
  EXPECT_EQ(bytes(Precision::kW8a16, false), 1000 + 4);
  EXPECT_EQ(bytes(Precision::kW4a16, false), 500 + 8 * 2) << "the last of eight groups is short";
  EXPECT_EQ(bytes(Precision::kBf16, true), 1000 + 125);
  EXPECT_EQ(bytes(Precision::kFp8, true), 500 + 4 + 125);
  EXPECT_EQ(bytes(Precision::kW4a16, true), 250 + 16 + 125);
  EXPECT_EQ((Storage{.dtype = DType::kI4}.row_bytes(7)), 4) << "a row ends at a whole byte";
}

// The head and the tied table are one tensor only where they are stored alike.
TEST(WeightLayout, HeadIsATensorOfItsOwnWhereItIsStoredOtherwise) {
  ModelConfig tied = preset("tiny");
  ASSERT_TRUE(tied.tied_head);
  EXPECT_FALSE(weight_layout(tied, {.precision = Precision::kBf16}).contains("head.weight"));
  const WeightLayout fp8 = weight_layout(tied, {.precision = Precision::kFp8});
  EXPECT_EQ(fp8.at("head.weight").storage.dtype, DType::kF8);
  EXPECT_EQ(fp8.at("head.weight").whole.name, "shared.embedding") << "the values are the table's";
  EXPECT_EQ(fp8.at("shared.embedding").storage.dtype, DType::kBF16);
  EXPECT_EQ(weight_layout(tied, {.precision = Precision::kW4a16}).at("head.weight").storage.dtype,
            DType::kI8);
  EXPECT_FALSE(weight_layout(tied, {.precision = Precision::kFp8, .head = HeadStorage::k16Bit})
                   .contains("head.weight"));
}

/// Fills a layout by rectangles in random order.
std::vector<std::byte> fill_in_pieces(const WeightSource& source, const WeightLayout& layout,
                                      std::mt19937_64& rng) {
  struct Job {
    const TensorSpec* tensor;
    Rectangle at;
  };
  std::vector<Job> jobs;
  const auto cuts = [&](int64_t n) {
    std::vector<int64_t> at = {0, n};
    for (int i = 0; i < 2; ++i) at.push_back(static_cast<int64_t>(rng() % static_cast<uint64_t>(n + 1)));
    std::ranges::sort(at);
    return at;
  };
  for (const TensorSpec& t : layout.tensors) {
    const auto rows = cuts(t.rows), cols = cuts(t.cols);
    for (size_t r = 0; r + 1 < rows.size(); ++r) {
      for (size_t c = 0; c + 1 < cols.size(); ++c) {
        const Rectangle at{rows[r], rows[r + 1] - rows[r], cols[c], cols[c + 1] - cols[c]};
        if (at.size() > 0) jobs.push_back({&t, at});
      }
    }
  }
  std::ranges::shuffle(jobs, rng);
  std::vector<std::byte> arena(static_cast<size_t>(layout.bytes));
  for (const Job& job : jobs) store_rectangle(source, layout, *job.tensor, job.at, arena);
  return arena;
}

std::vector<std::byte> whole_arena(const WeightSource& source, const WeightLayout& layout) {
  std::vector<std::byte> arena(static_cast<size_t>(layout.bytes), std::byte{0xee});
  materialise(source, layout, {.host = arena});
  return arena;
}

/// Element (row, col) of the whole tensor that element (r, c) of `t` is, or nothing where it is padding.
std::optional<std::pair<int64_t, int64_t>> origin(const TensorSpec& t, int64_t r, int64_t c) {
  const auto of = [](const IndexRuns& runs, int64_t i) -> std::optional<int64_t> {
    for (const IndexRun& run : runs) {
      if (i < run.count) return run.first + i;
      i -= run.count;
    }
    return std::nullopt;
  };
  const auto row = of(t.row_runs, r), col = of(t.col_runs, c);
  if (!row || !col) return std::nullopt;
  return std::pair(*row, *col);
}

/// Every stored value against the whole model's, bit for bit. `covered`: how often each value of the whole one is here.
void expect_whole_bits(const WeightLayout& part, const std::vector<std::byte>& arena,
                       const WeightLayout& whole, const std::vector<std::byte>& want,
                       std::map<std::string, std::vector<int>>* covered = nullptr) {
  for (const TensorSpec& t : part.tensors) {
    const TensorSpec& w = whole.at(t.whole.name);
    const int64_t size = dtype_bytes(t.storage.dtype);
    for (int64_t r = 0; r < t.rows; ++r) {
      for (int64_t c = 0; c < t.cols; ++c) {
        const std::byte* got = arena.data() + t.offset + (r * t.cols + c) * size;
        const auto from = origin(t, r, c);
        if (!from) {
          ASSERT_TRUE(std::all_of(got, got + size, [](std::byte b) { return b == std::byte{0}; })) << t.name;
          continue;
        }
        const int64_t at = from->first * w.cols + from->second;
        ASSERT_EQ(std::memcmp(got, want.data() + w.offset + at * size, static_cast<size_t>(size)), 0)
            << t.name << " [" << r << ", " << c << "]";
        if (covered == nullptr) continue;
        std::vector<int>& counts = (*covered)[w.name];
        counts.resize(static_cast<size_t>(w.size()));
        ++counts[static_cast<size_t>(at)];
      }
    }
  }
}

constexpr Precision kPlain[] = {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16};

// Breaks when a slice has other values than the whole model, when the slices of all ranks do not cover it, or when a
// rectangle lands in another one's place.
TEST(Materialise, SlicesFilledInPiecesHaveTheWholeModelsBits) {
  std::mt19937_64 rng(test_seed());
  for (const ModelConfig& c : models()) {
    const SeededSource source({.seed = 5, .outliers = true});
    for (const Precision p : kPlain) {
      const WeightLayout whole = weight_layout(c, {.precision = p});
      const auto want = whole_arena(source, whole);
      EXPECT_EQ(fill_in_pieces(source, whole, rng), want) << precision_name(p);
      for (const int degree : {2, 4, 8}) {
        std::map<std::string, std::vector<int>> covered;
        for (int rank = 0; rank < degree; ++rank) {
          const WeightLayout part = weight_layout(c, {.precision = p, .slice = {degree, rank}});
          const auto arena = fill_in_pieces(source, part, rng);
          EXPECT_EQ(arena, whole_arena(source, part));
          expect_whole_bits(part, arena, whole, want, &covered);
        }
        for (const auto& [name, counts] : covered) {
          const bool shared = counts.front() == degree;
          EXPECT_TRUE(std::ranges::all_of(counts, [&](int n) { return n == (shared ? degree : 1); })) << name;
        }
        EXPECT_EQ(covered.size(), whole.tensors.size());
      }
    }
  }
}

/// Every other layer, and a third of heads and inner dimensions, drawn layer by layer.
Kept some_kept(const ModelConfig& c, std::mt19937_64& rng) {
  const auto draw = [&](int of, int keep) {
    std::vector<int> all(static_cast<size_t>(of));
    std::iota(all.begin(), all.end(), 0);
    std::ranges::shuffle(all, rng);
    all.resize(static_cast<size_t>(keep));
    std::ranges::sort(all);
    return all;
  };
  Kept kept;
  for (const auto& [stack, side] : {std::pair{&kept.encoder, &c.encoder}, {&kept.decoder, &c.decoder}}) {
    stack->layers = draw(side->layers, 2);
    for (int layer = 0; layer < 2; ++layer) {
      stack->self_heads.push_back(draw(side->heads, 4));
      if (side == &c.decoder) stack->cross_heads.push_back(draw(side->heads, 4));
      stack->ffn.push_back(draw(side->d_ff, 24));
    }
  }
  return kept;
}

// Breaks when a pruned model's values depend on what was removed beside them: its scales are the whole model's.
TEST(Materialise, PrunedModelsHaveTheWholeModelsBits) {
  std::mt19937_64 rng(test_seed());
  for (const ModelConfig& c : models()) {
    const SeededSource source({.seed = 3});
    const Kept kept = some_kept(c, rng);
    for (const Precision p : kPlain) {
      const WeightLayout whole = weight_layout(c, {.precision = p});
      const auto want = whole_arena(source, whole);
      for (const TensorSlice slice : {TensorSlice{}, TensorSlice{2, 1}, TensorSlice{4, 2}}) {
        const WeightLayout pruned = weight_layout(c, {.precision = p, .slice = slice}, kept);
        EXPECT_EQ(pruned.config.decoder.layers, 2);
        EXPECT_EQ(pruned.config.decoder.heads, 4);
        EXPECT_EQ(pruned.config.encoder.d_ff, 24);
        const TensorSpec& up = pruned.at("decoder.layers.1.ffn.up.weight");
        EXPECT_EQ(up.rows, 24 / slice.degree);
        EXPECT_EQ(up.whole.name,
                  "decoder.layers." + std::to_string(kept.decoder.layers[1]) + ".ffn.up.weight");
        expect_whole_bits(pruned, fill_in_pieces(source, pruned, rng), whole, want);
      }
    }
  }
}

// A list that does not fit would read values that are not there.
TEST(WeightLayout, KeptListsMustFitTheModel) {
  const ModelConfig c = models().front();
  const auto refused = [&](const KeptStack& decoder) {
    EXPECT_THROW(weight_layout(c, {}, {.encoder = {}, .decoder = decoder}), UsageError);
  };
  refused({.layers = {0, 0}});
  refused({.layers = {1, 4}});
  refused({.ffn = {{0, 1}}});                                         // one list for four layers
  refused({.ffn = {{0, 1}, {0, 1}, {0}, {0, 1}}});                    // several lengths
  refused({.self_heads = {{0}, {0}, {0}, {0}}});                      // cross_heads missing
  EXPECT_THROW(weight_layout(c, {.slice = {3, 0}}), ImpossibleCase);  // heads
}

// The reference must compute with the very values that an engine stores in 16 bits.
TEST(Materialise, Fp32StorageHoldsTheFormsValues) {
  const ModelConfig c = models().front();
  const SeededSource source({.seed = 9});
  const WeightLayout bf16 = weight_layout(c, {.precision = Precision::kBf16});
  const auto arena = whole_arena(source, bf16);
  const HostWeights host = host_weights(c, source, {.precision = Precision::kBf16});
  for (const TensorSpec& t : bf16.tensors) {
    const auto values = host.tensor(t.name);
    for (int64_t i = 0; i < t.size(); ++i) {
      uint16_t stored = 0;
      std::memcpy(&stored, arena.data() + t.offset + 2 * i, 2);
      const uint32_t bits = uint32_t{stored} << 16;
      ASSERT_EQ(std::memcmp(&values[static_cast<size_t>(i)], &bits, 4), 0) << t.name << " " << i;
    }
  }
}

constexpr Precision kQuantised[] = {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16};

/// Every value of a stored tensor, from its codes and scales.
std::vector<float> stored_values(const TensorSpec& t, const std::vector<std::byte>& arena) {
  const PackedPlane codes = value_plane(t), scales = scale_plane(t);
  std::vector<float> values;
  for (int64_t r = 0; r < t.rows; ++r) {
    std::vector<float> row(static_cast<size_t>(t.cols)), own_scales;
    for (const uint32_t bits : unpack(scales, {r, 1, 0, scales.cols}, arena)) {
      const bool bf16 = t.storage.scale_dtype == DType::kBF16;
      own_scales.push_back(bf16 ? bf16_to_float(static_cast<uint16_t>(bits)) : std::bit_cast<float>(bits));
    }
    dequantise_row(t.storage, unpack(codes, {r, 1, 0, codes.cols}, arena), own_scales, row);
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

// Breaks when codes or scales land in another place, or when the reference, which holds the same form in fp32, computes with
// other values than are stored: every quantised precision, a tied head of its own, filled in pieces.
TEST(Materialise, QuantisedArenasHoldTheValuesOfTheReference) {
  std::mt19937_64 rng(test_seed());
  for (const ModelConfig& c : {models().front(), models().back()}) {
    const SeededSource source({.seed = 6, .outliers = true});
    for (const Precision p : kQuantised) {
      const WeightLayout layout = weight_layout(c, {.precision = p});
      const auto arena = whole_arena(source, layout);
      EXPECT_EQ(fill_in_pieces(source, layout, rng), arena) << precision_name(p);
      const HostWeights host = host_weights(c, source, {.precision = p});
      EXPECT_EQ(host.layout.tensors.size(), layout.tensors.size());
      for (const TensorSpec& t : layout.tensors) {
        const auto want = host.tensor(t.name);
        if (t.storage.scale_group == 0) continue;
        const std::vector<float> got = stored_values(t, arena);
        ASSERT_TRUE(std::ranges::equal(got, want)) << precision_name(p) << " " << t.name;
      }
      const auto embedding = host.tensor(c.shared_embeddings ? "shared.embedding" : "decoder.embedding");
      for (const float v : embedding)
        ASSERT_EQ(v, bf16_to_float(float_to_bf16(v))) << "what is no product stays";
    }
  }
}

// Breaks when a rank's scales are its slice's own: the sum over ranks would not be the whole model's product.
TEST(Materialise, SlicesHaveTheWholeMatrixsCodesAndScales) {
  ModelConfig c = models().front();
  c.decoder.d_ff = c.encoder.d_ff = 512;  // a slice of ffn.down is whole groups
  c.head_dim = 32, c.d_model = 256;
  const SeededSource source({.seed = 8, .outliers = true});
  for (const Precision p : kQuantised) {
    const HostWeights whole = host_weights(c, source, {.precision = p});
    for (const int rank : {0, 1}) {
      const HostWeights part = host_weights(c, source, {.precision = p, .slice = {2, rank}});
      for (const TensorSpec& t : part.layout.tensors) {
        const TensorSpec& w = whole.layout.at(t.name);
        const auto values = part.tensor(t.name);
        const auto all = whole.tensor(t.name);
        for (int64_t r = 0; r < t.rows; ++r) {
          for (int64_t col = 0; col < t.cols; ++col) {
            const auto from = origin(t, r, col);
            const float want = from ? all[static_cast<size_t>(from->first * w.cols + from->second)] : 0.0f;
            ASSERT_EQ(values[static_cast<size_t>(r * t.cols + col)], want)
                << precision_name(p) << " " << t.name;
          }
        }
      }
    }
  }
  // Groups of 128 that a cut goes through have no scale of their own.
  c.decoder.d_ff = 272;
  EXPECT_THROW(host_weights(c, source, {.precision = Precision::kW4a16, .slice = {2, 1}}), ImpossibleCase);
}

// A form that nothing here makes must be refused before memory is filled with something else.
TEST(Materialise, RefusesWhatIsNotMade) {
  const ModelConfig c = models().front();
  const auto refused = [&](const WeightForm& form) {
    const WeightLayout layout = weight_layout(c, form);
    std::vector<std::byte> arena(static_cast<size_t>(layout.bytes));
    EXPECT_THROW(materialise(SeededSource({.seed = 1}), layout, {.host = arena}), ImpossibleCase)
        << form_text(form);
  };
  refused(
      {.precision = Precision::kW8a16, .sparsity = {.two_of_four = true}, .calibration = Calibration::kAwq});
  refused({.precision = Precision::kW4a16, .calibration = Calibration::kSmoothQuant});
  refused({.precision = Precision::kInt8, .calibration = Calibration::kAwq});
  refused({.precision = Precision::kBf16, .calibration = Calibration::kAwq});
}

// Breaks when a device that cannot fill, or a full cache, leaves a model without weights or with others.
TEST(Materialise, EveryWayToADeviceBringsTheSameBytes) {
  const ModelConfig c = models().front();
  const SeededSource source({.seed = 2});
  const WeightLayout layout = weight_layout(c, {.precision = Precision::kFp16});
  const auto want = whole_arena(source, layout);
  const std::string run =
      (std::filesystem::temp_directory_path() / ("tandem-layout-" + std::to_string(::getpid()))).string();
  Level1Cache roomy({.run_dir = run, .cap_bytes = 2 * layout.bytes});
  Level1Cache full({.run_dir = run + "-full", .cap_bytes = layout.bytes - 1});
  for (Level1Cache* cache : {static_cast<Level1Cache*>(nullptr), &roomy, &roomy, &full}) {
    std::vector<std::byte> got;
    bool from_cache = false;
    materialise(source, layout,
                {.upload =
                     [&](std::span<const std::byte> arena, bool shared) {
                       got.assign(arena.begin(), arena.end());
                       from_cache = shared;
                     },
                 .fill = [](const WeightsSpec&, const WeightLayout&) { return false; },
                 .cache = cache});
    EXPECT_EQ(got, want);
    EXPECT_EQ(from_cache, cache == &roomy);
  }
  bool filled = false, uploaded = false;
  materialise(source, layout,
              {.upload = [&](std::span<const std::byte>, bool) { uploaded = true; },
               .fill =
                   [&](const WeightsSpec& spec, const WeightLayout& l) {
                     filled = spec.seed == 2 && &l == &layout;
                     return true;
                   }});
  EXPECT_TRUE(filled && !uploaded) << "dense seeded weights are made on the device";
  Level1Cache::remove({.run_dir = run});
  Level1Cache::remove({.run_dir = run + "-full"});
}

// Breaks when the cache gives one pruned model's bytes for another's of the same sizes.
TEST(Materialise, TheCacheTellsPrunedModelsApart) {
  const ModelConfig c = models().front();
  const SeededSource source({.seed = 4});
  const std::string run =
      (std::filesystem::temp_directory_path() / ("tandem-pruned-" + std::to_string(::getpid()))).string();
  Level1Cache cache({.run_dir = run, .cap_bytes = int64_t{1} << 30});
  for (const int first : {0, 1}) {
    const WeightLayout layout =
        weight_layout(c, {.precision = Precision::kBf16}, {.decoder = {.layers = {first, first + 2}}});
    std::vector<std::byte> got;
    materialise(
        source, layout,
        {.upload = [&](std::span<const std::byte> arena, bool) { got.assign(arena.begin(), arena.end()); },
         .cache = &cache});
    EXPECT_EQ(got, whole_arena(source, layout)) << first;
  }
  Level1Cache::remove({.run_dir = run});
}

}  // namespace
}  // namespace tandem
