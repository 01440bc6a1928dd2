#include "harness/weights/calibration/scales.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr int64_t kRows = 40, kChannels = 150;

/// Seeded rows, of which channels 3 and 77 are 20 times the others. The twin in Python makes the same.
InputStats outlier_input() {
  std::vector<float> x(static_cast<size_t>(kRows * kChannels));
  fill_seeded({.seed = 5}, {.name = "input", .rows = kRows, .cols = kChannels, .exponent = -16}, 0, x);
  for (int64_t r = 0; r < kRows; ++r)
    for (const int64_t channel : {3, 77}) x[static_cast<size_t>(r * kChannels + channel)] *= 20;
  InputStats input;
  input.add(x, kRows);
  return input;
}

std::vector<TensorSpec> readers() {
  std::vector<TensorSpec> all(2);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].use = TensorUse::kProduct;
    all[i].whole = {.name = i == 0 ? "first" : "second", .rows = 200, .cols = kChannels, .exponent = -19};
  }
  return all;
}

// Breaks when the choice here is another than the twin's (reports/tests/test_calibration.py has the same hash).
TEST(ChannelScales, EqualTheTwins) {
  Sha256 hash;
  for (const Precision precision :
       {Precision::kInt8, Precision::kFp8, Precision::kW8a16, Precision::kW4a16}) {
    WeightForm form{.precision = precision};
    form.calibration = quantises_activations(form) ? Calibration::kSmoothQuant : Calibration::kAwq;
    const auto e = choose_exponents(SeededSource({.seed = 5}), form, readers(), outlier_input());
    hash.update(fmt::format("{} {}\n", form_text(form), fmt::join(e, " ")));
    if (precision == Precision::kInt8) {
      ASSERT_EQ(e.size(), static_cast<size_t>(kChannels));
      EXPECT_GT(e[3], e[4] + 1);
      EXPECT_GT(e[77], e[4] + 1);
    }
  }
  EXPECT_EQ(hash.hex(), "af08104bf39237e1761643cc90614432ff2cb1eb0b7a09801681935ed9cb01fa");
}

// Channels of one size gain nothing: scales would draw other roundings, as likely worse as better.
TEST(ChannelScales, AreNoneWhereNothingIsGained) {
  std::vector<float> x(static_cast<size_t>(kRows * kChannels));
  fill_seeded({.seed = 6}, {.name = "even", .rows = kRows, .cols = kChannels, .exponent = -16}, 0, x);
  InputStats input;
  input.add(x, kRows);
  for (const Calibration calibration : {Calibration::kSmoothQuant, Calibration::kAwq}) {
    const WeightForm form{
        .precision = calibration == Calibration::kAwq ? Precision::kW4a16 : Precision::kInt8,
        .calibration = calibration};
    EXPECT_TRUE(choose_exponents(SeededSource({.seed = 5}), form, readers(), input).empty())
        << form_text(form);
  }
}

// Breaks when another formula than the papers' is rounded, or a channel that is never used gets an endless factor.
TEST(ChannelScales, CandidatesByHand) {
  InputStats input;
  input.add(std::vector<float>{1, 16, 0, 1, 1, -16, 0, 1}, 2);
  const auto smooth = candidate_exponents(Calibration::kSmoothQuant, input, {1, 1, 1, 0});
  // log2 of a^t / w^(1 - t): 0 and 4 t over their mean 2 t, for t = 0.3 .. 0.9
  EXPECT_EQ(smooth, (std::vector<std::vector<int>>{{-1, 1, 0, 0}, {-2, 2, 0, 0}}));
  const auto awq = candidate_exponents(Calibration::kAwq, input, {1, 1, 1, 1});
  EXPECT_EQ(awq.front(), (std::vector<int>{0, 1, 0, 0})) << "4 t over its mean 4 t / 3, t = 0.2";
  EXPECT_EQ(awq.back(), (std::vector<int>{-1, 3, 0, -1}));
  InputStats wide;
  wide.add(std::vector<float>{1e-30f, 1e30f}, 1);
  for (const auto& e : candidate_exponents(Calibration::kSmoothQuant, wide, {1, 1}))
    EXPECT_EQ(e, (std::vector<int>{kLeastExponent, kMostExponent}));
}

// A NaN or an infinity in statistics or weights must choose nothing rather than anything.
TEST(ChannelScales, ChooseNothingFromWhatIsNotFinite) {
  const WeightForm form{.precision = Precision::kInt8, .calibration = Calibration::kSmoothQuant};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    InputStats input = outlier_input();
    input.squares[5] = bad;
    EXPECT_TRUE(choose_exponents(SeededSource({.seed = 5}), form, readers(), input).empty());
  }
}

// Breaks when sums depend on how rows arrive: an encoder gives them at once, a decoder a step at a time.
TEST(InputStats, AddRowsInAnyPortions) {
  const std::vector<float> x = {1, -2, 3, 4, -5, 6, 0, 0, 7, -8, 1, 1, 2, 2, 3, 3, 4, 4};
  InputStats whole, steps;
  whole.add(x, 9);
  for (size_t r = 0; r < 9; ++r) steps.add(std::span(x).subspan(2 * r, 2), 1);
  for (const InputStats& s : {whole, steps}) {
    EXPECT_EQ(s.rows, 9);
    EXPECT_EQ(s.largest, (std::vector<float>{7, 8}));
    EXPECT_EQ(s.magnitudes, (std::vector<double>{26, 30}));
    EXPECT_EQ(s.squares[0], 114);
    EXPECT_EQ(s.sample, (std::vector<float>{1, -2, 3, 3})) << "rows 0 and 7";
  }
  EXPECT_THROW(whole.add(x, 6), Error);
}

}  // namespace
}  // namespace tandem
