#include "reference/engine/op_workloads.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/engine/compare.h"
#include "harness/sweep/op_shape.h"
#include "reference/engine/peak_product.h"
#include "reference/engine/timed_op.h"
#include "reference/ops/attention.h"
#include "reference/ops/dense.h"
#include "reference/ops/embedding.h"
#include "reference/ops/head.h"
#include "reference/ops/norm.h"

namespace tandem::reference {
namespace {

constexpr double kTolerance = 1e-5;

Matrix random_matrix(const char* name, int64_t rows, int64_t cols) {
  Matrix m(rows, cols);
  const uint64_t key = stream_key(kInputSeed, name);
  for (int64_t i = 0; i < rows * cols; ++i) {
    m.values[static_cast<size_t>(i)] =
        static_cast<float>(centred_sum(key, static_cast<uint64_t>(i))) * power_of_two(-16);
  }
  return m;
}

TensorView view(const Matrix& m) {
  return {.data = m.values.data(), .dtype = DType::kF32, .rows = m.rows, .cols = m.cols};
}

CheckResult close_to(double got, double want, const std::string& what) {
  const double error = std::abs(got - want) / std::max(1e-30, std::abs(want));
  return {what, error, kTolerance, fmt::format("{} instead of {}", got, want)};
}

std::vector<int32_t> even_offsets(int batch, int length) {
  std::vector<int32_t> offsets(static_cast<size_t>(batch) + 1);
  for (int b = 0; b <= batch; ++b) offsets[static_cast<size_t>(b)] = b * length;
  return offsets;
}

/// Sum of all values, in parts of `size` values that each thread reads `passes` times over; small integers, so that the
/// sum is exact. With several passes a part is what a thread's own cache holds.
OpWorkload stream_read(int64_t bytes, int64_t size, int passes) {
  auto data = std::make_shared<std::vector<float>>(static_cast<size_t>(bytes / 4), 1.0f);
  auto sum = std::make_shared<double>(0);
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] {
    const float* p = data->data();
    const auto n = static_cast<int64_t>(data->size());
    double total = 0;
    // Parts of at most 2^20 ones: their float sums are exact too, and the inner loop vectorises.
#pragma omp parallel for reduction(+ : total) schedule(static)
    for (int64_t part = 0; part < n; part += size) {
      for (int pass = 0; pass < passes; ++pass) {
        float s = 0;
#pragma omp simd reduction(+ : s)
        for (int64_t i = part; i < std::min(n, part + size); ++i) s += p[i];
        total += s;
        asm volatile("" : : "r"(p) : "memory");  // each pass reads again
      }
    }
    *sum = total;
  });
  op.bytes_read = static_cast<double>(bytes) * passes;
  op.check = [=] { return close_to(*sum, static_cast<double>(data->size()) * passes, "sum of the stream"); };
  return op;
}

OpWorkload stream_copy(int64_t bytes) {
  auto from = std::make_shared<std::vector<char>>(static_cast<size_t>(bytes), 'x');
  auto to = std::make_shared<std::vector<char>>(static_cast<size_t>(bytes), 0);
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] {
    constexpr int64_t kPart = 1 << 20;
#pragma omp parallel for
    for (int64_t part = 0; part < bytes; part += kPart) {
      std::memcpy(to->data() + part, from->data() + part, static_cast<size_t>(std::min(kPart, bytes - part)));
    }
  });
  op.bytes_read = op.bytes_written = static_cast<double>(bytes);
  op.check = [=] { return CheckResult{"bytes read back", *from == *to ? 0.0 : 1.0, 0, "a byte differs"}; };
  return op;
}

/// y = x W^T on random data; sampled products are checked one by one in long double.
OpWorkload product(int64_t m, int64_t n, int64_t k) {
  auto x = std::make_shared<Matrix>(random_matrix("op.x", m, k));
  auto w = std::make_shared<Matrix>(random_matrix("op.w", n, k));
  auto y = std::make_shared<Matrix>();
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] { *y = dense(*x, {.weight = view(*w), .bias = {}}); });
  op.bytes_read = 4.0 * static_cast<double>(m * k + n * k);
  op.bytes_written = 4.0 * static_cast<double>(m * n);
  op.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  op.check = [=] {
    std::vector<float> got, want;
    for (uint64_t s = 0; s < 64; ++s) {
      const int64_t r = uniform_below(1, 2 * s, static_cast<uint32_t>(m));
      const int64_t c = uniform_below(1, 2 * s + 1, static_cast<uint32_t>(n));
      long double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<long double>(x->row(r)[i]) * w->row(c)[i];
      got.push_back(y->row(r)[c]);
      want.push_back(static_cast<float>(sum));
    }
    const Comparison comparison = compare(got, want, 1);
    return CheckResult{"64 sampled products", comparison.relative_l2, kTolerance, comparison.where};
  };
  return op;
}

/// Every thread multiplies tiles that stay in its first-level cache: the CPU's rate, at no shape of a model.
OpWorkload peak_product() {
  constexpr int kDepth = 256, kTimes = 500;
  const int threads = omp_get_max_threads();
  auto c = std::make_shared<std::vector<float>>();
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] {
    c->assign(static_cast<size_t>(threads) * kTileRows * kTileCols, 0.0f);
#pragma omp parallel num_threads(threads)
    {
      const std::vector<float> a(kDepth * kTileRows, 0.5f), b(kDepth * kTileCols, 0.25f);
      float tile[kTileRows * kTileCols] = {};
      product_tile(a.data(), b.data(), tile, kDepth, kTimes);
      std::copy(std::begin(tile), std::end(tile), c->begin() + omp_get_thread_num() * kTileRows * kTileCols);
    }
  });
  op.bytes_read = 4.0 * threads * kDepth * (kTileRows + kTileCols);
  op.flops = 2.0 * threads * kTileRows * kTileCols * kDepth * kTimes;
  op.check = [=] {
    // Powers of two: the sum is exact in any order.
    const bool right =
        std::all_of(c->begin(), c->end(), [](float v) { return v == 0.125f * kDepth * kTimes; });
    return CheckResult{"exact sums", right ? 0.0 : 1.0, 0, "a tile is wrong"};
  };
  return op;
}

/// Attention of `queries` tokens a sequence over `keys`. With all keys of a sequence alike every value weighs the same:
/// the output is the mean of the values.
OpWorkload attention_op(int batch, int queries, int keys, int heads, int head_dim) {
  const int64_t inner = static_cast<int64_t>(heads) * head_dim;
  auto q = std::make_shared<Matrix>(random_matrix("op.q", int64_t{batch} * queries, inner));
  auto k = std::make_shared<Matrix>(int64_t{batch} * keys, inner);
  auto v = std::make_shared<Matrix>(random_matrix("op.v", int64_t{batch} * keys, inner));
  auto query_offsets = std::make_shared<std::vector<int32_t>>(even_offsets(batch, queries));
  auto key_offsets = std::make_shared<std::vector<int32_t>>(even_offsets(batch, keys));
  auto lengths = std::make_shared<std::vector<int32_t>>(static_cast<size_t>(batch), keys);
  auto y = std::make_shared<Matrix>();
  std::fill(k->values.begin(), k->values.end(), 0.5f);
  OpWorkload op;
  op.unit = ComputeUnit::kActivations;
  op.workload = std::make_unique<TimedOp>([=] {
    *y = attention({.q = *q,
                    .query_offsets = *query_offsets,
                    .k = *k,
                    .v = *v,
                    .key_offsets = *key_offsets,
                    .mask = {.kind = AttentionMask::Kind::kCross, .lengths = lengths->data()},
                    .heads = heads,
                    .scale = 0.125});
  });
  op.bytes_read = 4.0 * static_cast<double>(q->values.size() + k->values.size() + v->values.size());
  op.bytes_written = 4.0 * static_cast<double>(q->values.size());
  op.flops = 4.0 * batch * queries * static_cast<double>(keys) * static_cast<double>(inner);
  op.check = [=] {
    std::vector<float> want(static_cast<size_t>(inner));
    for (int64_t c = 0; c < inner; ++c) {
      double sum = 0;
      for (int i = 0; i < keys; ++i) sum += v->row(i)[c];
      want[static_cast<size_t>(c)] = static_cast<float>(sum / keys);
    }
    const Comparison comparison = compare(std::span(y->row(0), static_cast<size_t>(inner)), want, inner);
    return CheckResult{"mean of the values under equal keys", comparison.relative_l2, kTolerance,
                       comparison.where};
  };
  return op;
}

OpWorkload norm_op(const ModelConfig& config, int64_t rows) {
  auto x = std::make_shared<Matrix>(random_matrix("op.x", rows, config.d_model));
  auto gamma = std::make_shared<Matrix>(1, config.d_model),
       beta = std::make_shared<Matrix>(1, config.d_model);
  auto y = std::make_shared<Matrix>();
  std::fill(gamma->values.begin(), gamma->values.end(), 1.0f);
  const bool layer = config.norm == Norm::kLayer;
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=, eps = config.norm_eps] {
    const NormWeight w{.gamma = view(*gamma), .beta = layer ? view(*beta) : TensorView{}};
    *y = layer ? layer_norm(*x, w, eps) : rms_norm(*x, w, eps);
  });
  op.bytes_read = op.bytes_written = 4.0 * static_cast<double>(x->values.size());
  op.check = [=] {
    double squares = 0;
    for (float v : y->values) squares += double{v} * v;
    CheckResult r = close_to(squares / static_cast<double>(y->values.size()), 1, "unit variance");
    r.tolerance = 1e-3;  // eps is part of the operation
    return r;
  };
  return op;
}

OpWorkload embedding_op(const ModelConfig& config, int64_t tokens) {
  ModelConfig plain = config;
  plain.position = Position::kNone;
  plain.embedding_scale = 2;
  auto table = std::make_shared<Matrix>(random_matrix("op.table", config.vocab, config.d_model));
  auto ids = std::make_shared<std::vector<int32_t>>(), positions = std::make_shared<std::vector<int32_t>>();
  for (int64_t t = 0; t < tokens; ++t) {
    ids->push_back(static_cast<int32_t>(
        uniform_below(3, static_cast<uint64_t>(t), static_cast<uint32_t>(config.vocab))));
    positions->push_back(static_cast<int32_t>(t));
  }
  auto y = std::make_shared<Matrix>();
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] {
    *y = embed(plain, {.ids = *ids, .positions = *positions, .table = *table, .position_table = {}});
  });
  op.bytes_read = 4.0 * static_cast<double>(tokens) * (config.d_model + 1.0);
  op.bytes_written = 4.0 * static_cast<double>(tokens) * config.d_model;
  op.check = [=] {
    const int64_t t = tokens - 1;
    return close_to(y->row(t)[0], 2.0 * table->row((*ids)[static_cast<size_t>(t)])[0],
                    "row of the table, scaled");
  };
  return op;
}

OpWorkload head_op(const ModelConfig& config, int64_t rows) {
  auto x = std::make_shared<Matrix>(random_matrix("op.x", rows, config.d_model));
  auto w = std::make_shared<Matrix>(random_matrix("op.w", config.vocab, config.d_model));
  // The largest logit is planted: row 7 of the head is a multiple of x's first row.
  for (int i = 0; i < config.d_model; ++i) w->row(7)[i] = 50 * x->row(0)[i];
  auto ids = std::make_shared<std::vector<int32_t>>();
  OpWorkload op;
  op.workload =
      std::make_unique<TimedOp>([=] { *ids = arg_max(head(*x, {.weight = view(*w), .bias = {}}, 1.0)); });
  op.bytes_read = 4.0 * static_cast<double>(x->values.size() + w->values.size());
  op.bytes_written = 4.0 * static_cast<double>(rows);
  op.flops = 2.0 * static_cast<double>(rows) * config.vocab * config.d_model;
  op.check = [=] {
    return CheckResult{"planted arg-max", (*ids)[0] == 7 ? 0.0 : 1.0, 0, fmt::format("id {}", (*ids)[0])};
  };
  return op;
}

[[noreturn]] void needs_device(const Case& c) {
  throw ImpossibleCase(fmt::format("op: '{}' needs a device, engine 'reference' has none", c.op));
}

}  // namespace

OpWorkload limits_op(const Case& c) {
  if (c.op == "read") return stream_read(int64_t{256} << 20, 1 << 20, 1);
  if (c.op == "copy") return stream_copy(int64_t{128} << 20);
  if (c.op == "l2") {
    constexpr int64_t kPart = 1 << 15;  // 128 KiB a thread
    return stream_read(4 * kPart * omp_get_max_threads(), kPart, 400);
  }
  if (c.op == "gemm" || c.op == "gemm_sustained") {
    if (c.precision == Precision::kFp32) return peak_product();
    throw ImpossibleCase(fmt::format("precision: engine 'reference' computes products in fp32 only, not '{}'",
                                     precision_name(c.precision)));
  }
  needs_device(c);
}

OpWorkload kernels_op(const Case& c, const ModelConfig& config) {
  const int64_t rows = c.batch;
  const StackConfig& side = config.decoder;
  if (c.op.starts_with("gemm_")) {
    const ProductShape shape = product_shape(c.op, config).value();
    return product(rows, shape.n, shape.k);
  }
  if (c.op == "encoder_attention")
    return attention_op(c.batch, c.src, c.src, config.encoder.heads, config.head_dim);
  if (c.op == "decode_self_attention") return attention_op(c.batch, 1, c.tgt, side.heads, config.head_dim);
  if (c.op == "cross_attention") return attention_op(c.batch, 1, c.src, side.heads, config.head_dim);
  if (c.op == "norm") return norm_op(config, rows);
  if (c.op == "embedding") return embedding_op(config, rows);
  if (c.op == "head_argmax") return head_op(config, rows);
  needs_device(c);
}

}  // namespace tandem::reference
