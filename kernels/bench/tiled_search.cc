// The own product for many rows in every cut, and the library's searched product with what the plan lets follow it, timed in
// turns on a hot card, as nodes of a graph with weights cold in L2. Ends with 1 where two cuts leave different bits.
//
//   tiled_search --m 32768 --n 4096 --k 1024 [--activation gelu] [--heat 4]
//
// Prints a line each, the fastest first: us, TFLOP/s, cut.

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "harness/base/error.h"
#include "kernels/activation/activation.h"
#include "kernels/common/timed_graph.h"
#include "kernels/common/turns.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/race.h"
#include "kernels/tiled_gemm/tiled_gemm.h"

namespace tandem::kernels {
namespace {

struct Options {
  int64_t m = 32768, n = 4096, k = 1024;
  std::string activation;  ///< empty: none
  double heat = 4;         ///< seconds of products before the first time
  int rounds = 9;
};

constexpr int kLaunches = 8;  // of a graph

struct Candidate {
  std::string name;
  Launch launch;
  bool own = true;
};

struct Entrant {
  const Candidate* candidate;
  TimedGraph graph;
};

Activation parse_activation(const std::string& text) {
  for (const Activation a : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu,
                             Activation::kTanh, Activation::kSigmoid}) {
    if (activation_name(a) == text) return a;
  }
  throw UsageError(
      fmt::format("--activation: '{}' is not one of relu gelu gelu_tanh silu tanh sigmoid", text));
}

/// The epilogue that the library has for the activation, and whether a pass must follow it.
std::pair<GemmEpilogue, bool> library_epilogue(const std::optional<Activation>& activation) {
  if (!activation) return {GemmEpilogue::kBias, false};
  if (*activation == Activation::kRelu) return {GemmEpilogue::kBiasRelu, false};
  if (*activation == Activation::kGeluTanh) return {GemmEpilogue::kBiasGeluTanh, false};
  return {GemmEpilogue::kNone, true};
}

/// `operands` has a bias, which a product that a pass follows does not read.
Candidate library_candidate(const CublasLt& lt, const GemmProblem& whole,
                            const std::optional<Activation>& activation, cudaStream_t stream) {
  GemmProblem problem = whole;
  const auto [epilogue, pass] = library_epilogue(activation);
  problem.epilogue = epilogue;
  const GemmChoice choice = search(lt, problem, stream);
  const auto gemm = std::make_shared<Gemm>(lt, problem, choice);
  const auto launch = [gemm, pass = pass, activation](const GemmArgs& args, cudaStream_t s) {
    gemm->run(args, s);
    if (!pass) return;
    launch_activation({.activation = *activation,
                       .m = gemm->problem().m,
                       .f = gemm->problem().n,
                       .x = args.y,
                       .bias = args.bias,
                       .y = args.y},
                      s);
  };
  return {.name = fmt::format("library{}, {}", pass ? " and a pass" : "", choice.description),
          .launch = launch,
          .own = false};
}

std::vector<Candidate> own_candidates(const GemmProblem& p, const std::optional<Activation>& activation) {
  std::vector<Candidate> all;
  for (int band : {2, 4, 8, 16, 32}) {
    all.push_back(
        {.name = fmt::format("own, band {}", band), .launch = [=](const GemmArgs& args, cudaStream_t s) {
           launch_tiled_gemm({.m = p.m,
                              .n = p.n,
                              .k = p.k,
                              .x = args.x,
                              .w = args.w,
                              .bias = args.bias,
                              .y = args.y,
                              .activation = activation,
                              .band = band},
                             s);
         }});
  }
  return all;
}

/// Do all own candidates leave the same bits?
bool same_bits(const std::vector<Candidate>& all, const SearchOperands& operands, cudaStream_t stream) {
  std::optional<uint64_t> first;
  for (const Candidate& c : all) {
    if (!c.own) continue;
    operands.clear_digest(stream);
    c.launch(operands.args(0), stream);
    const uint64_t digest = operands.digest_of_y(stream);
    if (!first) first = digest;
    if (digest == *first) continue;
    fmt::print("{}: other bits than {}\n", c.name, all.front().name);
    return false;
  }
  return true;
}

int run(const Options& o) {
  std::optional<Activation> activation;
  if (!o.activation.empty()) activation = parse_activation(o.activation);
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  const CublasLt lt;
  const GemmProblem problem{.m = o.m, .n = o.n, .k = o.k, .epilogue = GemmEpilogue::kBias};
  std::vector<Candidate> all = own_candidates(problem, activation);
  all.push_back(library_candidate(lt, problem, activation, stream));
  const SearchOperands operands(lt.device(), problem,
                                {.bytes = tensor_bytes(problem.w, problem.n * problem.k)},
                                kGemmWorkspaceBytes, stream);
  const bool same = same_bits(all, operands, stream);
  const auto enter = [&](size_t i) {
    all[i].launch(operands.args(0), stream);  // loads the kernel, which a capture must not do
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    return std::optional(Entrant{&all[i], TimedGraph(stream, [&](cudaStream_t s) {
                                   for (int turn = 0; turn < kLaunches; ++turn)
                                     all[i].launch(operands.args(turn), s);
                                 })});
  };
  const auto time = [](Entrant& e) { return e.graph.time_us() / kLaunches; };
  const auto start = std::chrono::steady_clock::now();
  Entrant hot = *enter(all.size() - 1);
  while (std::chrono::steady_clock::now() - start < std::chrono::duration<double>(o.heat)) time(hot);
  const Turns turns{.looks = 1, .finalists = all.size(), .rounds = o.rounds};
  auto timed = first_look(all.size(), turns, enter, time);
  in_turns(timed, turns, time);
  fmt::print("{} x {} x {} {}\n", o.m, o.n, o.k, o.activation);
  for (const auto& t : timed)
    fmt::print("{:>9.2f} us {:>6.1f} TFLOP/s  {}\n", t.us, problem.flops() / t.us / 1e6,
               t.entrant.candidate->name);
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  return same ? 0 : 1;
}

}  // namespace
}  // namespace tandem::kernels

int main(int argc, char** argv) {
  tandem::kernels::Options options;
  CLI::App app("Times the own product for many rows in every cut against the library's");
  app.add_option("--m", options.m, "rows of x")->check(CLI::PositiveNumber);
  app.add_option("--n", options.n, "rows of the weights")->check(CLI::PositiveNumber);
  app.add_option("--k", options.k, "columns of the weights")->check(CLI::PositiveNumber);
  app.add_option("--activation", options.activation, "relu gelu gelu_tanh silu tanh sigmoid");
  app.add_option("--heat", options.heat, "seconds of products first")->check(CLI::NonNegativeNumber);
  app.add_option("--rounds", options.rounds, "times of each")->check(CLI::Range(1, 1000));
  try {
    app.parse(argc, argv);
    return tandem::kernels::run(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const tandem::Error& error) {
    std::fprintf(stderr, "tiled_search: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tiled_search: %s\n", error.what());
    return 1;
  }
}
