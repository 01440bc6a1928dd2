// The operations of suite_collectives: one rank's part in each.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/random.h"
#include "kernels/gemm/operands.h"
#include "kernels/norm/norm.h"
#include "kernels/ops/op_setup.h"
#include "kernels/ops/op_workloads.h"
#include "kernels/runtime/graph.h"

namespace tandem::kernels {
namespace {

constexpr int kChain = 72;  // of targets.md: three a layer of T5-3B's decoder
constexpr int64_t kCheckedElements = 1 << 16;

struct Message {
  int64_t rows;
  int d;
  DType dtype;
  AllReduceChoice choice;

  int64_t count() const { return rows * d; }
  int64_t bytes() const { return tensor_bytes(dtype, count()); }
};

/// One rank's buffers and graphs.
class CollectiveWorkload : public Workload {
 public:
  CollectiveWorkload(std::shared_ptr<Device> device, MemoryResource& memory, const Message& m, bool chain)
      : device_(std::move(device)),
        ranks_(*device_->ranks()),
        m_(m),
        x_(memory, m.bytes()),
        y_(memory, m.bytes()),
        stream_sum_(memory, chain ? tensor_bytes(DType::kF32, m.count()) : 0),
        gamma_(memory, tensor_bytes(m.dtype, m.d)),
        repeats_(chain ? kChain : static_cast<int>(std::clamp<int64_t>((8 << 20) / m.bytes(), 2, 20))) {
    device_->meter().restart_peak();
    fill(gamma_.data(), m_.d, stream_key(kInputSeed, "collective.gamma"));
    fill_x(ranks_.rank(), x_.data());
    if (chain) {
      with_ = graph([&] { one_normed(); });
      without_ = graph([&] { norm_alone(); });
    } else {
      with_ = graph([&] { one(); });
    }
  }

  Repetition repeat() override {
    double us = time(with_);
    if (without_) us -= time(without_);
    // Less than nothing is no sample: what is left of a difference under the clock's step.
    return {.total_us = std::max(us, 1e-3) / repeats_, .step_us = {}, .first_token_us = {}};
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return device_->meter().peak_bytes; }
  std::optional<double> graph_build_us() const override { return build_us_; }

  /// Of one collective on fresh inputs: every sampled element against the sum of all ranks' in fp32 on the host.
  CheckResult check() {
    const std::vector<float> want = stream_sum_ ? expected_norm() : expected_sum();
    fill_x(ranks_.rank(), x_.data());
    if (stream_sum_) {
      clear_stream();
      one_normed();
    } else {
      one();
    }
    device_->synchronize();
    SampleCheck check;
    const std::vector<float> got = sampled(stream_sum_ ? x_.data() : y_.data());
    for (size_t i = 0; i < got.size(); ++i) check.add(got[i], want[i]);
    return check.result("the sum in fp32 on the host", precision_of(m_.dtype));
  }

 private:
  static Precision precision_of(DType t) {
    return t == DType::kF32 ? Precision::kFp32 : t == DType::kF16 ? Precision::kFp16 : Precision::kBf16;
  }
  void fill(void* out, int64_t count, uint64_t key) {
    launch_random_fill({.out = out, .dtype = m_.dtype, .count = count, .key = key, .scale = 1.0f},
                       device_->stream());
  }
  void fill_x(int rank, void* out) {
    fill(out, m_.count(), stream_key(kInputSeed, "collective.x") + static_cast<uint64_t>(rank));
  }
  void clear_stream() {
    TANDEM_CUDA_CHECK(
        cudaMemsetAsync(stream_sum_.data(), 0, static_cast<size_t>(stream_sum_.bytes()), device_->stream()));
  }

  void one() {
    ranks_.all_reduce(m_.choice, x_.data(), y_.data(), m_.count(), m_.dtype, device_->dependent_launch());
  }
  NormParams norm() const {
    return {.dtype = m_.dtype,
            .x_dtype = m_.dtype,
            .stream_dtype = DType::kF32,
            .norm = Norm::kRms,
            .rows = m_.rows,
            .d = m_.d,
            .eps = 1e-6f,
            .x = x_.data(),
            .residual = stream_sum_.data(),
            .sum = stream_sum_.data(),
            .gamma = gamma_.data(),
            .y = x_.data(),
            .dependent = device_->dependent_launch()};
  }
  void one_normed() { ranks_.all_reduce_norm(m_.choice, norm(), x_.data()); }
  void norm_alone() { launch_norm(norm(), device_->stream()); }

  template <typename Work>
  Graph graph(const Work& work) {
    work();
    device_->synchronize();
    return Graph(device_->stream(), build_us_, [&] {
      for (int i = 0; i < repeats_; ++i) work();
    });
  }
  double time(const Graph& graph) {
    if (stream_sum_) clear_stream();
    device_->line_up();
    begin_.record(device_->stream());
    graph.launch(device_->stream());
    end_.record(device_->stream());
    device_->wait(end_.get());
    return end_.us_since(begin_);
  }

  /// The first elements, the last ones and some between, of a buffer of the message's shape.
  std::vector<float> sampled(const void* buffer) const {
    std::vector<uint8_t> raw(static_cast<size_t>(m_.bytes()));
    TANDEM_CUDA_CHECK(
        cudaMemcpyAsync(raw.data(), buffer, raw.size(), cudaMemcpyDeviceToHost, device_->stream()));
    device_->synchronize();
    const int64_t step = std::max<int64_t>(1, m_.count() / kCheckedElements);
    std::vector<float> values;
    for (int64_t i = 0; i < m_.count(); i += step) values.push_back(element(raw, i));
    values.push_back(element(raw, m_.count() - 1));
    return values;
  }
  float element(const std::vector<uint8_t>& raw, int64_t i) const {
    const auto at = static_cast<size_t>(tensor_bytes(m_.dtype, i));
    if (m_.dtype == DType::kF32) return *reinterpret_cast<const float*>(&raw[at]);
    const uint16_t bits = *reinterpret_cast<const uint16_t*>(&raw[at]);
    return m_.dtype == DType::kF16 ? fp16_to_float(bits) : bf16_to_float(bits);
  }
  /// Leaves this rank's x in y's place.
  std::vector<float> expected_sum() {
    std::vector<float> sum;
    for (int r = 0; r < ranks_.size(); ++r) {
      fill_x(r, y_.data());
      const std::vector<float> x = sampled(y_.data());
      if (sum.empty()) sum.resize(x.size());
      for (size_t i = 0; i < x.size(); ++i) sum[i] += x[i];
    }
    return sum;
  }
  /// Of the whole rows: summed on the host, rounded, normed by the plain kernel.
  std::vector<float> expected_norm() {
    std::vector<float> sum(static_cast<size_t>(m_.count()));
    std::vector<uint8_t> raw(static_cast<size_t>(m_.bytes()));
    for (int r = 0; r < ranks_.size(); ++r) {
      fill_x(r, y_.data());
      TANDEM_CUDA_CHECK(
          cudaMemcpyAsync(raw.data(), y_.data(), raw.size(), cudaMemcpyDeviceToHost, device_->stream()));
      device_->synchronize();
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += element(raw, static_cast<int64_t>(i));
    }
    for (size_t i = 0; i < sum.size(); ++i) store(raw, i, sum[i]);
    TANDEM_CUDA_CHECK(
        cudaMemcpyAsync(y_.data(), raw.data(), raw.size(), cudaMemcpyHostToDevice, device_->stream()));
    NormParams p = norm();
    p.x = p.y = y_.data();
    clear_stream();
    launch_norm(p, device_->stream());
    return sampled(y_.data());
  }
  void store(std::vector<uint8_t>& raw, size_t i, float v) const {
    if (m_.dtype == DType::kF32) {
      reinterpret_cast<float*>(raw.data())[i] = v;
    } else {
      reinterpret_cast<uint16_t*>(raw.data())[i] =
          m_.dtype == DType::kF16 ? float_to_fp16(v) : float_to_bf16(v);
    }
  }

  std::shared_ptr<Device> device_;
  DeviceRanks& ranks_;
  Message m_;
  MemoryBlock x_, y_;
  MemoryBlock stream_sum_;  // fp32, of a chain
  MemoryBlock gamma_;
  int repeats_;
  double build_us_ = 0;
  Graph with_, without_;
  Event begin_, end_;
};

}  // namespace

void check_collectives_op(const Case& c) {
  if (c.tp == 1) throw ImpossibleCase("tp: suite_collectives needs 2, 4 or 8 ranks, not 1");
  const DType dtype = activation_dtype(c.precision);
  if (weight_dtype(c.precision) != dtype || c.precision == Precision::kTf32)
    throw ImpossibleCase(fmt::format("precision: suite_collectives sums fp32 fp16 bf16, not '{}'",
                                     precision_name(c.precision)));
}

OpWorkload collectives_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config) {
  check_collectives_op(c);
  if (device->ranks() == nullptr || device->ranks()->size() != c.tp)
    throw ImpossibleCase(fmt::format("tp: {} ranks need as many devices that know of each other", c.tp));
  const Message m{.rows = c.batch,
                  .d = config.d_model,
                  .dtype = activation_dtype(c.precision),
                  .choice = parse_all_reduce(c.allreduce)};
  device->use_all_reduce(m.choice);
  const bool chain = c.op == "chain";
  auto workload = std::make_unique<CollectiveWorkload>(device, device->memory("level2"), m, chain);
  OpWorkload op;
  op.unit = ComputeUnit::kActivations;
  op.bytes_read = static_cast<double>(m.bytes());
  // What a chain takes is a difference of two times, which may hide behind each other: it has no floor.
  if (!chain) op.link_bytes = sum_link_bytes(op.bytes_read, c.tp);
  op.check = [w = workload.get()] { return w->check(); };
  op.workload = std::move(workload);
  return op;
}

}  // namespace tandem::kernels
