#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/host_device.h"
#include "harness/base/stats.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/candidates.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/operands.h"

namespace tandem::kernels {
namespace {

constexpr int kFirstRounds = 3;
constexpr size_t kFinalists = 6;
constexpr double kTie = 1.01;
constexpr int64_t kMaxCopies = 256;
constexpr double kLongestGraphUs = 1600;
constexpr double kGraphUs = 400;  // enough for the events' resolution of about half a microsecond

struct Timed {
  GemmChoice choice;
  int order = 0;  // in the library's order, smaller workspaces first
  std::vector<double> us;
};

/// Expected time of a product, only to decide how many go into one graph.
double rough_us(const GemmProblem& p) {
  const double tflops = p.x == DType::kF32 ? (p.tf32 ? 250 : 40) : dtype_bytes(p.x) == 1 ? 1000 : 500;
  const double bytes = static_cast<double>(tensor_bytes(p.w, p.n * p.k) + tensor_bytes(p.x, p.m * p.k) +
                                           tensor_bytes(p.out, p.m * p.n));
  return std::max({p.flops() / tflops * 1e-6, bytes / 3e6, 2.0});
}

/// Operands of one problem, the weights so often that a rotation through them finds none in L2.
class Operands {
 public:
  Operands(const CublasLt& lt, const GemmProblem& p, int64_t workspace_bytes, cudaStream_t stream)
      : problem_(p) {
    int l2_bytes = 0;
    TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, lt.device()));
    const int64_t w_bytes = tensor_bytes(p.w, p.n * p.k);
    const int64_t y_bytes = tensor_bytes(p.out, p.m * p.y_stride());
    w_stride_ = round_up(w_bytes + p.alignment, 256);
    copies_ =
        static_cast<int>(std::clamp<int64_t>(ceil_div(int64_t{3} * l2_bytes, w_stride_), 1, kMaxCopies));
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
    fill(w_, p.w, 1, codes ? largest : w_unit);
    fill(x_, p.x, 2, codes ? largest : unit);
    fill(residual_, p.out, 3, 1.0f);
    fill(bias_, p.bias_type(), 4, 1.0f);
    fill(x_scales_, DType::kF32, 5, unit / largest);
    fill(w_scales_, DType::kF32, 6, w_unit / largest);
  }

  int copies() const { return copies_; }

  GemmArgs args(int turn) const {
    // Allocations are 256-byte aligned: the shift gives pointers exactly the alignment that the problem
    // promises.
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

  uint64_t digest(Gemm& gemm, cudaStream_t stream) const {
    TANDEM_CUDA_CHECK(cudaMemsetAsync(digest_.data(), 0, sizeof(uint64_t), stream));
    gemm.run(args(0), stream);
    launch_digest({.data = args(0).y,
                   .rows = problem_.m,
                   .row_bytes = tensor_bytes(problem_.out, problem_.n),
                   .stride_bytes = tensor_bytes(problem_.out, problem_.y_stride()),
                   .digest = digest_.data<uint64_t>()},
                  stream);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    return digest_.to_host<uint64_t>().front();
  }

 private:
  GemmProblem problem_;
  int64_t w_stride_ = 0;
  int copies_ = 1;
  DeviceBuffer w_, x_, y_, residual_, bias_, x_scales_, w_scales_, workspace_, digest_;
};

std::vector<Timed> all_candidates(const CublasLt& lt, const GemmProblem& problem, const GemmSearch& how) {
  std::vector<Timed> all;
  int64_t previous = -1;
  for (int64_t asked : {int64_t{0}, int64_t{4} << 20, int64_t{32} << 20, how.max_workspace_bytes}) {
    const int64_t bytes = std::min(asked, how.max_workspace_bytes);
    if (bytes <= previous) continue;
    previous = bytes;
    for (GemmChoice& c : candidates(lt, problem, how.candidates, bytes)) {
      const bool known =
          std::any_of(all.begin(), all.end(), [&](const Timed& t) { return t.choice.algo == c.algo; });
      if (!known) all.push_back({std::move(c), static_cast<int>(all.size()), {}});
    }
  }
  return all;
}

/// A candidate with its graph, kept while it is a finalist.
struct Runner {
  Timed timed;
  std::unique_ptr<Gemm> gemm;
  std::unique_ptr<TimedGraph> graph;
};

/// Nothing when the library refuses at the launch what its heuristic offered.
std::optional<Runner> make_runner(const CublasLt& lt, const GemmProblem& problem, Timed timed,
                                  const Operands& operands, int launches, cudaStream_t stream,
                                  std::string& refusal) {
  Runner r{std::move(timed), nullptr, nullptr};
  try {
    r.gemm = std::make_unique<Gemm>(lt, problem, r.timed.choice);
    r.gemm->run(operands.args(0), stream);  // loads the kernel, which a capture must not do
  } catch (const Error& e) {
    refusal = e.what();
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));  // a fault of the card is not a refusal
    return std::nullopt;
  }
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  r.graph = std::make_unique<TimedGraph>(stream, [&](cudaStream_t s) {
    for (int i = 0; i < launches; ++i) r.gemm->run(operands.args(i), s);
  });
  return r;
}

}  // namespace

GemmChoice search(const CublasLt& lt, const GemmProblem& problem, cudaStream_t stream,
                  const GemmSearch& how) {
  check(problem);
  std::vector<Timed> all = all_candidates(lt, problem, how);
  if (all.empty()) throw UsageError(no_algorithm_text(lt, problem));
  int64_t workspace_bytes = 0;
  for (const Timed& t : all) workspace_bytes = std::max(workspace_bytes, t.choice.workspace_bytes);
  const Operands operands(lt, problem, workspace_bytes, stream);
  const int by_time = static_cast<int>(std::clamp(kGraphUs / rough_us(problem), 3.0, 64.0));
  // Cold weights matter while a product is short; a long one is not repeated once for each copy.
  const int most = std::max(by_time, static_cast<int>(kLongestGraphUs / rough_us(problem)));
  const int launches = std::clamp(operands.copies(), by_time, most);

  // First a look at all of them one by one; only the best few keep their graphs.
  const auto faster = [](const Runner& a, const Runner& b) {
    return median(a.timed.us) < median(b.timed.us);
  };
  std::vector<Runner> finalists;
  int tried = 0;
  std::string refusal;
  for (Timed& t : all) {
    std::optional<Runner> r = make_runner(lt, problem, std::move(t), operands, launches, stream, refusal);
    if (!r) continue;
    ++tried;
    r->graph->time_us();
    for (int i = 0; i < kFirstRounds; ++i) r->timed.us.push_back(r->graph->time_us() / launches);
    finalists.push_back(std::move(*r));
    std::stable_sort(finalists.begin(), finalists.end(), faster);
    if (finalists.size() > kFinalists) finalists.pop_back();
  }

  // Then the best few in turns, so that a falling clock hits all of them alike.
  std::erase_if(finalists, [&](Runner& r) {
    const uint64_t first = operands.digest(*r.gemm, stream);
    for (int i = 0; i < 3; ++i) {
      if (operands.digest(*r.gemm, stream) != first) return true;
    }
    return false;
  });
  if (finalists.empty()) {
    std::string why = " whose result repeats: " + std::to_string(all.size()) + " were offered, " +
                      std::to_string(tried) + " ran";
    if (!refusal.empty()) why += ", one was refused with: " + refusal;
    throw UsageError(no_algorithm_text(lt, problem) + why);
  }
  for (Runner& r : finalists) r.timed.us.clear();
  for (int round = 0; round < how.rounds; ++round) {
    for (Runner& r : finalists) r.timed.us.push_back(r.graph->time_us() / launches);
  }
  double best = median(finalists.front().timed.us);
  for (const Runner& r : finalists) best = std::min(best, median(r.timed.us));
  std::erase_if(finalists, [&](const Runner& r) { return median(r.timed.us) > best * kTie; });
  const auto winner =
      std::min_element(finalists.begin(), finalists.end(), [](const Runner& a, const Runner& b) {
        return std::pair(a.timed.choice.workspace_bytes, a.timed.order) <
               std::pair(b.timed.choice.workspace_bytes, b.timed.order);
      });
  GemmChoice choice = winner->timed.choice;
  choice.us = median(winner->timed.us);
  choice.candidates = tried;
  return choice;
}

GemmChoice choose(const CublasLt& lt, GemmChoices& choices, const GemmProblem& problem, cudaStream_t stream) {
  if (choices.mode() == GemmChoices::Mode::kReadOnly) return choices.at(lt.place(), problem);
  if (auto known = choices.find(lt.place(), problem)) return *known;
  const GemmChoice found = search(lt, problem, stream);
  choices.put(lt.place(), problem, found);
  return found;
}

}  // namespace tandem::kernels
