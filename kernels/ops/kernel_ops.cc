// The operations of suite_kernels but for attention.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "harness/base/error.h"
#include "harness/sweep/op_shape.h"
#include "kernels/gemm/problem.h"
#include "kernels/ops/op_matrix.h"
#include "kernels/ops/op_setup.h"
#include "kernels/ops/op_workloads.h"
#include "kernels/skinny/skinny_shape.h"
#include "kernels/tiled_gemm/tiled_shape.h"

namespace tandem::kernels {
namespace {

constexpr int kSamples = 64;
constexpr int kRowCopies = 32;  // of operations on a few rows, which stay in L2 in a decoder too

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kGelu:
      return x * std::erfc(-x / std::numbers::sqrt2) / 2;
    case Activation::kGeluTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return x;
}

OpWorkload dense_op(const OpSetup& s, PhaseKind kind) {
  const ModelConfig& c = s.config;
  const ProductShape shape = product_shape(s.c.op, c).value();
  const bool ffn_up = kind == PhaseKind::kFfnUp;
  const auto activation = ffn_up ? std::optional(c.activation) : std::nullopt;
  const bool gated = ffn_up && c.gated;
  const int64_t out = gated ? shape.n / 2 : shape.n;
  const int64_t rows = s.c.batch;
  const OpMatrix matrix(s, kind == PhaseKind::kHead ? TensorUse::kHead : TensorUse::kProduct, shape.n,
                        shape.k, c.bias);
  const int copies = matrix.copies();

  PlanBuilder b = s.builder(Side::kDecoder);
  const PlanTensor x = b.state("x", s.dtype, rows, shape.k, BufferRole::kInput);
  const bool own = b.own_product(kind, x, matrix.copy(0));
  for (int i = 0; i < copies; ++i) {
    const PlanBuilder::Dense dense{
        .kind = kind, .weight = matrix.copy(i), .activation = activation, .gated = gated};
    const PlanTensor y = b.dense({.rows = x, .pending = {}}, dense);
    if (i + 1 == copies) b.keep(y, "y");
  }

  OpWorkload op;
  auto runner = s.runner(b, matrix.weights(), copies);
  runner->build_graph();
  op.unit = matrix.unit();
  op.bytes_read = matrix.stored_bytes() + static_cast<double>(rows) * matrix.input_row_bytes(!own);
  op.bytes_written = static_cast<double>(s.bytes(rows * out));
  op.flops = matrix.flops(rows);
  op.fraction_kept = matrix.fraction_kept();
  op.check = [r = runner.get(), matrix, rows, out, shape, activation, gated, precision = s.c.precision] {
    const std::vector<float> x_values = r->run().floats("x");
    const std::vector<float> y_values = r->run().floats("y");
    const auto product = [&](int64_t row, int64_t n) {
      const std::vector<float> x = matrix.input(std::span(x_values).subspan(row * shape.k, shape.k));
      const std::vector<float> w = matrix.rows(n, 1);
      double sum = matrix.biases(n, 1)[0];
      for (int64_t i = 0; i < shape.k; ++i) sum += double{w[i]} * x[i];
      return sum;
    };
    SampleCheck check;
    for (uint64_t i = 0; i < kSamples; ++i) {
      const int64_t row = draw(2 * i, rows);
      const int64_t n = draw(2 * i + 1, out);
      double want = product(row, n);
      if (activation) want = activate(*activation, want);
      if (gated) want *= product(row, n + out);
      check.add(y_values[row * out + n], want);
    }
    return check.result("64 sampled products", precision);
  };
  op.workload = std::move(runner);
  return op;
}

OpWorkload norm_op(const OpSetup& s) {
  const ModelConfig& c = s.config;
  const int64_t rows = s.c.batch;
  const int64_t d = c.d_model;
  const auto weights = s.weights({{s.dtype, d, 1.0}, {s.dtype, d, 1.0}}, kRowCopies);
  PlanBuilder b = s.builder(Side::kDecoder);
  const PlanTensor x = b.state("x", s.dtype, rows, d, BufferRole::kInput);
  NormWeight last;
  for (int i = 0; i < kRowCopies; ++i) {
    last = {.gamma = weights->view(i, 0, 1, d),
            .beta = c.norm == Norm::kLayer ? weights->view(i, 1, 1, d) : TensorView{}};
    const PlanTensor y = b.materialise({.rows = x, .pending = last});
    if (i + 1 == kRowCopies) b.keep(y, "y");
  }
  OpWorkload op;
  auto runner = s.runner(b, weights, kRowCopies);
  runner->build_graph();
  op.bytes_read = op.bytes_written = static_cast<double>(s.bytes(rows * d));
  op.check = [r = runner.get(), c, d, rows, last, precision = s.c.precision] {
    const std::vector<float> x_values = r->run().floats("x");
    const std::vector<float> y_values = r->run().floats("y");
    const std::vector<float> gamma = r->weights().download(last.gamma, 0, d);
    const std::vector<float> beta =
        last.beta.empty() ? std::vector<float>(d) : r->weights().download(last.beta, 0, d);
    SampleCheck check;
    for (uint64_t i = 0; i < 4; ++i) {
      const int64_t row = draw(i, rows);
      const float* v = x_values.data() + row * d;
      double mean = 0;
      double square = 0;
      for (int64_t j = 0; j < d && c.norm == Norm::kLayer; ++j) mean += v[j] / static_cast<double>(d);
      for (int64_t j = 0; j < d; ++j) square += (v[j] - mean) * (v[j] - mean) / static_cast<double>(d);
      for (int64_t j = 0; j < d; ++j) {
        check.add(y_values[row * d + j], (v[j] - mean) / std::sqrt(square + c.norm_eps) * gamma[j] + beta[j]);
      }
    }
    return check.result("4 sampled rows", precision);
  };
  op.workload = std::move(runner);
  return op;
}

/// Rows of the token table alone: positions are a few more bytes of the same kind.
OpWorkload embedding_op(const OpSetup& s) {
  ModelConfig plain = s.config;
  plain.position = Position::kNone;
  const OpSetup setup{.device = s.device, .c = s.c, .config = plain};
  const int64_t rows = s.c.batch;
  const int64_t d = plain.d_model;
  const auto weights = s.weights({{s.dtype, int64_t{plain.vocab} * d, 1.0}}, 1);
  PlanBuilder b = setup.builder(Side::kDecoder);
  const PlanTensor ids = b.state("ids", DType::kI32, 1, rows * kRowCopies, BufferRole::kInput);
  StackWeight w;
  w.embedding = weights->view(0, 0, plain.vocab, d);
  for (int i = 0; i < kRowCopies; ++i) {
    const PlanTensor y = b.activations(PhaseKind::kEmbed, rows, d);
    if (i + 1 == kRowCopies) b.keep(y, "y");
    b.add(PhaseKind::kEmbed, EmbedOp{.ids = ids.columns(i * rows, rows), .x = y, .table = w.embedding});
  }
  std::vector<int32_t> host_ids;
  for (int64_t i = 0; i < rows * kRowCopies; ++i)
    host_ids.push_back(static_cast<int32_t>(draw(static_cast<uint64_t>(i), plain.vocab)));
  OpWorkload op;
  auto runner = setup.runner(b, weights, kRowCopies);
  runner->run().upload("ids", host_ids.data(), bytes_of(host_ids));
  runner->build_graph();
  op.bytes_read = static_cast<double>(s.bytes(rows * d) + tensor_bytes(DType::kI32, rows));
  op.bytes_written = static_cast<double>(s.bytes(rows * d));
  op.check = [r = runner.get(), table = w.embedding, d, rows, host_ids, scale = plain.embedding_scale,
              precision = s.c.precision] {
    const std::vector<float> y = r->run().floats("y");
    SampleCheck check;
    for (uint64_t i = 0; i < 4; ++i) {
      const int64_t row = draw(i, rows);
      const int64_t id = host_ids[(kRowCopies - 1) * rows + row];
      const std::vector<float> want = r->weights().download(table, id * d, d);
      for (int64_t j = 0; j < d; ++j) check.add(y[row * d + j], scale * want[j]);
    }
    return check.result("4 sampled rows", precision);
  };
  op.workload = std::move(runner);
  return op;
}

OpWorkload head_op(const OpSetup& s) {
  const ModelConfig& c = s.config;
  const int64_t rows = s.c.batch;
  const int64_t d = c.d_model;
  const int64_t vocab = c.vocab;
  const OpMatrix matrix(s, TensorUse::kHead, vocab, d, c.head_bias);
  const int copies = matrix.copies();
  PlanBuilder b = s.builder(Side::kDecoder);
  const PlanTensor x = b.state("x", s.dtype, rows, d, BufferRole::kInput);
  const TokenState token{
      .next_ids = b.state(plan_names::kNextIds, DType::kI32, 1, rows, BufferRole::kInput),
      .tokens = b.state(plan_names::kTokens, DType::kI32, rows, s.c.tgt, BufferRole::kInput),
      .position = b.state(plan_names::kPosition, DType::kI32, 1, 1, BufferRole::kInput)};
  const bool own = b.own_product(PhaseKind::kHead, x, matrix.copy(0));
  for (int i = 0; i < copies; ++i) b.head({.rows = x, .pending = {}}, matrix.copy(i), token);
  auto runner = s.runner(b, matrix.weights(), copies);
  const int32_t zero = 0;
  runner->run().upload(plan_names::kPosition, &zero, sizeof(zero));
  runner->build_graph();

  OpWorkload op;
  op.unit = matrix.unit();
  op.bytes_read = matrix.stored_bytes() + static_cast<double>(rows) * matrix.input_row_bytes(!own);
  op.bytes_written = static_cast<double>(tensor_bytes(DType::kI32, rows));
  op.flops = 2.0 * static_cast<double>(rows) * static_cast<double>(vocab) * static_cast<double>(d);
  op.check = [r = runner.get(), matrix, rows, d, vocab, scale = c.head_scale, precision = s.c.precision] {
    const std::vector<float> x_values = r->run().floats("x");
    const int64_t row = draw(0, rows);
    const std::vector<float> x = matrix.input(std::span(x_values).subspan(row * d, d));
    const int32_t chosen = r->run().integers(plan_names::kNextIds)[row];
    double best = -1e300;
    double got = -1e300;
    double squares = 0;
    constexpr int64_t kRowsAtOnce = 1024;
    for (int64_t first = 0; first < vocab; first += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, vocab - first);
      const std::vector<float> w = matrix.rows(first, count);
      const std::vector<float> bias = matrix.biases(first, count);
      for (int64_t n = 0; n < count; ++n) {
        double sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += double{w[n * d + i]} * x[i];
        const double logit = scale * sum + bias[n];
        squares += logit * logit;
        best = std::max(best, logit);
        if (first + n == chosen) got = logit;
      }
    }
    const double deviation = std::sqrt(squares / static_cast<double>(vocab));
    SampleCheck check;
    check.add(got / deviation, best / deviation);  // a near tie may fall either way, anything less is wrong
    return check.result("largest logit of a sampled row", precision);
  };
  op.workload = std::move(runner);
  return op;
}

/// Has the own kernel for many rows this operation?
bool tiled_product(const Case& c, const ModelConfig& config) {
  const auto shape = product_shape(c.op, config);
  const bool layers = c.op.starts_with("gemm_") && c.op != "gemm_head";
  return layers && shape && parse_sparsity(c.sparsity).dense() &&
         weight_dtype(c.precision) == activation_dtype(c.precision) && current_arch().sm90a &&
         tiled_gemm_supports(activation_dtype(c.precision), c.batch, shape->n, shape->k);
}

void check_sparsity(const Case& c, KernelChoice kernel) {
  const SparsitySpec s = parse_sparsity(c.sparsity);
  if (s.dense()) return;
  if (s.structured() || s.threshold != 0 || !c.op.starts_with("gemm_") || c.op == "gemm_head") {
    throw ImpossibleCase(
        fmt::format("sparsity: suite_kernels has products of layers that are dense, 2:4 or unstructured:R, "
                    "not op '{}' with '{}'",
                    c.op, c.sparsity));
  }
  if (op_storage({}, s).bitmap && dtype_bits(weight_dtype(c.precision)) < 16) {
    throw ImpossibleCase(
        fmt::format("sparsity: '{}' of codes is stored with its zeros, as precision '{}' alone is",
                    c.sparsity, precision_name(c.precision)));
  }
  const int most = op_storage({}, s).bitmap ? kBitmapMaxRows : kSkinnyMaxRows;
  if (kernel != KernelChoice::kOwn) return;
  if (c.precision != Precision::kBf16) {
    throw ImpossibleCase(fmt::format("kernel: own has sparse products of bf16 only, not of precision '{}'",
                                     precision_name(c.precision)));
  }
  if (c.batch > most) {
    throw ImpossibleCase(
        fmt::format("kernel: own has no product of '{}' of more than {} rows, the case has {}", c.sparsity,
                    most, c.batch));
  }
}

}  // namespace

void check_kernels_op(const Case& c, const ModelConfig& config) {
  const KernelChoice kernel = parse_kernel(c.kernel);
  check_sparsity(c, kernel);
  const bool dense = c.op.starts_with("gemm_") || c.op == "head_argmax";
  if (kernel == KernelChoice::kLibrary && !dense) {
    throw ImpossibleCase(fmt::format("kernel: no library of this build computes op '{}'; own or auto", c.op));
  }
  if (kernel == KernelChoice::kOwn && dense && c.batch > kSkinnyMaxRows && !tiled_product(c, config)) {
    throw ImpossibleCase(fmt::format(
        "kernel: own has no such dense product of more than {} rows, the case has {}; allowed: those of "
        "layers in fp16 and bf16, dense, on sm_90a",
        kSkinnyMaxRows, c.batch));
  }
  const DType head = storage_of(weight_form(c), TensorUse::kHead).dtype;
  if (c.op == "gemm_head" && kernel != KernelChoice::kOwn && quantises_activations(weight_form(c)) &&
      !library_takes(head, activation_dtype(c.precision), config.vocab, config.d_model)) {
    throw ImpossibleCase(fmt::format(
        "op: gemm_head: the library has no {} product of {} columns; head_argmax pads them, own takes them",
        precision_name(c.precision), config.vocab));
  }
  const bool keeps = c.op == "decode_self_attention" || c.op == "cross_attention";
  if (!dense && !keeps && weight_dtype(c.precision) != activation_dtype(c.precision)) {
    throw ImpossibleCase(
        fmt::format("precision: op '{}' has nothing quantised; fp32 tf32 fp16 bf16, not '{}'", c.op,
                    precision_name(c.precision)));
  }
}

OpWorkload kernels_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config) {
  check_kernels_op(c, config);
  device->meter().restart_peak();
  const OpSetup s{.device = std::move(device), .c = c, .config = config};
  if (c.op == "gemm_qkv") return dense_op(s, PhaseKind::kSelfQkv);
  if (c.op == "gemm_out") return dense_op(s, PhaseKind::kSelfOut);
  if (c.op == "gemm_ffn_up") return dense_op(s, PhaseKind::kFfnUp);
  if (c.op == "gemm_ffn_down") return dense_op(s, PhaseKind::kFfnDown);
  if (c.op == "gemm_head") return dense_op(s, PhaseKind::kHead);
  if (c.op == "encoder_attention") return encoder_attention_op(s);
  if (c.op == "decode_self_attention") return self_attention_op(s);
  if (c.op == "cross_attention") return cross_attention_op(s);
  if (c.op == "norm") return norm_op(s);
  if (c.op == "embedding") return embedding_op(s);
  if (c.op == "head_argmax") return head_op(s);
  throw ImpossibleCase(fmt::format("op: engine 'cuda' has no operation '{}'", c.op));
}

}  // namespace tandem::kernels
