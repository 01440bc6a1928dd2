#include "harness/weights/values/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "harness/base/error.h"

namespace tandem {
namespace {

/// A run of indices that are neighbours here and in the whole tensor.
struct Stretch {
  int64_t here = 0;   ///< from the rectangle's first index
  int64_t whole = 0;  ///< in the whole tensor
  int64_t count = 0;
};

/// Indices [first, first + count) of a layout's tensor as stretches of the whole one; padding has none.
std::vector<Stretch> stretches(const IndexRuns& runs, int64_t first, int64_t count) {
  std::vector<Stretch> all;
  int64_t at = 0;  // of the run, here
  for (const IndexRun& run : runs) {
    const int64_t from = std::max(first, at), to = std::min(first + count, at + run.count);
    if (from < to) all.push_back({from - first, run.first + (from - at), to - from});
    at += run.count;
  }
  return all;
}

}  // namespace

void read_values(const WeightSource& source, const TensorSpec& t, const Rectangle& at, std::span<float> out) {
  if (at.first_row < 0 || at.rows < 0 || at.first_row + at.rows > t.rows || at.first_col < 0 || at.cols < 0 ||
      at.first_col + at.cols > t.cols || static_cast<int64_t>(out.size()) != at.size()) {
    throw Error(fmt::format("weights: {} values for rows {} + {}, columns {} + {} of {} [{}, {}]", out.size(),
                            at.first_row, at.rows, at.first_col, at.cols, t.name, t.rows, t.cols));
  }
  const auto rows = stretches(t.row_runs, at.first_row, at.rows);
  const auto cols = stretches(t.col_runs, at.first_col, at.cols);
  const bool covered =
      rows.size() == 1 && cols.size() == 1 && rows[0].count == at.rows && cols[0].count == at.cols;
  if (covered) return source.read(t.whole, {rows[0].whole, at.rows, cols[0].whole, at.cols}, out);
  std::ranges::fill(out, 0.0f);
  std::vector<float> piece;
  for (const Stretch& r : rows) {
    for (const Stretch& c : cols) {
      piece.resize(static_cast<size_t>(r.count * c.count));
      source.read(t.whole, {r.whole, r.count, c.whole, c.count}, piece);
      for (int64_t i = 0; i < r.count; ++i)
        std::copy_n(piece.data() + i * c.count, c.count, out.data() + (r.here + i) * at.cols + c.here);
    }
  }
}

}  // namespace tandem
