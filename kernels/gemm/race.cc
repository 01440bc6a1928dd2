#include "kernels/gemm/race.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "harness/base/cuda_check.h"
#include "harness/base/host_device.h"
#include "kernels/common/timed_graph.h"
#include "kernels/common/turns.h"
#include "kernels/gemm/operands.h"

namespace tandem::kernels {
namespace {

constexpr double kTie = 1.01;
constexpr int64_t kMaxCopies = 256;
constexpr double kLongestGraphUs = 1600;
constexpr double kGraphUs = 400;  // enough for the events' resolution of about half a microsecond

/// Expected time of a product, only to decide how many go into one graph.
double rough_us(const GemmProblem& p) {
  const double tflops = p.x == DType::kF32 ? (p.tf32 ? 250 : 40) : dtype_bytes(p.x) == 1 ? 1000 : 500;
  const double bytes = static_cast<double>(tensor_bytes(p.w, p.n * p.k) + tensor_bytes(p.x, p.m * p.k) +
                                           tensor_bytes(p.out, p.m * p.n));
  return std::max({p.flops() / tflops * 1e-6, bytes / 3e6, 2.0});
}

/// A candidate with its graph, kept while it is a finalist.
struct Runner {
  GemmChoice choice;
  Launch product;
  std::unique_ptr<TimedGraph> graph;
};

/// Nothing when the library refuses at the launch what its heuristic offered.
std::optional<Runner> make_runner(const Race& race, const GemmChoice& choice, int launches,
                                  cudaStream_t stream, std::string& refusal) {
  Runner r{choice, {}, nullptr};
  try {
    r.product = race.bind(choice);
    r.product(race.operands.args(0), stream);  // loads the kernel, which a capture must not do
  } catch (const Error& e) {
    refusal = e.what();
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));  // a fault of the card is not a refusal
    return std::nullopt;
  }
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  r.graph = std::make_unique<TimedGraph>(stream, [&](cudaStream_t s) {
    for (int i = 0; i < launches; ++i) r.product(race.operands.args(i), s);
  });
  return r;
}

uint64_t digest(const Race& race, const Launch& product, cudaStream_t stream) {
  race.operands.clear_digest(stream);
  product(race.operands.args(0), stream);
  return race.operands.digest_of_y(stream);
}

}  // namespace

SearchOperands::SearchOperands(int device, const GemmProblem& p, const Weights& weights,
                               int64_t workspace_bytes, cudaStream_t stream)
    : problem_(p) {
  int l2_bytes = 0;
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device));
  const int64_t y_bytes = tensor_bytes(p.out, p.m * p.y_stride());
  w_stride_ = round_up(weights.bytes + p.alignment, 256);
  copies_ = static_cast<int>(std::clamp<int64_t>(ceil_div(int64_t{3} * l2_bytes, w_stride_), 1, kMaxCopies));
  w_ = DeviceBuffer(w_stride_ * copies_ + 256);
  x_ = DeviceBuffer(tensor_bytes(p.x, p.m * p.x_stride()) + 256);
  y_ = DeviceBuffer(y_bytes + 256);
  residual_ = DeviceBuffer(p.residual ? y_bytes + 256 : 0);
  bias_ = DeviceBuffer(has_bias(p.epilogue) ? tensor_bytes(p.bias_type(), p.n) + 256 : 0);
  if (p.x == DType::kF8) {
    x_scales_ = DeviceBuffer(tensor_bytes(DType::kF32, p.m));
    w_scales_ = DeviceBuffer(tensor_bytes(DType::kF32, p.n));
  }
  workspace_ = DeviceBuffer(workspace_bytes);
  digest_ = DeviceBuffer(sizeof(uint64_t));
  const auto fill = [&](const DeviceBuffer& buffer, DType type, uint64_t key, float scale) {
    launch_random_fill({.out = buffer.data(),
                        .dtype = type,
                        .count = buffer.bytes() / dtype_bytes(type),
                        .key = key,
                        .scale = scale},
                       stream);
  };
  // y is near 1, but for the bare sums of integers.
  const float unit = 1.7f;
  const float w_unit = unit / std::sqrt(static_cast<float>(p.k));
  const float largest = p.x == DType::kF8 ? 448 : 127;
  const bool codes = dtype_bytes(p.x) == 1;
  if (weights.fill) {
    for (int i = 0; i < copies_; ++i) weights.fill(const_cast<void*>(args(i).w));
  } else {
    fill(w_, p.w, 1, codes ? largest : w_unit);
  }
  fill(x_, p.x, 2, codes ? largest : unit);
  fill(residual_, p.out, 3, 1.0f);
  fill(bias_, p.bias_type(), 4, 1.0f);
  fill(x_scales_, DType::kF32, 5, unit / largest);
  fill(w_scales_, DType::kF32, 6, w_unit / largest);
}

GemmArgs SearchOperands::args(int turn) const {
  // Allocations are 256-byte aligned: the shift gives pointers exactly the alignment that the problem promises.
  const int64_t shift = problem_.alignment;
  return {.x = x_.data<char>() + shift,
          .w = w_.data<char>() + shift + w_stride_ * (turn % copies_),
          .bias = has_bias(problem_.epilogue) ? bias_.data<char>() + shift : nullptr,
          .residual = problem_.residual ? residual_.data<char>() + shift : nullptr,
          .y = y_.data<char>() + shift,
          .workspace = workspace_.data(),
          .workspace_bytes = workspace_.bytes(),
          .x_scales = x_scales_.data<float>(),
          .w_scales = w_scales_.data<float>()};
}

void SearchOperands::clear_digest(cudaStream_t stream) const {
  TANDEM_CUDA_CHECK(cudaMemsetAsync(digest_.data(), 0, sizeof(uint64_t), stream));
}

uint64_t SearchOperands::digest_of_y(cudaStream_t stream) const {
  launch_digest({.data = args(0).y,
                 .rows = problem_.m,
                 .row_bytes = tensor_bytes(problem_.out, problem_.n),
                 .stride_bytes = tensor_bytes(problem_.out, problem_.y_stride()),
                 .digest = digest_.data<uint64_t>()},
                stream);
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  return digest_.to_host<uint64_t>().front();
}

GemmChoice fastest(const Race& race, cudaStream_t stream) {
  const int by_time = static_cast<int>(std::clamp(kGraphUs / rough_us(race.problem), 3.0, 64.0));
  // Cold weights matter while a product is short; a long one is not repeated once for each copy.
  const int most = std::max(by_time, static_cast<int>(kLongestGraphUs / rough_us(race.problem)));
  const int launches = std::clamp(race.operands.copies(), by_time, most);

  const auto time = [&](const Runner& r) { return r.graph->time_us() / launches; };
  const Turns turns{.rounds = race.rounds};
  int tried = 0;
  std::string refusal;
  const auto enter = [&](size_t c) {
    std::optional<Runner> r = make_runner(race, race.choices[c], launches, stream, refusal);
    tried += r ? 1 : 0;
    return r;
  };
  auto finalists = first_look(race.choices.size(), turns, enter, time);
  std::erase_if(finalists, [&](const Timed<Runner>& r) {
    const uint64_t first = digest(race, r.entrant.product, stream);
    for (int i = 0; i < 3; ++i) {
      if (digest(race, r.entrant.product, stream) != first) return true;
    }
    return false;
  });
  if (finalists.empty()) {
    std::string why = " whose result repeats: " + std::to_string(race.choices.size()) + " were offered, " +
                      std::to_string(tried) + " ran";
    if (!refusal.empty()) why += ", one was refused with: " + refusal;
    throw UsageError(race.nothing_found + why);
  }
  in_turns(finalists, turns, time);
  const double best = finalists.front().us;
  std::erase_if(finalists, [&](const Timed<Runner>& r) { return r.us > best * kTie; });
  const auto& winner =
      *std::min_element(finalists.begin(), finalists.end(), [](const auto& a, const auto& b) {
        return std::pair(a.entrant.choice.workspace_bytes, a.order) <
               std::pair(b.entrant.choice.workspace_bytes, b.order);
      });
  GemmChoice choice = winner.entrant.choice;
  choice.us = winner.us;
  choice.candidates = tried;
  return choice;
}

}  // namespace tandem::kernels
