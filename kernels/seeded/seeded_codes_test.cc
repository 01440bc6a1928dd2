#include "kernels/seeded/seeded_codes.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/weights/materialise.h"
#include "kernels/common/device_test.h"
#include "kernels/seeded/seeded_fill.h"

namespace tandem::kernels {
namespace {

constexpr Precision kQuantised[] = {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16};

/// Wide enough that halves of its inner dimensions are whole groups of four-bit codes.
ModelConfig small_config() {
  ModelConfig c = preset("tiny");
  c.d_model = 264;  // its last group is short
  c.head_dim = 64;
  c.encoder = c.decoder = {.layers = 2, .heads = 4, .d_ff = 512};
  c.vocab = 99;
  return c;
}

void expect_equal_arenas(const WeightsSpec& spec, const WeightLayout& layout, const std::string& what) {
  ASSERT_TRUE(seeded_arena_fits(layout)) << what;
  const DeviceTensor arena(layout.bytes, DType::kU8);
  launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = arena.data()}, nullptr);
  std::vector<std::byte> want(static_cast<size_t>(layout.bytes));
  materialise(SeededSource(spec), layout, {.host = want});
  const std::vector<uint8_t> got = arena.bytes();
  size_t bad = 0;
  for (size_t i = 0; i < want.size(); ++i) bad += std::byte{got[i]} != want[i] ? 1 : 0;
  if (bad == 0) return;
  for (const TensorSpec& t : layout.tensors) {
    const auto differs = [&](int64_t from, int64_t bytes) {
      for (int64_t i = from; i < from + bytes; ++i) {
        if (std::byte{got[i]} != want[i]) return true;
      }
      return false;
    };
    if (differs(t.offset, t.value_bytes())) ADD_FAILURE() << what << ": values of " << t.name;
    if (differs(t.scale_offset, t.scale_bytes())) ADD_FAILURE() << what << ": scales of " << t.name;
  }
  ADD_FAILURE() << what << ": " << bad << " bytes differ";
}

// Without it: a quantised model made on the card is another than the reference's.
TEST(SeededCodes, ArenaEqualsTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  const uint64_t seed = test_seed();
  for (const Precision precision : kQuantised) {
    for (const bool outliers : {false, true}) {
      for (const HeadStorage head : {HeadStorage::kSame, HeadStorage::k16Bit}) {
        for (const ModelConfig& config : {small_config(), preset("tiny")}) {
          const WeightsSpec spec{.seed = seed, .outliers = outliers};
          expect_equal_arenas(
              spec, weight_layout(config, {.precision = precision, .head = head}),
              std::string(precision_name(precision)) + (outliers ? " outliers " : " ") + config.name);
        }
      }
    }
  }
}

// Without it: a rank's or a pruned model's scales are those of its part instead of the whole matrix's.
TEST(SeededCodes, PartsOfAModelEqualTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  const ModelConfig config = small_config();
  const WeightsSpec spec{.seed = test_seed(), .outliers = true};
  for (const Precision precision : kQuantised) {
    for (const int rank : {0, 1}) {
      const WeightForm form{.precision = precision, .slice = {.degree = 2, .rank = rank}};
      const std::string what = std::string(precision_name(precision)) + " rank " + std::to_string(rank);
      expect_equal_arenas(spec, weight_layout(config, form), what);
      Kept kept;
      kept.decoder.layers = {config.decoder.layers - 1};
      expect_equal_arenas(spec, weight_layout(config, form, kept), what + " pruned");
    }
  }
}

// Without it: what the card cannot make is made wrong instead of left to the host.
TEST(SeededCodes, LeavesTheRestToTheHost) {
  const ModelConfig config = small_config();
  EXPECT_TRUE(seeded_arena_fits(weight_layout(config, {.precision = Precision::kBf16})));
  EXPECT_TRUE(seeded_arena_fits(weight_layout(config, {.precision = Precision::kW4a16})));
  EXPECT_FALSE(seeded_arena_fits(weight_layout(config, WeightForm{.precision = Precision::kFp8}.in_fp32())));
  Kept kept;
  kept.encoder.ffn.assign(static_cast<size_t>(config.encoder.layers), {0, 1, 5, 8, 9, 11});
  const WeightLayout pruned = weight_layout(config, {.precision = Precision::kW8a16}, kept);
  EXPECT_FALSE(seeded_arena_fits(pruned));
  const WeightsSpec spec{.seed = 1};
  int dummy = 0;
  EXPECT_THROW(launch_seeded_arena({.spec = &spec, .layout = &pruned, .arena = &dummy}, nullptr), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
