#include "reference/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "harness/base/error.h"
#include "reference/ops/dense.h"

namespace tandem::reference {
namespace {

double bias_of(const RelativeBias& bias, int head, int query_position, int key_position) {
  if (bias.table.empty()) return 0;
  const int bucket = relative_bucket(key_position - query_position, bias.bidirectional,
                                     static_cast<int>(bias.table.rows), bias.max_distance);
  return bias.table.row(bucket)[head];
}

/// One query of one head: the weighted mean of the values it sees, written to out [head_dim].
void attend(const AttentionParams& p, int b, int head, int query, float* out) {
  const int64_t head_dim = p.q.cols / p.heads;
  const int64_t column = head * head_dim;
  const int position = p.query_position + query;
  const float* q = p.q.row(p.query_offsets[b] + query) + column;

  const int keys = p.mask.lengths[b];
  std::vector<double> weight(keys, 0.0);
  double largest = -std::numeric_limits<double>::infinity();
  for (int key = 0; key < keys; ++key) {
    if (!p.mask.sees(b, position, key)) continue;
    const float* k = p.k.row(p.key_offsets[b] + key) + column;
    weight[key] = p.scale * dot(q, k, head_dim) + bias_of(p.bias, head, position, key);
    largest = std::max(largest, weight[key]);
  }

  double sum = 0;
  for (int key = 0; key < keys; ++key) {
    if (!p.mask.sees(b, position, key)) continue;
    weight[key] = std::exp(weight[key] - largest);
    sum += weight[key];
  }

  std::vector<double> mean(head_dim, 0.0);
  for (int key = 0; key < keys; ++key) {
    if (!p.mask.sees(b, position, key)) continue;
    const float* v = p.v.row(p.key_offsets[b] + key) + column;
    const double share = weight[key] / sum;
    for (int64_t i = 0; i < head_dim; ++i) mean[i] += share * v[i];
  }
  for (int64_t i = 0; i < head_dim; ++i) out[i] = static_cast<float>(mean[i]);
}

}  // namespace

Matrix attention(const AttentionParams& p) {
  if (p.heads < 1 || p.q.cols % p.heads != 0) throw Error("attention: heads do not divide the columns of q");
  expect_shape(p.k, p.k.rows, p.q.cols, "attention: keys");
  expect_shape(p.v, p.k.rows, p.q.cols, "attention: values");
  const int batch = static_cast<int>(p.query_offsets.size()) - 1;
  const int64_t head_dim = p.q.cols / p.heads;

  Matrix y(p.q.rows, p.q.cols);
#pragma omp parallel for collapse(2) if (p.q.rows * p.k.rows * p.q.cols > 1 << 21)
  for (int b = 0; b < batch; ++b) {
    for (int head = 0; head < p.heads; ++head) {
      for (int query = 0; query < p.query_offsets[b + 1] - p.query_offsets[b]; ++query) {
        attend(p, b, head, query, y.row(p.query_offsets[b] + query) + head * head_dim);
      }
    }
  }
  return y;
}

}  // namespace tandem::reference
