#include "harness/weights/values/quantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

Storage storage(Precision precision) {
  return storage_of({.precision = precision}, TensorUse::kProduct);
}

struct Row {
  std::vector<uint32_t> codes;
  std::vector<float> scales;
  std::vector<float> back;
};
Row quantised(const Storage& s, const std::vector<float>& values) {
  Row row;
  row.codes.resize(values.size());
  row.scales.resize(static_cast<size_t>(s.scales_per_row(static_cast<int64_t>(values.size()))));
  row.back.resize(values.size());
  quantise_row(s, values, row.codes, row.scales);
  dequantise_row(s, row.codes, row.scales, row.back);
  return row;
}

// A code or a scale that is computed otherwise than the page says: by hand.
TEST(Quantise, ByHand) {
  const Row int8 = quantised(storage(Precision::kW8a16), {12.7f, -12.7f, 0.1f, 0.15f, 0.25f, 0});
  EXPECT_FLOAT_EQ(int8.scales[0], 0.1f);
  EXPECT_EQ(int8.codes, (std::vector<uint32_t>{127, 256 - 127, 1, 2, 2, 0})) << "halves go to even";
  const Row fp8 = quantised(storage(Precision::kFp8), {448, -448, 1, 0.3f});
  EXPECT_EQ(fp8.scales[0], 1);
  EXPECT_EQ(fp8.codes, (std::vector<uint32_t>{0x7e, 0xfe, 0x38, 0x2a}));
  EXPECT_EQ(fp8.back[3], 0.3125f);
  std::vector<float> two_groups(130, 0);
  two_groups[0] = 7, two_groups[1] = -7, two_groups[127] = 3.4f, two_groups[128] = 14, two_groups[129] = 3;
  const Row int4 = quantised(storage(Precision::kW4a16), two_groups);
  EXPECT_EQ(int4.scales, (std::vector<float>{1, 2}));
  EXPECT_EQ(int4.codes[0], 7u);
  EXPECT_EQ(int4.codes[1], 9u) << "-7 in four bits";
  EXPECT_EQ(int4.codes[127], 3u);
  EXPECT_EQ(int4.codes[129], 2u) << "1.5 goes to even";
}

// A value further from its code than half a step: a wrong group, a scale of another row.
TEST(Quantise, ErrorsStayWithinHalfAStep) {
  std::mt19937_64 rng(test_seed());
  std::normal_distribution<float> normal;
  for (const Precision p : {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16}) {
    const Storage s = storage(p);
    for (const size_t cols : {1u, 7u, 128u, 129u, 300u, 1024u}) {
      std::vector<float> values(cols);
      for (float& v : values) v = normal(rng);
      const Row row = quantised(s, values);
      const size_t group = s.scale_group == Storage::kWholeRow ? cols : static_cast<size_t>(s.scale_group);
      for (size_t i = 0; i < cols; ++i) {
        const float scale = row.scales[i / group];
        const float step = s.dtype == DType::kF8 ? std::max(std::abs(values[i]) / 8, scale * 0x1p-9f) : scale;
        // A scale in bf16 may be a little small for the largest value, which is then held to its code.
        ASSERT_LE(std::abs(row.back[i] - values[i]), step * 0.5001f + scale * 0.03f)
            << precision_name(p) << " " << i;
      }
    }
  }
}

// A broken weight must not become an ordinary one, nor zeros a division by zero.
TEST(Quantise, ZerosNanAndInfinity) {
  for (const Precision p : {Precision::kFp8, Precision::kInt8, Precision::kW4a16}) {
    const Row zeros = quantised(storage(p), {0, -0.0f, 0});
    EXPECT_EQ(zeros.scales[0], 0);
    EXPECT_EQ(zeros.back, (std::vector<float>{0, 0, 0}));
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const float v : quantised(storage(p), {1, bad}).back)
        EXPECT_TRUE(std::isnan(v)) << precision_name(p);
    }
  }
}

TEST(Quantise, RefusesWhatItDoesNotMake) {
  std::vector<float> values(8), scales(1);
  std::vector<uint32_t> codes(8);
  EXPECT_THROW(quantise_row(storage(Precision::kBf16), values, codes, scales), Error);
  EXPECT_THROW(quantise_row(storage(Precision::kW4a16), values, codes, std::span(scales).first(0)), Error);
  EXPECT_THROW(quantise_row(storage(Precision::kInt8), values, std::span(codes).first(7), scales), Error);
}

// Breaks when codes or scales change here and not in scripts/peers/twin/quantise.py, whose test
// (reports/tests/test_quantise.py) holds the same hashes.
TEST(Quantise, SeededRowsAreTheTwinsToo) {
  const std::pair<Precision, const char*> all[] = {
      {Precision::kFp8, "0e91336ef2d7bdccf422f1f70cf0e108b3c03cb8b05ff1994556f595fe356245"},
      {Precision::kInt8, "c109a9c0065e81550ff650125da869235bd5d99355e308e194da86294f45e118"},
      {Precision::kW4a16, "e6a7144ad02a8275dc3fb1ae3637fd11398bd748109e5ff328a9fb24bfe93f13"}};
  for (const auto& [precision, want] : all) {
    const Storage s = storage(precision);
    Sha256 hash;
    const WholeTensor tensor{
        .name = "quantised", .rows = 9, .cols = 300, .exponent = -20, .outlier_rows = true};
    for (int64_t r = 0; r < tensor.rows; ++r) {
      std::vector<float> values(300);
      fill_seeded({.seed = 17, .outliers = true}, tensor, r * 300, values);
      const Row row = quantised(s, values);
      for (const uint32_t code : row.codes) hash.update(std::string(1, static_cast<char>(code)));
      for (const float scale : row.scales) {
        std::string bytes(4, 0);
        std::memcpy(bytes.data(), &scale, 4);
        hash.update(bytes);
      }
    }
    EXPECT_EQ(hash.hex(), want) << precision_name(precision);
  }
}

}  // namespace
}  // namespace tandem
