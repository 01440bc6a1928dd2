#include "harness/cost/ceilings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "harness/base/error.h"

namespace tandem {
namespace {

Cost one_phase(double read, double written, double flops) {
  Cost c;
  c.precision = Precision::kBf16;
  c.phases.push_back({.side = Side::kDecoder,
                      .kind = PhaseKind::kHead,
                      .weight_bytes = read,
                      .written_bytes = written,
                      .flops = flops});
  return c;
}

Ceilings card() {
  Ceilings c;
  c.read_gbs = 4400;
  c.copy_gbs = 4250;
  c.l2_gbs = 8800;
  c.burst_tflops[static_cast<size_t>(Precision::kBf16)] = 786;
  return c;
}

// Breaks when the floor is not the larger of the two terms, each at its measured rate.
TEST(Floor, LargerOfBytesAndOperations) {
  const auto bytes = floor_us(one_phase(4.4e9, 0, 1e6), card());
  ASSERT_TRUE(bytes);
  EXPECT_NEAR(bytes->us, 1000, 1e-9);
  EXPECT_EQ(bytes->bound, Bound::kBytes);
  const auto flops = floor_us(one_phase(1e3, 0, 786e9), card());
  EXPECT_NEAR(flops->us, 1000, 1e-9);
  EXPECT_EQ(flops->bound, Bound::kOperations);
  EXPECT_NEAR(floor_us(one_phase(0, 4.25e9, 0), card())->us, 1000, 1e-9);  // writes at copy's rate
  EXPECT_NEAR(*floor_l2_us(one_phase(8.8e9, 0, 0), card()), 1000, 1e-9);
}

// Breaks when phases overlap in the phase-by-phase floor.
TEST(Floor, PhaseFloorSumsTheLargerTerms) {
  Cost c = one_phase(4.4e9, 0, 0);
  c.phases.push_back({.side = Side::kDecoder, .kind = PhaseKind::kFfnUp, .flops = 786e9});
  EXPECT_NEAR(floor_us(c, card())->us, 1000, 1e-9);
  EXPECT_NEAR(*floor_phases_us(c, card()), 2000, 1e-9);
}

// Breaks when a missing rate becomes a floor of 0, or is needed for work that is not there.
TEST(Floor, MissingRateGivesNoFloor) {
  Ceilings c = card();
  c.copy_gbs.reset();
  EXPECT_FALSE(floor_us(one_phase(1, 1, 1), c));
  EXPECT_TRUE(floor_us(one_phase(1, 0, 1), c));
  c = card();
  c.burst_tflops = {};
  EXPECT_FALSE(floor_us(one_phase(1, 0, 1), c));
  EXPECT_FALSE(floor_phases_us(one_phase(1, 0, 1), c));
  EXPECT_TRUE(floor_us(one_phase(1, 0, 0), c));
}

// Breaks when a format's products are held to another format's rate: weights alone in 8 or 4 bits are multiplied in bf16, and
// attention is, whatever the products' format.
TEST(Ceilings, EachFormatHasItsRate) {
  Ceilings c = card();
  c.burst_tflops[static_cast<size_t>(Precision::kFp8)] = 1500;
  c.burst_tflops[static_cast<size_t>(Precision::kInt8)] = 1400;
  const std::pair<Precision, double> products[] = {
      {Precision::kFp8, 1500}, {Precision::kInt8, 1400}, {Precision::kW8a16, 786}, {Precision::kW4a16, 786}};
  for (const auto& [precision, tflops] : products) {
    EXPECT_EQ(c.rate_tflops(precision, ComputeUnit::kProduct), tflops) << precision_name(precision);
    EXPECT_EQ(c.rate_tflops(precision, ComputeUnit::kActivations), 786) << precision_name(precision);
  }
}

// Breaks when a 2:4 product is held to the dense rate, so that a fast one seems impossible, or to one that nobody measured.
TEST(Ceilings, StructuredProductsHaveTheirRate) {
  Ceilings c = card();
  c.burst_tflops[static_cast<size_t>(Precision::kFp8)] = 1500;
  EXPECT_EQ(c.rate_tflops(Precision::kBf16, ComputeUnit::kStructured), 2 * 786)
      << "a bound without a measurement";
  c.two_of_four_burst_tflops = 900;
  EXPECT_EQ(c.rate_tflops(Precision::kBf16, ComputeUnit::kStructured), 900);
  EXPECT_EQ(c.rate_tflops(Precision::kW8a16, ComputeUnit::kStructured), 900) << "multiplied in bf16";
  EXPECT_EQ(c.rate_tflops(Precision::kFp8, ComputeUnit::kStructured), 3000);
  EXPECT_EQ(c.rate_tflops(Precision::kBf16, ComputeUnit::kProduct), 786);
  const nlohmann::json j = c;
  EXPECT_EQ(j.get<Ceilings>().two_of_four_burst_tflops, 900);
  EXPECT_FALSE(j.get<Ceilings>().two_of_four_sustained_tflops);
  c.burst_tflops = {};
  EXPECT_FALSE(c.rate_tflops(Precision::kBf16, ComputeUnit::kStructured));
}

// Breaks when ceilings do not survive their file, or a wrong file passes.
TEST(Ceilings, JsonRoundTrip) {
  const nlohmann::json j = card();
  const auto back = j.get<Ceilings>();
  EXPECT_EQ(back.read_gbs, 4400);
  EXPECT_FALSE(back.empty_node_us);
  EXPECT_EQ(back.rate_tflops(Precision::kW8a16, ComputeUnit::kProduct), 786);
  EXPECT_FALSE(back.rate_tflops(Precision::kFp8, ComputeUnit::kProduct));
  EXPECT_EQ(back.rate_tflops(Precision::kFp8, ComputeUnit::kActivations), 786);
  Ceilings doubted = card();
  doubted.doubt = "beside other work";
  doubted.cache_bytes = 5e7;
  const auto again = nlohmann::json(doubted).get<Ceilings>();
  EXPECT_EQ(again.doubt, doubted.doubt);
  EXPECT_EQ(again.cache_bytes, 5e7);
  EXPECT_THROW((nlohmann::json{{"reed_gbs", 1}}.get<Ceilings>()), UsageError);
  EXPECT_THROW((nlohmann::json{{"read_gbs", 0}}.get<Ceilings>()), UsageError);
  EXPECT_THROW((nlohmann::json{{"read_gbs", "fast"}}.get<Ceilings>()), UsageError);
  EXPECT_THROW(read_ceilings("/nonexistent/ceilings.json"), IoError);
}

// Breaks when rates that cannot be right are believed: a cache slower than memory gave floors 80 times over the measurement.
TEST(Ceilings, ContradictionsAreFound) {
  EXPECT_TRUE(contradictions(card()).empty());
  EXPECT_TRUE(contradictions({}).empty()) << "what is missing contradicts nothing";
  Ceilings c = card();
  c.read_gbs = 16.96;
  c.l2_gbs = 0.047;
  c.sustained_tflops[static_cast<size_t>(Precision::kBf16)] = 900;
  const auto found = contradictions(c);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0], "the cache reads 0.047 GB/s, memory 16.96");
  EXPECT_EQ(found[1], "bf16 computes 900 TFLOP/s sustained, 786 in a burst");
  // What an idle CPU measured, one core's cache against the memory of two.
  c = {};
  c.read_gbs = 22.40;
  c.l2_gbs = 18.02;
  EXPECT_TRUE(contradictions(c).empty());
}

// Breaks when a list and a record show two floors of one case.
TEST(Floor, OfACaseThatFitsTheCache) {
  const Cost small = one_phase(4.4e6, 0, 0);
  EXPECT_NEAR(case_floor(small, card(), 50e6)->us, 0.5, 1e-9);
  EXPECT_NEAR(case_floor(small, card(), 4e6)->us, 1.0, 1e-9);
  EXPECT_NEAR(case_floor(small, card(), std::nullopt)->us, 1.0, 1e-9);
}

// Breaks when a file of ceilings that is none ends the program instead of being an error that names it.
TEST(Ceilings, DamagedFilesAreNamed) {
  const std::string path = ::testing::TempDir() + "tandem_ceilings_test_" + std::to_string(getpid());
  const std::pair<std::string, const char*> files[] = {
      {"{", "not JSON: "},
      {std::string(100000, '[') + std::string(100000, ']'), "JSON that nests deeper than 64"},
      {R"({"read_gbs": 1, "read_gbs": 2})", "\"read_gbs\" is there twice"}};
  for (const auto& [text, message] : files) {
    std::ofstream(path) << text;
    try {
      read_ceilings(path);
      ADD_FAILURE() << "accepted: " << text.substr(0, 40);
    } catch (const UsageError& e) {
      EXPECT_EQ(std::string(e.what()).find(path + ": " + message), 0u) << e.what();
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem
