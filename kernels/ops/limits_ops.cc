// The operations of suite_limits: the card's ceilings, from kernels/limits.
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <utility>

#include "harness/base/error.h"
#include "kernels/gemm/structured/structured_gemm.h"
#include "kernels/limits/limits.h"
#include "kernels/ops/op_workloads.h"

namespace tandem::kernels {
namespace {

constexpr int kSamplesAtOnce = 15;

/// Gives the samples of a measurement one by one and measures again when they are used up. The measurement
/// brings its own buffers, warm-up and check.
class LimitWorkload : public Workload {
 public:
  /// `to_us` turns a sample of the limit into the time of one operation.
  LimitWorkload(std::shared_ptr<Device> device, std::function<Limit()> measure,
                std::function<double(double)> to_us)
      : device_(std::move(device)), measure_(std::move(measure)), to_us_(std::move(to_us)) {}

  Repetition repeat() override {
    if (next_ >= limit_.samples.size()) {
      device_->activate();
      device_->level2().trim();
      limit_ = measure_();
      next_ = 0;
      if (!limit_.ok()) throw Error("limit: " + limit_.wrong);
      if (limit_.samples.empty()) throw Error("limit: the measurement gave no sample");
    }
    return {.total_us = to_us_(limit_.samples[next_++]), .step_us = {}, .first_token_us = {}};
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return device_->meter().peak_bytes; }

  CheckResult check() const {
    return {.reference = "the measurement's own check (sums, words read back, sampled products)",
            .error = limit_.ok() && !limit_.samples.empty() ? 0.0 : std::nan(""),
            .tolerance = 0,
            .where = limit_.wrong};
  }

 private:
  std::shared_ptr<Device> device_;
  std::function<Limit()> measure_;
  std::function<double(double)> to_us_;
  Limit limit_;
  size_t next_ = 0;
};

struct LimitOp {
  std::function<Limit()> measure;
  double bytes_read = 0;
  double bytes_written = 0;
  double flops = 0;
};

OpWorkload make(std::shared_ptr<Device> device, LimitOp limit) {
  const double bytes = limit.bytes_read + limit.bytes_written;
  std::function<double(double)> to_us = [](double us) { return us; };
  if (bytes > 0) to_us = [bytes](double gbs) { return bytes / gbs * 1e-3; };
  if (limit.flops > 0) to_us = [flops = limit.flops](double tflops) { return flops / tflops * 1e-6; };
  auto workload =
      std::make_unique<LimitWorkload>(std::move(device), std::move(limit.measure), std::move(to_us));
  OpWorkload op;
  op.bytes_read = limit.bytes_read;
  op.bytes_written = limit.bytes_written;
  op.flops = limit.flops;
  op.check = [w = workload.get()] { return w->check(); };
  op.workload = std::move(workload);
  return op;
}

OpWorkload gemm_op(std::shared_ptr<Device> device, const Case& c) {
  const bool sustained = c.op == "gemm_sustained";
  const GemmRateParams params{.precision = c.precision,
                              .two_of_four = c.sparsity == "2:4",
                              .regime = sustained ? Regime::kSustained : Regime::kBurst};
  const double flops =
      2.0 * static_cast<double>(params.m) * static_cast<double>(params.n) * static_cast<double>(params.k);
  // A burst sample brings its rest: as many as are asked for. Sustained ones share what went before them.
  const int samples = sustained ? kSamplesAtOnce : 1;
  return make(std::move(device), {.measure =
                                      [params, samples, rate = std::shared_ptr<GemmRate>()]() mutable {
                                        if (!rate) rate = std::make_shared<GemmRate>(params);
                                        return rate->measure(samples);
                                      },
                                  .flops = flops});
}

/// The encoder's attention at a size where nothing but arithmetic limits it.
OpWorkload attention_limit(std::shared_ptr<Device> device, const Case& c) {
  ModelConfig config;
  config.head_dim = 128;
  config.encoder.heads = 32;
  config.d_model = 4096;
  config.position = Position::kNone;
  config.attention_scale = 1 / std::sqrt(128.0);
  Case shape = c;
  shape.suite = Suite::kKernels;
  shape.op = "encoder_attention";
  shape.batch = 8;
  shape.src = 2048;
  shape.lengths = "full";
  shape.kernel = "auto";
  return kernels_op(std::move(device), shape, config);
}

}  // namespace

void check_limits_op(const Case& c) {
  const bool gemm = c.op == "gemm" || c.op == "gemm_sustained";
  const bool float_type = c.precision == Precision::kFp32 || c.precision == Precision::kTf32 ||
                          c.precision == Precision::kFp16 || c.precision == Precision::kBf16;
  const bool has_rate = float_type || c.precision == Precision::kFp8 || c.precision == Precision::kInt8;
  if (gemm && !has_rate) {
    throw ImpossibleCase(
        fmt::format("precision: a product's ceiling is one of fp32 tf32 fp16 bf16 fp8 int8, not '{}'",
                    precision_name(c.precision)));
  }
  if (gemm && c.sparsity != "dense") {
    const bool half = c.precision == Precision::kFp16 || c.precision == Precision::kBf16;
    if (c.sparsity != "2:4" || !half) {
      throw ImpossibleCase(
          fmt::format("sparsity: a product's ceiling is one of dense, or 2:4 in fp16 or bf16, not '{}' in {}",
                      c.sparsity, precision_name(c.precision)));
    }
    if (const std::string lacks = structured_lacks(); !lacks.empty())
      throw ImpossibleCase(fmt::format("sparsity: {}", lacks));
  }
  if (c.op == "attention" && !float_type) {
    throw ImpossibleCase(
        fmt::format("precision: engine 'cuda' computes attention in fp32 tf32 fp16 bf16, not '{}'",
                    precision_name(c.precision)));
  }
}

OpWorkload limits_op(std::shared_ptr<Device> device, const Case& c) {
  check_limits_op(c);
  if (c.op == "read") {
    constexpr int64_t kBytes = int64_t{4} << 30;
    return make(std::move(device),
                {.measure = [] { return measure_read_gbs(kBytes, kSamplesAtOnce); }, .bytes_read = kBytes});
  }
  if (c.op == "copy") {
    constexpr int64_t kBytes = int64_t{2} << 30;
    return make(std::move(device), {.measure = [] { return measure_copy_gbs(kBytes, kSamplesAtOnce); },
                                    .bytes_read = kBytes,
                                    .bytes_written = kBytes});
  }
  if (c.op == "l2") {
    const int64_t bytes = device->l2_bytes() / 3 / 4096 * 4096;
    return make(std::move(device), {.measure = [bytes] { return measure_l2_gbs(bytes, kSamplesAtOnce); },
                                    .bytes_read = static_cast<double>(bytes)});
  }
  if (c.op == "gemm" || c.op == "gemm_sustained") return gemm_op(std::move(device), c);
  if (c.op == "empty_node") {
    const bool dependent = device->dependent_launch();
    return make(std::move(device),
                {.measure = [dependent] { return measure_empty_node_us(dependent, 200, kSamplesAtOnce); }});
  }
  if (c.op == "attention") return attention_limit(std::move(device), c);
  throw ImpossibleCase(fmt::format("op: engine 'cuda' has no limit '{}'", c.op));
}

}  // namespace tandem::kernels
