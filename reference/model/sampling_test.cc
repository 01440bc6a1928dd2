#include "reference/model/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"

namespace tandem::reference {
namespace {

GenerationConfig sampling(double temperature, int top_k, double top_p) {
  GenerationConfig g;
  g.sample = true;
  g.temperature = temperature;
  g.top_k = top_k;
  g.top_p = top_p;
  return g;
}

std::vector<double> logs(const std::vector<double>& probabilities, std::vector<float>& scores) {
  scores.clear();
  for (const double p : probabilities) scores.push_back(static_cast<float>(std::log(p)));
  return probabilities;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << i;
}

// Breaks when a cut takes too much or too little, or what is left is not made whole again.
TEST(Sampling, CutsByHand) {
  std::vector<float> s;
  const std::vector<double> p = logs({0.1, 0.4, 0.2, 0.25, 0.05}, s);
  expect_near(sampling_distribution(sampling(1, 0, 1), s), p);
  expect_near(sampling_distribution(sampling(1, 2, 1), s), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
  expect_near(sampling_distribution(sampling(1, 0, 0.6), s), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
  expect_near(sampling_distribution(sampling(1, 0, 0.66), s), {0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0});
  expect_near(sampling_distribution(sampling(1, 0, 0.01), s), {0, 1, 0, 0, 0});
  // First the two likeliest, then 0.6 of what they have: 0.4 / 0.65 is 0.615 already.
  expect_near(sampling_distribution(sampling(1, 2, 0.6), s), {0, 1, 0, 0, 0});
  const double sum = 0.01 + 0.16 + 0.04 + 0.0625 + 0.0025;
  expect_near(sampling_distribution(sampling(0.5, 0, 1), s),
              {0.01 / sum, 0.16 / sum, 0.04 / sum, 0.0625 / sum, 0.0025 / sum});
}

// Breaks when a token that ties with the last of the top_k is dropped, which transformers keeps.
TEST(Sampling, TiesStay) {
  expect_near(sampling_distribution(sampling(1, 1, 1), std::vector<float>{1, 1, 0}), {0.5, 0.5, 0});
}

// Breaks when a forbidden token can be drawn.
TEST(Sampling, ForbiddenStaysForbidden) {
  const float never = -HUGE_VALF;
  expect_near(sampling_distribution(sampling(1, 5, 0.9), std::vector<float>{never, 3, never}), {0, 1, 0});
  EXPECT_EQ(draw(std::vector<double>{0, 1, 0}, 0.0), 1);
  EXPECT_EQ(draw(std::vector<double>{0, 1 - 1e-17, 0}, 1 - 1e-17), 1);
}

/// Chi-square of 100,000 draws against the distribution, for one choice of cuts.
void expect_follows(const GenerationConfig& g, uint64_t seed) {
  constexpr int kVocab = 40, kDraws = 100'000;
  const uint64_t key = stream_key(seed, "scores");
  std::vector<float> scores(kVocab);
  for (int i = 0; i < kVocab; ++i) scores[i] = static_cast<float>(centred_sum(key, i)) * 0x1p-16f;
  const std::vector<double> p = sampling_distribution(g, scores);
  std::vector<int> counts(kVocab, 0);
  for (int i = 0; i < kDraws; ++i) ++counts[draw(p, sampling_uniform(seed, i / 500, i % 500))];
  double chi_square = 0;
  int freedom = -1;
  for (int i = 0; i < kVocab; ++i) {
    const double expected = p[i] * kDraws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++freedom;
  }
  // Six standard deviations of a chi-square: a right sampler fails once in millions of runs.
  EXPECT_LT(chi_square, freedom + 6 * std::sqrt(2.0 * freedom) + 12);
}

// Breaks when tokens are drawn from another distribution than the one asked for.
TEST(Sampling, ChiSquare) {
  const uint64_t seed = test_seed();
  expect_follows(sampling(1, 0, 1), seed);
  expect_follows(sampling(0.7, 8, 1), seed + 1);
  expect_follows(sampling(1.5, 0, 0.8), seed + 2);
  expect_follows(sampling(0.9, 20, 0.9), seed + 3);
}

// Breaks when two requests, two samples of a request or two steps share their numbers.
TEST(Sampling, StreamsAreTheirOwn) {
  const double first = sampling_uniform(5, 0, 0);
  EXPECT_EQ(first, sampling_uniform(5, 0, 0));
  EXPECT_NE(first, sampling_uniform(6, 0, 0));
  EXPECT_NE(first, sampling_uniform(5, 1, 0));
  EXPECT_NE(first, sampling_uniform(5, 0, 1));
  EXPECT_NE(sampling_uniform(5, 1, 0), sampling_uniform(6, 0, 0));
}

}  // namespace
}  // namespace tandem::reference
