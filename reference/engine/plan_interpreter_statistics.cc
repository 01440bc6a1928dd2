// Norms by statistics: what a product leaves of its rows for the norm of them, and what the next ones make of that.
#include <cmath>

#include "reference/engine/plan_interpreter.h"
#include "reference/ops/dense.h"

namespace tandem::reference {

void PlanInterpreter::write_statistics(const DenseOp& op, const Matrix& y) {
  const MatrixView gamma(in_fp32(op.stats_norm->gamma));
  const bool layer = plan_.config.norm == Norm::kLayer;
  for (int64_t r = 0; r < y.rows; ++r) {
    for (int64_t c = 0; c < y.cols; ++c) write(op.scaled, r, c, y.row(r)[c] * gamma.data[c]);
    for (int64_t block = 0; block < op.stats.rows; ++block) {
      const float* values = y.row(r) + block * kPlanStatsColumns;
      double mean = 0;
      for (int64_t i = 0; layer && i < kPlanStatsColumns; ++i) mean += values[i];
      mean /= static_cast<double>(kPlanStatsColumns);
      double squares = 0;
      for (int64_t i = 0; i < kPlanStatsColumns; ++i) squares += (values[i] - mean) * (values[i] - mean);
      write(op.stats, block, 2 * r, static_cast<float>(mean));
      write(op.stats, block, 2 * r + 1, static_cast<float>(squares));
    }
  }
}

PlanInterpreter::RowStatistics PlanInterpreter::row_statistics(const PlanTensor& stats, int64_t row) const {
  // Of two parts of a row the squared differences from the common mean (Chan, Golub and LeVeque 1983). RMS norm: all means are 0.
  double count = 0, mean = 0, squares = 0;
  for (int64_t block = 0; block < stats.rows; ++block) {
    const auto more = static_cast<double>(kPlanStatsColumns);
    const double difference = read(stats, block, 2 * row) - mean;
    squares += read(stats, block, 2 * row + 1) + difference * difference * count * more / (count + more);
    mean += difference * more / (count + more);
    count += more;
  }
  return {.mean = mean, .scale = 1 / std::sqrt(squares / count + plan_.config.norm_eps)};
}

Matrix PlanInterpreter::norm_sums(const DenseOp& op) {
  if (op.norm_sums.empty()) return {2, op.weight.weight.rows};
  // Made once, as an executor does, so that an operation that overwrites them shows.
  const auto first = static_cast<size_t>(address(op.norm_sums, 0, 0) - arena_.data());
  if (!written_[first]) {
    DenseWeight w = in_fp32(op.weight);
    w.bias = {};
    const NormWeight norm = in_fp32(*op.norm);
    for (const auto& [row, of] : {std::pair{0, norm.gamma}, {1, norm.beta}})
      write(op.norm_sums.some_rows(row, 1), dense(MatrixView(of), w));
  }
  return read(op.norm_sums);
}

Matrix PlanInterpreter::product_by_statistics(const DenseOp& op) {
  const DenseWeight w = in_fp32(op.weight);
  const MatrixView bias(w.bias);
  DenseWeight bare = w;
  bare.bias = {};
  const Matrix sums = norm_sums(op);
  Matrix y = dense(read(op.x), bare);
  for (int64_t r = 0; r < y.rows; ++r) {
    const RowStatistics row = row_statistics(op.x_stats, r);
    for (int64_t c = 0; c < y.cols; ++c) {
      const double normed = row.scale * (y.row(r)[c] - row.mean * sums.row(0)[c]) + sums.row(1)[c];
      y.row(r)[c] = static_cast<float>(normed + (bias.empty() ? 0 : bias.data[c]));
    }
  }
  return y;
}

Matrix PlanInterpreter::residual(const DenseOp& op) const {
  Matrix x = read(op.residual);
  if (op.residual_stats.empty()) return x;
  const NormWeight norm = in_fp32(*op.residual_norm);
  const MatrixView gamma(norm.gamma), beta(norm.beta);
  for (int64_t r = 0; r < x.rows; ++r) {
    const RowStatistics row = row_statistics(op.residual_stats, r);
    for (int64_t c = 0; c < x.cols; ++c) {
      const double normed = (x.row(r)[c] - row.mean) * row.scale * gamma.data[c];
      x.row(r)[c] = static_cast<float>(normed + (beta.empty() ? 0 : beta.data[c]));
    }
  }
  return x;
}

}  // namespace tandem::reference
