#include "harness/weights/pruning/remembered.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "harness/base/error.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

/// Seeded values, counted.
class CountedSource : public WeightSource {
 public:
  explicit CountedSource(uint64_t seed) : source_({.seed = seed}) {}
  void read(const WholeTensor& t, const Rectangle& at, std::span<float> out) const override {
    ++reads;
    source_.read(t, at, out);
  }
  std::string key() const override { return source_.key(); }
  mutable int reads = 0;

 private:
  SeededSource source_;
};

bool same(const Pruning& a, const Pruning& b) {
  if (!(a.kept == b.kept) || a.expected || b.expected || a.matrices.size() != b.matrices.size()) return false;
  for (const auto& [name, m] : a.matrices) {
    const PrunedMatrix& other = b.matrices.at(name);
    if (!(m.cut == other.cut) || m.size != other.size || m.kept != other.kept || m.row_kept != other.row_kept)
      return false;
  }
  return true;
}

class RememberedTest : public ::testing::Test {
 protected:
  RememberedTest() {
    std::string name = (std::filesystem::temp_directory_path() / "tandem_remembered.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~RememberedTest() override { std::filesystem::remove_all(folder_); }
  /// As a worker opens it.
  Level1Cache cache(int64_t cap_bytes = 0) const {
    return Level1Cache({.run_dir = folder_, .cap_bytes = cap_bytes, .shared_dir = folder_});
  }
  std::string folder_;
};

WeightForm form_of(const std::string& sparsity, TensorSlice slice = {}) {
  return {.precision = Precision::kBf16, .sparsity = parse_sparsity(sparsity), .slice = slice};
}

// Breaks when a second worker looks at the values again, or finds another decision than the first made.
TEST_F(RememberedTest, TheNextWorkerReadsNothing) {
  const ModelConfig config = preset("tiny");
  for (const char* sparsity : {"unstructured:0.5", "threshold:0.02", "heads:0.5", "ffn:0.25", "layers:0.5",
                               "heads:0.5+unstructured:0.7", "layers:0.5+ffn:0.5+2:4"}) {
    for (const TensorSlice slice : {TensorSlice{}, TensorSlice{.degree = 2, .rank = 1}}) {
      const WeightForm form = form_of(sparsity, slice);
      CountedSource first(5), second(5);
      Level1Cache mine = cache(), theirs = cache();
      const Pruning made = remembered_pruning(&mine, "", first, config, form);
      EXPECT_GT(first.reads, 0) << sparsity;
      const Pruning found = remembered_pruning(&theirs, "", second, config, form);
      EXPECT_EQ(second.reads, 0) << sparsity;
      EXPECT_TRUE(same(made, found)) << sparsity;
      EXPECT_TRUE(same(made, prune(CountedSource(5), config, form))) << sparsity;
    }
  }
}

// Breaks when a decision stands for other values, another model, another sparsity or another rank's part.
TEST_F(RememberedTest, OtherQuestionsAreOthers) {
  const ModelConfig config = preset("tiny");
  Level1Cache kept = cache();
  const WeightForm form = form_of("unstructured:0.5", {.degree = 2, .rank = 0});
  remembered_pruning(&kept, "", CountedSource(5), config, form);
  const auto asks = [&](const std::string& content, uint64_t seed, const ModelConfig& c,
                        const WeightForm& f) {
    CountedSource source(seed);
    const Pruning p = remembered_pruning(&kept, content, source, c, f);
    EXPECT_TRUE(same(p, prune(CountedSource(seed), c, f)));
    return source.reads > 0;
  };
  ModelConfig other = config;
  other.vocab += 2;
  EXPECT_TRUE(asks("", 6, config, form));
  EXPECT_TRUE(asks("checkpoint abc", 5, config, form));
  EXPECT_TRUE(asks("", 5, other, form));
  EXPECT_TRUE(asks("", 5, config, form_of("unstructured:0.6", {.degree = 2, .rank = 0})));
  EXPECT_TRUE(asks("", 5, config, form_of("unstructured:0.5", {.degree = 2, .rank = 1})));
  EXPECT_TRUE(asks("", 5, config, form_of("unstructured:0.5")));
  WeightForm fp8 = form;
  fp8.precision = Precision::kFp8;
  EXPECT_FALSE(asks("", 5, config, fp8)) << "every precision has the same mask";
}

// Breaks when a full cache, or none, costs the case.
TEST_F(RememberedTest, WithoutRoomItIsDecidedAgain) {
  const ModelConfig config = preset("tiny");
  const WeightForm form = form_of("unstructured:0.5");
  Level1Cache full = cache(64);
  for (Level1Cache* c : {static_cast<Level1Cache*>(nullptr), &full}) {
    for (int worker = 0; worker < 2; ++worker) {
      CountedSource source(5);
      EXPECT_TRUE(
          same(remembered_pruning(c, "", source, config, form), prune(CountedSource(5), config, form)));
      EXPECT_GT(source.reads, 0);
    }
  }
  Level1Cache kept = cache();
  EXPECT_THROW(remembered_pruning(&kept, "", CountedSource(5), config, form_of("threshold:100")),
               ImpossibleCase);
  EXPECT_THROW(remembered_pruning(&kept, "", CountedSource(5), config, form_of("threshold:100")),
               ImpossibleCase)
      << "what failed is nobody's decision";
}

}  // namespace
}  // namespace tandem
