#include "kernels/seeded/seeded_fill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/base/error.h"
#include "harness/weights/materialise.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {
namespace {

std::vector<uint8_t> host_bits(const WeightsSpec& spec, const WholeTensor& tensor, DType dtype) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  fill_seeded(spec, tensor, 0, values);
  return encoded(values, dtype);
}

// Without it: host and device could drift together from the values that other builds, and Python, hold to.
TEST(SeededFill, CommittedValues) {
  TANDEM_NEEDS_DEVICE();
  std::ifstream file("harness/weights/testdata/seeded.json");
  const nlohmann::json rows = nlohmann::json::parse(file);
  ASSERT_EQ(rows.size(), 64u);
  for (const auto& row : rows) {
    const int64_t index = row.at("index");
    const int64_t cols = row.at("cols");
    const WholeTensor tensor{.name = row.at("name"),
                             .rows = index / cols + 1,
                             .cols = cols,
                             .base = row.at("base"),
                             .exponent = row.at("exponent"),
                             .outlier_rows = true};
    const WeightsSpec spec{.seed = row.at("seed"), .outliers = row.at("outliers")};
    const DeviceTensor out(1, DType::kF32);
    launch_seeded_slice({.spec = &spec,
                         .tensor = &tensor,
                         .first_row = index / cols,
                         .rows = 1,
                         .first_col = index % cols,
                         .cols = 1,
                         .dtype = DType::kF32,
                         .out = out.data()},
                        nullptr);
    const auto want = static_cast<uint32_t>(std::stoul(row.at("bits").get<std::string>(), nullptr, 16));
    EXPECT_EQ(std::bit_cast<uint32_t>(out.values().front()), want) << row.dump();
  }
}

// Without it: the device's weights differ from the host's, so that every comparison with the reference
// compares two models; or padding between tensors is left as it was.
TEST(SeededFill, WholeArenaEqualsTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  const uint64_t seed = test_seed();
  for (bool outliers : {false, true}) {
    const WeightsSpec spec{.seed = seed, .outliers = outliers};
    for (DType dtype : kFloatTypes) {
      const WeightLayout layout =
          weight_layout(preset("tiny"), {.precision = Precision::kFp32, .plain = dtype});
      const DeviceTensor arena(layout.bytes / dtype_bytes(dtype), dtype);
      launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = arena.data()}, nullptr);
      std::vector<std::byte> want(static_cast<size_t>(layout.bytes));
      materialise(SeededSource(spec), layout, {.host = want});
      EXPECT_TRUE(
          std::ranges::equal(arena.bytes(), want, [](uint8_t a, std::byte b) { return std::byte{a} == b; }))
          << dtype_name(dtype) << (outliers ? " outliers" : "");
    }
  }
}

// Without it: a rank's or a pruned model's weights made on the device are others than the host's.
TEST(SeededFill, PartsOfAModelEqualTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  ModelConfig config = preset("tiny");
  config.vocab += 1;  // the last rank's rows are padded
  const WeightsSpec spec{.seed = test_seed(), .outliers = true};
  for (const int rank : {0, 1}) {
    for (const bool pruned : {false, true}) {
      Kept kept;
      if (pruned) kept.decoder.layers = {config.decoder.layers - 1};
      if (pruned) kept.encoder.ffn.assign(static_cast<size_t>(config.encoder.layers), {0, 1, 5, 8, 9, 11});
      const WeightLayout layout =
          weight_layout(config, {.precision = Precision::kBf16, .slice = {.degree = 2, .rank = rank}}, kept);
      const DeviceTensor arena(layout.bytes / 2, DType::kBF16);
      launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = arena.data()}, nullptr);
      std::vector<std::byte> want(static_cast<size_t>(layout.bytes));
      materialise(SeededSource(spec), layout, {.host = want});
      EXPECT_TRUE(
          std::ranges::equal(arena.bytes(), want, [](uint8_t a, std::byte b) { return std::byte{a} == b; }))
          << "rank " << rank << (pruned ? " pruned" : "");
    }
  }
}

// Without it: a rank of a tensor-parallel group gets other weights than its part of the whole model.
TEST(SeededFill, SlicesAreParts) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 60; ++i) {
    const WeightsSpec spec{.seed = static_cast<uint64_t>(random.between(0, 1 << 30)),
                           .outliers = random.coin()};
    const DType dtype = random.one_of(kFloatTypes);
    const WholeTensor tensor{.name = "some.tensor." + std::to_string(i),
                             .rows = random.between(1, 50),
                             .cols = random.between(1, 300),
                             .base = random.coin() ? 1.0f : 0.0f,
                             .exponent = static_cast<int>(random.between(-24, -15)),
                             .outlier_rows = random.coin()};
    SeededSliceParams p{.spec = &spec, .tensor = &tensor, .dtype = dtype};
    p.first_row = random.between(0, tensor.rows - 1);
    p.rows = random.between(0, tensor.rows - p.first_row);
    p.first_col = random.coin() ? 0 : random.between(0, tensor.cols - 1);
    p.cols = random.coin() ? tensor.cols - p.first_col : random.between(0, tensor.cols - p.first_col);
    const DeviceTensor out(p.rows * p.cols, dtype);
    p.out = out.data();
    launch_seeded_slice(p, nullptr);
    const auto whole = host_bits(spec, tensor, dtype);
    std::vector<uint8_t> want;
    for (int64_t r = p.first_row; r < p.first_row + p.rows; ++r) {
      const auto row = whole.begin() + tensor_bytes(dtype, r * tensor.cols + p.first_col);
      want.insert(want.end(), row, row + tensor_bytes(dtype, p.cols));
    }
    EXPECT_TRUE(out.bytes() == want) << tensor.name << " rows " << p.first_row << " + " << p.rows
                                     << " columns " << p.first_col << " + " << p.cols;
  }
}

// Without it: a tensor larger than one pass of the grid is left half filled.
TEST(SeededFill, LargeTensor) {
  TANDEM_NEEDS_DEVICE();
  const WeightsSpec spec{.seed = 7, .outliers = true};
  const WholeTensor tensor{
      .name = "large", .rows = 3001, .cols = 1025, .exponent = -20, .outlier_rows = true};
  const DeviceTensor out(tensor.size(), DType::kBF16);
  launch_seeded_slice(
      {.spec = &spec, .tensor = &tensor, .rows = tensor.rows, .cols = tensor.cols, .out = out.data()},
      nullptr);
  EXPECT_TRUE(out.bytes() == host_bits(spec, tensor, DType::kBF16));
}

// Without it: a slice outside its tensor, or a checkpoint, silently gets random numbers.
TEST(SeededFill, RefusesWrongParameters) {
  const WeightsSpec seeded{.seed = 1};
  const WeightsSpec checkpoint{.checkpoint = true};
  const WholeTensor tensor{.name = "t", .rows = 4, .cols = 8};
  int dummy = 0;
  EXPECT_THROW(
      launch_seeded_slice(
          {.spec = &seeded, .tensor = &tensor, .first_row = 3, .rows = 2, .cols = 8, .out = &dummy}, nullptr),
      UsageError);
  EXPECT_THROW(
      launch_seeded_slice(
          {.spec = &seeded, .tensor = &tensor, .rows = 1, .first_col = 8, .cols = 1, .out = &dummy}, nullptr),
      UsageError);
  EXPECT_THROW(launch_seeded_slice(
                   {.spec = &checkpoint, .tensor = &tensor, .rows = 1, .cols = 1, .out = &dummy}, nullptr),
               UsageError);
}

}  // namespace
}  // namespace tandem::kernels
