#include "kernels/ops/op_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/cuda_check.h"
#include "harness/base/half.h"
#include "harness/base/random.h"
#include "harness/weights/values/quantise.h"
#include "kernels/gemm/operands.h"

namespace tandem::kernels {
namespace {

double tolerance_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return 1e-5;
    case Precision::kTf32:
      return 2e-3;
    case Precision::kFp16:
      return 4e-3;
    default:
      return 2e-2;
  }
}

}  // namespace

int copies_beyond_l2(const Device& device, int64_t bytes) {
  const int64_t total = 5 * device.l2_bytes();
  return static_cast<int>(std::clamp<int64_t>(total / std::max<int64_t>(bytes, 1) + 1, 2, 128));
}

OpWeights::OpWeights(Device& device, MemoryResource& memory, const std::vector<Region>& regions, int copies)
    : device_(device) {
  constexpr int64_t kAlignment = 256;
  int64_t bytes = 0;
  for (const Region& r : regions) {
    const int64_t stride = round_up(tensor_bytes(r.dtype, r.elements), kAlignment);
    places_.push_back({.dtype = r.dtype, .offset = bytes, .stride = stride});
    bytes += stride * copies;
  }
  block_ = MemoryBlock(memory, bytes);
  for (size_t i = 0; i < regions.size(); ++i) {
    if (const std::vector<uint8_t>* given = regions[i].bytes) {
      for (int copy = 0; copy < copies; ++copy) {
        TANDEM_CUDA_CHECK(
            cudaMemcpyAsync(static_cast<char*>(block_.data()) + places_[i].offset + copy * places_[i].stride,
                            given->data(), given->size(), cudaMemcpyHostToDevice, device.stream()));
      }
      continue;
    }
    // Two values of 4 bits are any byte.
    const bool halves = regions[i].dtype == DType::kI4;
    const DType dtype = halves ? DType::kI8 : regions[i].dtype;
    launch_random_fill({.out = static_cast<char*>(block_.data()) + places_[i].offset,
                        .dtype = dtype,
                        .count = places_[i].stride * copies / dtype_bytes(dtype),
                        .key = stream_key(kInputSeed, "op.weights") + i,
                        .scale = halves ? 127.0f : static_cast<float>(regions[i].scale)},
                       device.stream());
  }
}

TensorView OpWeights::view(int copy, int region, int64_t rows, int64_t cols) const {
  const Place& place = places_.at(static_cast<size_t>(region));
  return {.data = static_cast<const char*>(block_.data()) + place.offset + copy * place.stride,
          .dtype = place.dtype,
          .rows = rows,
          .cols = cols};
}

std::vector<uint8_t> OpWeights::download_bytes(const TensorView& view, int64_t first, int64_t count) const {
  std::vector<uint8_t> raw(static_cast<size_t>(count));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(raw.data(), view.as<char>() + first, raw.size(), cudaMemcpyDeviceToHost,
                                    device_.stream()));
  device_.synchronize();
  return raw;
}

std::vector<float> OpWeights::download(const TensorView& view, int64_t first, int64_t count) const {
  const std::vector<uint8_t> raw =
      download_bytes(view, tensor_bytes(view.dtype, first), tensor_bytes(view.dtype, count));
  std::vector<float> values(static_cast<size_t>(count));
  const auto* bits = reinterpret_cast<const uint16_t*>(raw.data());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = view.dtype == DType::kF32   ? reinterpret_cast<const float*>(raw.data())[i]
                : view.dtype == DType::kF16 ? fp16_to_float(bits[i])
                                            : bf16_to_float(bits[i]);
  }
  return values;
}

OpRunner::OpRunner(std::shared_ptr<Device> device, MemoryResource& memory, StepPlan plan,
                   std::shared_ptr<OpWeights> weights, int copies)
    : device_(std::move(device)),
      weights_(std::move(weights)),
      run_(*device_, memory, std::move(plan)),
      copies_(copies) {
  for (const PlanBuffer& b : run_.plan().buffers) {
    const bool real = b.dtype == DType::kF32 || b.dtype == DType::kF16 || b.dtype == DType::kBF16;
    const bool codes = b.dtype == DType::kF8 || b.dtype == DType::kI8;
    // The constants that the executor made stay.
    const bool constant = b.name == plan_names::kSinusoids || b.name == plan_names::kEncoderBias ||
                          b.name == plan_names::kDecoderBias;
    if (b.role == BufferRole::kScratch || constant || (!real && !codes)) continue;
    fill(b.name, codes ? largest_code(b.dtype) : 1.0f);
  }
  device_->synchronize();
}

void OpRunner::fill(std::string_view buffer, float scale) {
  run_.fill_random(buffer, scale);
}

std::vector<float> OpRunner::values(std::string_view buffer) const {
  const PlanBuffer& b = run_.plan().buffer(buffer);
  if (b.dtype != DType::kF8 && b.dtype != DType::kI8) return run_.floats(buffer);
  std::vector<uint8_t> codes(static_cast<size_t>(b.bytes()));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(codes.data(), run_.data<void>(buffer), codes.size(),
                                    cudaMemcpyDeviceToHost, device_->stream()));
  device_->synchronize();
  std::vector<float> values(codes.size());
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = b.dtype == DType::kF8 ? f8_to_float(codes[i]) : static_cast<int8_t>(codes[i]);
  return values;
}

void OpRunner::build_graph() {
  run_.run(PlanSection::kStep);
  device_->synchronize();
  graph_ = Graph(device_->stream(), build_us_, [this] { run_.run(PlanSection::kStep); });
}

Repetition OpRunner::repeat() {
  begin_.record(device_->stream());
  graph_.launch(device_->stream());
  end_.record(device_->stream());
  device_->wait(end_.get());
  return {.total_us = end_.us_since(begin_) / copies_, .step_us = {}, .first_token_us = {}};
}

std::vector<float> through_codes(DType code, std::span<const float> values) {
  const Storage storage{.dtype = code, .scale_group = Storage::kWholeRow};
  std::vector<uint32_t> codes(values.size());
  std::vector<float> back(values.size());
  float scale = 0;
  quantise_row(storage, values, codes, std::span(&scale, 1));
  dequantise_row(storage, codes, std::span(&scale, 1), back);
  return back;
}

CheckResult SampleCheck::result(std::string what, Precision precision) const {
  double squares = 0;
  double wanted = 0;
  size_t worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = got[i] - want[i];
    squares += d * d;
    wanted += want[i] * want[i];
    if (!(std::abs(d) <= std::abs(got[worst] - want[worst]))) worst = i;
  }
  return {.reference = std::move(what),
          .error = std::sqrt(squares / std::max(wanted, 1e-300)),
          .tolerance = tolerance_of(precision),
          .where = fmt::format("sample {}: expected {}, got {}", worst, want[worst], got[worst])};
}

}  // namespace tandem::kernels
