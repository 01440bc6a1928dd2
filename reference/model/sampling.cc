#include "reference/model/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "harness/base/random.h"

namespace tandem::reference {
namespace {

void normalise(std::vector<double>& values, const VocabularyPart& part) {
  const double sum = sum_of_ranks(part.ranks, std::accumulate(values.begin(), values.end(), 0.0));
  for (double& v : values) v /= sum;
}

/// The k-th largest value of all ranks, or -1 where there are fewer.
double kth_largest(const std::vector<double>& values, size_t k, const VocabularyPart& part) {
  const std::vector<size_t> sizes = from_ranks(part.ranks, values.size());
  if (k >= std::accumulate(sizes.begin(), sizes.end(), size_t{0})) return -1;
  std::vector<double> largest(k);
  std::partial_sort_copy(values.begin(), values.end(), largest.begin(), largest.end(), std::greater<>());
  if (values.size() < k)
    std::fill(largest.begin() + static_cast<std::ptrdiff_t>(values.size()), largest.end(), -1);
  std::vector<double> all = from_ranks(part.ranks, std::span<const double>(largest));
  const auto at = all.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(all.begin(), at, all.end(), std::greater<>());
  return *at;
}

/// Sets the least likely tokens to 0 as long as they have no more than `most` together; of equal ones the higher id counts as
/// likelier, as after transformers' stable ascending sort.
void cut_tail(std::vector<double>& p, double most) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  double below = 0;
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    below += p[order[i]];
    if (below > most) break;
    p[order[i]] = 0;
  }
}

/// The same over ranks. The least probability that stays is found byte by byte, from the sums that each rank has for every
/// value of a byte: bits of numbers that are not negative are ordered as the numbers are.
void cut_tail(std::vector<double>& p, double most, const VocabularyPart& part) {
  constexpr size_t kBytes = 256;
  struct Sum {
    double sum = 0;
    int64_t count = 0;
  };
  uint64_t bits = 0;  // of the least probability that stays, as far as known
  double below = 0;   // of all ranks' smaller ones
  for (int shift = 56; shift >= 0; shift -= 8) {
    std::vector<Sum> mine(kBytes);
    for (const double v : p) {
      const auto own = std::bit_cast<uint64_t>(v);
      if (shift < 56 && own >> (shift + 8) != bits >> (shift + 8)) continue;
      Sum& s = mine[own >> shift & (kBytes - 1)];
      s.sum += v;
      ++s.count;
    }
    const std::vector<Sum> all = from_ranks(part.ranks, std::span<const Sum>(mine));
    double before = below;  // of the bytes below the chosen one
    uint64_t chosen = 0;
    for (size_t byte = 0; byte < kBytes; ++byte) {
      Sum s;
      for (size_t at = byte; at < all.size(); at += kBytes) {
        s.sum += all[at].sum;
        s.count += all[at].count;
      }
      if (s.count == 0) continue;
      chosen = byte;
      before = below;
      below += s.sum;
      if (below > most) break;
    }
    below = before;
    bits |= chosen << shift;
  }
  const auto least = std::bit_cast<double>(bits);
  const std::vector<int64_t> equal =
      from_ranks(part.ranks, static_cast<int64_t>(std::ranges::count(p, least)));
  const int64_t all_equal = std::accumulate(equal.begin(), equal.end(), int64_t{0});
  int64_t place = std::accumulate(equal.begin(), equal.begin() + part.ranks->rank(), int64_t{0});
  for (double& v : p) {
    if (v > least) continue;
    if (v == least) {
      ++place;
      if (place == all_equal || below + static_cast<double>(place) * least > most) continue;
    }
    v = 0;
  }
}

}  // namespace

std::vector<double> sampling_distribution(const GenerationConfig& g, std::span<const float> scores,
                                          const VocabularyPart& part) {
  const std::vector<float> largest_of =
      from_ranks(part.ranks, *std::max_element(scores.begin(), scores.end()));
  const float largest = *std::max_element(largest_of.begin(), largest_of.end());
  std::vector<double> p(scores.size());
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(scores[i]) - largest) / g.temperature);
  }
  if (g.top_k > 0) {
    const double least = kth_largest(p, static_cast<size_t>(g.top_k), part);
    for (double& v : p) v = v < least ? 0 : v;
  }
  normalise(p, part);
  if (g.top_p < 1) {
    if (part.ranks == nullptr) {
      cut_tail(p, 1 - g.top_p);
    } else {
      cut_tail(p, 1 - g.top_p, part);
    }
    normalise(p, part);
  }
  return p;
}

double sampling_uniform(uint64_t seed, uint64_t sequence, uint64_t step) {
  const uint64_t key = mix64(stream_key(seed, "sampling") + mix64(sequence));
  return static_cast<double>(random_bits(key, step) >> 11) * 0x1p-53;
}

int32_t draw(std::span<const double> probabilities, double uniform, const VocabularyPart& part) {
  struct Drawn {
    int32_t id = -1;    // where the sum exceeds `uniform`
    int32_t last = -1;  // the last that is possible
  };
  Drawn mine;
  double sum = 0;
  if (part.ranks != nullptr) {
    const std::vector<double> sums =
        from_ranks(part.ranks, std::accumulate(probabilities.begin(), probabilities.end(), 0.0));
    for (int rank = 0; rank < part.ranks->rank(); ++rank) sum += sums[static_cast<size_t>(rank)];
  }
  for (size_t i = 0; i < probabilities.size() && mine.id < 0; ++i) {
    if (probabilities[i] == 0) continue;
    sum += probabilities[i];
    mine.last = static_cast<int32_t>(part.first + static_cast<int64_t>(i));
    if (sum > uniform) mine.id = mine.last;
  }
  int32_t last = 0;
  for (const Drawn& d : from_ranks(part.ranks, mine)) {
    if (d.id >= 0) return d.id;
    last = std::max(last, d.last);
  }
  return last;  // the sum of all rounds to a little below 1
}

}  // namespace tandem::reference
