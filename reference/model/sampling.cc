#include "reference/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/base/random.h"

namespace tandem::reference {
namespace {

void normalise(std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  for (double& v : values) v /= sum;
}

}  // namespace

std::vector<double> sampling_distribution(const GenerationConfig& g, std::span<const float> scores) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  std::vector<double> p(scores.size());
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(scores[i]) - largest) / g.temperature);
  }
  if (g.top_k > 0 && static_cast<size_t>(g.top_k) < p.size()) {
    std::vector<double> sorted = p;
    std::nth_element(sorted.begin(), sorted.begin() + (g.top_k - 1), sorted.end(), std::greater<>());
    const double least = sorted[g.top_k - 1];
    for (double& v : p) v = v < least ? 0 : v;
  }
  normalise(p);
  if (g.top_p < 1) {
    // The likeliest tokens until they have top_p; of equal ones the higher id counts as likelier, as after
    // transformers' stable ascending sort.
    std::vector<size_t> order(p.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
    double below = 0;
    for (size_t i = 0; i + 1 < order.size(); ++i) {
      below += p[order[i]];
      if (below > 1 - g.top_p) break;
      p[order[i]] = 0;
    }
    normalise(p);
  }
  return p;
}

double sampling_uniform(uint64_t seed, uint64_t sequence, uint64_t step) {
  const uint64_t key = mix64(stream_key(seed, "sampling") + mix64(sequence));
  return static_cast<double>(random_bits(key, step) >> 11) * 0x1p-53;
}

int32_t draw(std::span<const double> probabilities, double uniform) {
  double sum = 0;
  int32_t last = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] == 0) continue;
    sum += probabilities[i];
    last = static_cast<int32_t>(i);
    if (sum > uniform) return last;
  }
  return last;  // the sum of all rounds to a little below 1
}

}  // namespace tandem::reference
