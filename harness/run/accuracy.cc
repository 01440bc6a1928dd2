#include "harness/run/accuracy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/engine/compare.h"

namespace tandem {
namespace {

using Row = std::span<const float>;

void check_shapes(const AccuracyInput& in) {
  const auto whole = [](const Output& o) {
    return o.rows > 0 && o.cols > 0 && static_cast<int64_t>(o.values.size()) == o.rows * o.cols;
  };
  if (!whole(in.own) || !whole(in.truth) || in.own.rows != in.truth.rows || in.own.cols != in.truth.cols) {
    throw Error(fmt::format(
        "accuracy: outputs of {} x {} ({} values) and {} x {} ({} values); one shape is needed", in.own.rows,
        in.own.cols, in.own.values.size(), in.truth.rows, in.truth.cols, in.truth.values.size()));
  }
  if (in.grid && int64_t{in.grid->steps} * in.grid->batch != in.own.rows) {
    throw Error(fmt::format("accuracy: {} steps of {} sequences are not the {} rows of the logits",
                            in.grid->steps, in.grid->batch, in.own.rows));
  }
}

/// The largest value's index; absent for a row with a NaN.
std::optional<size_t> arg_max(Row row) {
  size_t best = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    if (std::isnan(row[i])) return std::nullopt;
    if (row[i] > row[best]) best = i;
  }
  return best;
}

/// log(sum(exp(row))), shifted by the largest so that nothing overflows.
double log_sum_exp(Row row) {
  const double top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(v - top);
  return top + std::log(sum);
}

double divergence(Row truth, Row own) {
  const double truth_norm = log_sum_exp(truth), own_norm = log_sum_exp(own);
  double kl = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double log_p = truth[i] - truth_norm, log_q = own[i] - own_norm;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return std::max(kl, 0.0);  // rounding can leave a little less than nothing
}

Row row_of(const Output& o, int64_t row) {
  return Row(o.values).subspan(static_cast<size_t>(row * o.cols), static_cast<size_t>(o.cols));
}

}  // namespace

Accuracy compute_accuracy(const AccuracyInput& in) {
  check_shapes(in);
  Accuracy a{.relative_error = compare(in.own.values, in.truth.values, in.truth.cols).relative_l2,
             .teacher_forced = in.teacher_forced,
             .synthetic_weights = in.synthetic_weights};
  if (!in.grid) return a;
  const TokenGrid& grid = *in.grid;
  int64_t rows = 0, same = 0;
  double kl = 0;
  for (int b = 0; b < grid.batch; ++b) {
    for (int t = 0; t < grid.steps; ++t) {
      const int64_t at = int64_t{t} * grid.batch + b;
      const Row truth = row_of(in.truth, at), own = row_of(in.own, at);
      const auto want = arg_max(truth), have = arg_max(own);
      ++rows;
      if (want && want == have) ++same;
      kl += divergence(truth, own);
      if (grid.tokens[static_cast<size_t>(int64_t{b} * grid.stride + t)] == grid.eos_id) break;
    }
  }
  if (std::isfinite(kl)) a.kl = kl / static_cast<double>(rows);
  a.tokens_agree = static_cast<double>(same) / static_cast<double>(rows);
  return a;
}

}  // namespace tandem
