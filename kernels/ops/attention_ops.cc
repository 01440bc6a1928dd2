// The attention operations of suite_kernels.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>

#include "kernels/ops/op_setup.h"

namespace tandem::kernels {
namespace {

/// One query of one head on the host.
struct HostAttention {
  const std::vector<float>& q;
  int64_t q_at = 0;
  int keys = 0;
  int query_position = 0;
  int head_dim = 0;
  double scale = 1;
  std::function<float(int key, int i)> k, v;
  std::function<double(int key)> bias = [](int) { return 0.0; };

  std::vector<double> out() const {
    std::vector<double> scores(static_cast<size_t>(keys));
    for (int t = 0; t < keys; ++t) {
      double dot = 0;
      for (int i = 0; i < head_dim; ++i) dot += double{q[q_at + i]} * k(t, i);
      scores[t] = scale * dot + bias(t);
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& p : scores) sum += p = std::exp(p - largest);
    std::vector<double> mean(static_cast<size_t>(head_dim));
    for (int t = 0; t < keys; ++t) {
      for (int i = 0; i < head_dim; ++i) mean[i] += scores[t] / sum * v(t, i);
    }
    return mean;
  }
};

/// Bias of a self-attention on the host, from the table on the card.
std::function<double(int)> host_bias(OpRunner& r, const TensorView& table, const ModelConfig& c, int head,
                                     int position, bool bidirectional) {
  if (table.empty()) return [](int) { return 0.0; };
  const std::vector<float> values = r.weights().download(table, 0, table.size());
  return [=, cols = table.cols, buckets = static_cast<int>(table.rows),
          distance = c.relative_max_distance](int key) {
    return double{values[relative_bucket(key - position, bidirectional, buckets, distance) * cols + head]};
  };
}

/// T5's table for an operation: random, and the same for all copies.
struct Relative {
  std::shared_ptr<OpWeights> weights;
  RelativeBiasRef ref;
};
Relative relative_of(const OpSetup& s, PlanBuilder& b, int heads, std::string_view name) {
  Relative r{.weights = s.weights({{s.dtype, int64_t{s.config.relative_buckets} * heads, 1.0}}, 1),
             .ref = {}};
  StackWeight w;
  w.relative_bias = r.weights->view(0, 0, s.config.relative_buckets, heads);
  r.ref = relative_biases(b, w, {TensorView{}}, {.layers = 1, .heads = heads, .d_ff = 8}, name).front();
  return r;
}

/// Scales that give random codes the variance of values of (-1, 1) or so: as those of keys and values, none is negative.
void upload_scales(OpRunner& r, DType kv, const std::string& name) {
  std::vector<float> scales(static_cast<size_t>(r.run().plan().buffer(name).elements));
  const float mean = static_cast<float>(std::sqrt(3.0) / largest_code(kv));
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = mean * static_cast<float>(1 + i % 5) / 3;
  r.run().upload(name, scales.data(), scales.size() * sizeof(float));
}

}  // namespace

OpWorkload encoder_attention_op(const OpSetup& s) {
  const ModelConfig& c = s.config;
  const int heads = c.encoder.heads;
  const int64_t inner = c.inner(c.encoder);
  const int64_t tokens = s.offsets.back();
  const int copies = copies_beyond_l2(*s.device, s.bytes(tokens * 3 * inner));
  PlanBuilder b = s.builder(Side::kEncoder);
  const PlanTensor offsets = b.state(plan_names::kSourceOffsets, DType::kI32, 1,
                                     static_cast<int64_t>(s.offsets.size()), BufferRole::kInput);
  const Relative relative = relative_of(s, b, heads, plan_names::kEncoderBias);
  for (int i = 0; i < copies; ++i) {
    const PlanTensor qkv = b.state(fmt::format("qkv.{}", i), s.dtype, tokens, 3 * inner, BufferRole::kInput);
    const PlanTensor out = b.activations(PhaseKind::kSelfAttention, tokens, inner);
    if (i + 1 == copies) b.keep(out, "out");
    b.add(PhaseKind::kSelfAttention, EncoderAttentionOp{.q = qkv.columns(0, inner),
                                                        .k = qkv.columns(inner, inner),
                                                        .v = qkv.columns(2 * inner, inner),
                                                        .out = out,
                                                        .offsets = offsets,
                                                        .bias = relative.ref,
                                                        .heads = heads,
                                                        .max_source = b.request().max_source});
  }
  auto runner = s.runner(b, relative.weights, copies);
  runner->run().upload(plan_names::kSourceOffsets, s.offsets.data(), bytes_of(s.offsets));
  runner->build_graph();

  OpWorkload op;
  op.unit = ComputeUnit::kActivations;
  op.bytes_read = static_cast<double>(s.bytes(tokens * 3 * inner));
  op.bytes_written = static_cast<double>(s.bytes(tokens * inner));
  for (const int32_t length : s.lengths) op.flops += 4.0 * length * length * static_cast<double>(inner);
  op.check = [r = runner.get(), c, copies, inner, table = relative.ref.table, offsets = s.offsets,
              lengths = s.lengths, precision = s.c.precision] {
    const std::vector<float> qkv = r->run().floats(fmt::format("qkv.{}", copies - 1));
    const std::vector<float> out = r->run().floats("out");
    SampleCheck check;
    for (uint64_t i = 0; i < 8; ++i) {
      const int64_t sequence = draw(3 * i, static_cast<int64_t>(lengths.size()));
      const int query = static_cast<int>(draw(3 * i + 1, lengths[sequence]));
      const int head = static_cast<int>(draw(3 * i + 2, c.encoder.heads));
      const int64_t first = offsets[sequence];
      const int64_t column = int64_t{head} * c.head_dim;
      const auto at = [&](int part, int64_t token, int e) {
        return qkv[(first + token) * 3 * inner + part * inner + column + e];
      };
      const HostAttention host{.q = qkv,
                               .q_at = (first + query) * 3 * inner + column,
                               .keys = lengths[sequence],
                               .query_position = query,
                               .head_dim = c.head_dim,
                               .scale = c.attention_scale,
                               .k = [&](int t, int e) { return at(1, t, e); },
                               .v = [&](int t, int e) { return at(2, t, e); },
                               .bias = host_bias(*r, table, c, head, query, true)};
      const std::vector<double> want = host.out();
      for (int e = 0; e < c.head_dim; ++e) check.add(out[(first + query) * inner + column + e], want[e]);
    }
    return check.result("8 sampled queries", precision);
  };
  op.workload = std::move(runner);
  return op;
}

OpWorkload self_attention_op(const OpSetup& s) {
  const ModelConfig& c = s.config;
  const int heads = c.decoder.heads;
  const int64_t inner = c.inner(c.decoder);
  const int64_t batch = s.c.batch;
  const int64_t cache_elements = batch * inner * s.c.tgt;
  const int64_t token_bytes =
      2 * batch * heads * kv_head_bytes(s.c.precision, parse_kv(s.c.kv), c.head_dim);  // its keys and values
  const int copies = copies_beyond_l2(*s.device, s.c.tgt * token_bytes);
  PlanBuilder b = s.builder(Side::kDecoder);
  const PlanTensor position = b.state(plan_names::kPosition, DType::kI32, 1, 1, BufferRole::kInput);
  const PlanTensor qkv = b.state("qkv", s.dtype, batch, 3 * inner, BufferRole::kInput);
  const Relative relative = relative_of(s, b, heads, plan_names::kDecoderBias);
  for (int i = 0; i < copies; ++i) {
    const PlanTensor out = b.activations(PhaseKind::kSelfAttention, batch, inner);
    if (i + 1 == copies) b.keep(out, "out");
    const auto cache = [&](char which) {
      return b.state(fmt::format("{}_cache.{}", which, i), s.kv, batch * heads * s.c.tgt, c.head_dim,
                     BufferRole::kInput);
    };
    const auto scales = [&](char which) {
      if (!coded(s.kv)) return PlanTensor{};
      return b.state(fmt::format("{}_scales.{}", which, i), DType::kF32, batch * heads * s.c.tgt, 1,
                     BufferRole::kInput);
    };
    b.add(PhaseKind::kSelfAttention, SelfAttentionOp{.q = qkv.columns(0, inner),
                                                     .k = qkv.columns(inner, inner),
                                                     .v = qkv.columns(2 * inner, inner),
                                                     .k_cache = cache('k'),
                                                     .v_cache = cache('v'),
                                                     .k_scales = scales('k'),
                                                     .v_scales = scales('v'),
                                                     .out = out,
                                                     .position = position,
                                                     .bias = relative.ref,
                                                     .heads = heads,
                                                     .capacity = s.c.tgt});
  }
  auto runner = s.runner(b, relative.weights, copies);
  for (int i = 0; i < copies && coded(s.kv); ++i) {
    for (const char which : {'k', 'v'}) upload_scales(*runner, s.kv, fmt::format("{}_scales.{}", which, i));
  }
  const int32_t last_position = s.c.tgt - 1;
  runner->run().upload(plan_names::kPosition, &last_position, sizeof(last_position));
  runner->build_graph();

  OpWorkload op;
  op.unit = ComputeUnit::kActivations;
  op.bytes_read = static_cast<double>(s.c.tgt * token_bytes + s.bytes(3 * batch * inner));
  op.bytes_written = static_cast<double>(token_bytes + s.bytes(batch * inner));
  op.flops = 4.0 * static_cast<double>(cache_elements);
  op.check = [r = runner.get(), c, copies, inner, batch, table = relative.ref.table, tgt = s.c.tgt,
              precision = s.c.precision, type = s.kv] {
    const std::vector<float> qkv = r->run().floats("qkv");
    const auto kept = [&](char which) {
      std::vector<float> values = r->values(fmt::format("{}_cache.{}", which, copies - 1));
      if (!coded(type)) return values;
      const std::vector<float> scales = r->run().floats(fmt::format("{}_scales.{}", which, copies - 1));
      for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / static_cast<size_t>(c.head_dim)];
      return values;
    };
    const std::vector<float> k = kept('k');
    const std::vector<float> v = kept('v');
    const std::vector<float> out = r->run().floats("out");
    SampleCheck check;
    for (uint64_t i = 0; i < 8; ++i) {
      const int64_t row = draw(2 * i, batch);
      const int head = static_cast<int>(draw(2 * i + 1, c.decoder.heads));
      const int64_t cache = (row * c.decoder.heads + head) * tgt;
      const int64_t column = int64_t{head} * c.head_dim;
      // The appended key and value are part of the check: the cache's last row must be this step's.
      std::vector<float> new_rows[3];  // the key is part 1, the value part 2
      for (const int part : {1, 2}) {
        const auto row_of_head = std::span(qkv).subspan(row * 3 * inner + part * inner + column, c.head_dim);
        new_rows[part].assign(row_of_head.begin(), row_of_head.end());
        if (coded(type)) new_rows[part] = through_codes(type, row_of_head);
      }
      const auto appended = [&](int part, int e) { return new_rows[part][static_cast<size_t>(e)]; };
      const auto at = [&](const std::vector<float>& values, int part, int t, int e) {
        return t == tgt - 1 ? appended(part, e) : values[(cache + t) * c.head_dim + e];
      };
      const HostAttention host{.q = qkv,
                               .q_at = row * 3 * inner + column,
                               .keys = tgt,
                               .query_position = tgt - 1,
                               .head_dim = c.head_dim,
                               .scale = c.attention_scale,
                               .k = [&](int t, int e) { return at(k, 1, t, e); },
                               .v = [&](int t, int e) { return at(v, 2, t, e); },
                               .bias = host_bias(*r, table, c, head, tgt - 1, false)};
      const std::vector<double> want = host.out();
      for (int e = 0; e < c.head_dim; ++e) {
        check.add(out[row * inner + column + e], want[e]);
        check.add(k[(cache + tgt - 1) * c.head_dim + e], appended(1, e));
        check.add(v[(cache + tgt - 1) * c.head_dim + e], appended(2, e));
      }
    }
    return check.result("8 sampled rows and heads, and the appended keys and values", precision);
  };
  op.workload = std::move(runner);
  return op;
}

OpWorkload cross_attention_op(const OpSetup& s) {
  const ModelConfig& c = s.config;
  const int64_t inner = c.inner(c.decoder);
  const int64_t batch = s.c.batch;
  const int64_t tokens = s.offsets.back();
  const int heads = c.decoder.heads;
  const int64_t kv_bytes = 2 * tokens * heads * kv_head_bytes(s.c.precision, parse_kv(s.c.kv), c.head_dim);
  const int copies = copies_beyond_l2(*s.device, kv_bytes);
  PlanBuilder b = s.builder(Side::kDecoder);
  const PlanTensor offsets =
      b.state(plan_names::kSourceOffsets, DType::kI32, 1, batch + 1, BufferRole::kInput);
  const PlanTensor q = b.state("q", s.dtype, batch, inner, BufferRole::kInput);
  for (int i = 0; i < copies; ++i) {
    const PlanTensor kv = b.state(fmt::format("kv.{}", i), s.kv, tokens, 2 * inner, BufferRole::kInput);
    PlanTensor k_scales;
    PlanTensor v_scales;
    if (coded(s.kv)) {
      const PlanTensor scales =
          b.state(fmt::format("scales.{}", i), DType::kF32, 2 * heads, tokens, BufferRole::kInput);
      k_scales = scales.some_rows(0, heads);
      v_scales = scales.some_rows(heads, heads);
    }
    const PlanTensor out = b.activations(PhaseKind::kCrossAttention, batch, inner);
    if (i + 1 == copies) b.keep(out, "out");
    b.add(PhaseKind::kCrossAttention, CrossAttentionOp{.q = q,
                                                       .k = kv.columns(0, inner),
                                                       .v = kv.columns(inner, inner),
                                                       .k_scales = k_scales,
                                                       .v_scales = v_scales,
                                                       .offsets = offsets,
                                                       .out = out,
                                                       .heads = heads,
                                                       .max_source = b.request().max_source});
  }
  auto runner = s.runner(b, nullptr, copies);
  for (int i = 0; i < copies && coded(s.kv); ++i) upload_scales(*runner, s.kv, fmt::format("scales.{}", i));
  runner->run().upload(plan_names::kSourceOffsets, s.offsets.data(), bytes_of(s.offsets));
  runner->build_graph();

  OpWorkload op;
  op.unit = ComputeUnit::kActivations;
  op.bytes_read = static_cast<double>(kv_bytes + s.bytes(batch * inner));
  op.bytes_written = static_cast<double>(s.bytes(batch * inner));
  op.flops = 4.0 * static_cast<double>(tokens) * static_cast<double>(inner);
  op.check = [r = runner.get(), c, copies, inner, batch, tokens, offsets = s.offsets, lengths = s.lengths,
              precision = s.c.precision, type = s.kv] {
    const std::vector<float> q = r->run().floats("q");
    std::vector<float> kv = r->values(fmt::format("kv.{}", copies - 1));
    if (coded(type)) {
      const std::vector<float> scales = r->run().floats(fmt::format("scales.{}", copies - 1));
      for (size_t i = 0; i < kv.size(); ++i) {
        const size_t token = i / static_cast<size_t>(2 * inner);
        const size_t head = i % static_cast<size_t>(2 * inner) / static_cast<size_t>(c.head_dim);
        kv[i] *= scales[head * static_cast<size_t>(tokens) + token];
      }
    }
    const std::vector<float> out = r->run().floats("out");
    SampleCheck check;
    for (uint64_t i = 0; i < 8; ++i) {
      const int64_t row = draw(2 * i, batch);
      const int64_t column = draw(2 * i + 1, c.decoder.heads) * c.head_dim;
      const auto at = [&](int part, int t, int e) {
        return kv[(offsets[row] + t) * 2 * inner + part * inner + column + e];
      };
      const HostAttention host{.q = q,
                               .q_at = row * inner + column,
                               .keys = lengths[row],
                               .query_position = 0,
                               .head_dim = c.head_dim,
                               .scale = c.attention_scale,
                               .k = [&](int t, int e) { return at(0, t, e); },
                               .v = [&](int t, int e) { return at(1, t, e); }};
      const std::vector<double> want = host.out();
      for (int e = 0; e < c.head_dim; ++e) check.add(out[row * inner + column + e], want[e]);
    }
    return check.result("8 sampled rows and heads", precision);
  };
  op.workload = std::move(runner);
  return op;
}

}  // namespace tandem::kernels
