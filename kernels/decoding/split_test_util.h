// What the tests of choices over whole and split vocabularies share: rows of logits, and what ranks bring of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/decoding/decoding_test_util.h"
#include "kernels/decoding/host_block.h"
#include "kernels/decoding/row.h"
#include "kernels/decoding/split.h"

namespace tandem::kernels {

/// A row of logits, some equal, in memory that a vector load may read.
struct Row {
  Row(Draws& d, int vocab) : values(static_cast<size_t>(vocab) + 4), bias(static_cast<size_t>(vocab)) {
    for (float& v : values) v = d.below(8) == 0 ? 1.5f : d.logit();
    for (float& v : bias) v = d.logit(0.1);
  }
  struct Bias {
    const float* values;
    float operator()(int i) const { return values[i]; }
  };
  LogitRow<Bias> view() const {
    return {.logits = values.data(),
            .vocab = static_cast<int>(bias.size()),
            .aligned = true,
            .bias = {bias.data()}};
  }
  std::vector<float> scores() const {
    std::vector<float> out(bias.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = values[i] + bias[i];
    return out;
  }
  std::vector<float> values, bias;
};

/// What ranks that split a vocabulary bring of each row, in memory that nobody has written.
struct SplitRows {
  SplitRows(int ranks, int of_rows, int of_each)
      : degree(ranks),
        rows(of_rows),
        count(of_each),
        sums(static_cast<size_t>(2 * ranks * of_rows), std::nanf("")),
        candidates(static_cast<size_t>(kCandidateInts * ranks * of_rows * of_each), 0x7f7f7f7f) {}
  RankLists view() const {
    return {
        .sums = sums.data(), .candidates = candidates.data(), .degree = degree, .rows = rows, .count = count};
  }
  struct Ids {
    int first, count;
  };
  /// Of a rank: the last ones may have fewer, or none.
  Ids part(int rank, int vocab) const {
    const int share = ceil_div(vocab, degree);
    const int first = std::min(rank * share, vocab);
    return {first, std::min(share, vocab - first)};
  }
  template <class Bias>
  LogitRow<Bias> part_of(int rank, const LogitRow<Bias>& whole, const std::function<Bias(int)>& bias) const {
    const Ids ids = part(rank, whole.vocab);
    return {.logits = whole.logits + ids.first,
            .vocab = ids.count,
            .aligned = reinterpret_cast<uintptr_t>(whole.logits + ids.first) % 16 == 0,
            .bias = bias(ids.first)};
  }
  /// All ranks' sums and candidates of a row, by the kernels' bodies. `of`: of beams.
  template <class Bias>
  void bring(Draws& d, const DecodingRules& r, const History& history, int row, const LogitRow<Bias>& whole,
             const std::function<Bias(int)>& bias, RankScores of = {}) {
    for (int k = 0; k < degree; ++k) {
      HostBlock block(32 << d.below(3), d.bits());
      auto s = std::make_unique<BlockScratch>();
      RowSum sum;
      block.run([&] { sum = row_sum(block, *s, part_of(k, whole, bias)); });
      const auto at = static_cast<size_t>(2 * (k * rows + row));
      sums[at] = sum.largest;
      sums[at + 1] = sum.sum;
    }
    for (int k = 0; k < degree; ++k) {
      HostBlock block(32 << d.below(3), d.bits());
      auto s = std::make_unique<BeamRowScratch>();
      std::vector<uint32_t> bitmaps(static_cast<size_t>(2 * mark_words(r.vocab)));
      of.first_id = part(k, r.vocab).first;
      of.all = log_sum_of_ranks(view(), row);
      int32_t* out = candidates.data() + kCandidateInts * (k * rows + row) * count;
      block.run([&] {
        const Marks marks = make_marks(block, r, history, needs_marks(r) ? bitmaps.data() : nullptr);
        best_of_part(block, *s, r, marks, of, part_of(k, whole, bias), count, out);
      });
    }
  }
  int degree, rows, count;
  std::vector<float> sums;
  std::vector<int32_t> candidates;
};

}  // namespace tandem::kernels
