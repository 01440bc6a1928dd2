// Finds the best config of an own product at any shape: all that can run it are timed in turns, as links of a chain of dependent
// launches with cold weights, the best few after their results were checked. What the engine runs today, suite_kernels times.
//
//   skinny_search             a line each shape and row count: the best config, the one that choose_skinny() takes, their times
//   skinny_search --rows      the same as rows for the table in choose/skinny_measured.h
//   --chosen                  the chosen config alone
//   --models                  the products of all presets' decode steps, or with --head their heads
//   --format w8a16,...        weights of codes: w8a16, w4a16, fp8, int8; bytes are theirs with their scales. fp8 and int8 take x as
//                             codes, which needs sm_90a; with --quantises, and without sm_90a, one row is of bf16 and quantised
//                             by the kernel. Or bf16 of which only some are stored: 2:4, bitmap50, bitmap80 (50 or 80 % removed)
//   --stats write,...         norms by statistics (bf16, 5 rows and more): write, take, residual, of which a product may do several
//   --library                 also what the library's searched algorithm takes, as a plain graph node

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/host_device.h"
#include "harness/weights/values/quantise.h"
#include "kernels/bench/bench_weights.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/timed_graph.h"
#include "kernels/common/turns.h"
#include "kernels/gemm/gemm.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {
namespace {

constexpr double kStreamBytesPerUs = 4.4e6;  // an H200's read-only stream
// The row of the targets: n x k.
const std::vector<std::pair<int, int>> kShapes = {{1024, 1024},  {3072, 1024},  {4096, 1024}, {1024, 4096},
                                                  {16384, 1024}, {1024, 16384}, {32000, 1024}};

// Those of the presets: gated products with both halves. Heads apart.
const std::vector<std::pair<int, int>> kModelShapes = {
    {512, 512},    {1536, 512},   {2048, 512},  {512, 2048},  {768, 768},    {2304, 768},  {3072, 768},
    {4096, 768},   {768, 2048},   {768, 3072},  {1024, 1024}, {3072, 1024},  {4096, 1024}, {8192, 1024},
    {12288, 1024}, {16384, 1024}, {1024, 4096}, {1024, 8192}, {1024, 16384}, {2048, 2048}, {6144, 2048},
    {8192, 2048},  {10240, 2048}, {2048, 5120}, {2048, 8192}};
const std::vector<std::pair<int, int>> kModelHeads = {
    {32000, 512},  {32128, 512},  {58101, 512},   {32128, 768},   {50265, 768}, {32000, 1024},
    {32128, 1024}, {50265, 1024}, {128112, 1024}, {256206, 1024}, {32128, 2048}};

struct Options {
  std::vector<int> m{1, 2, 4, 8, 16, 32, 64};
  std::vector<int> n, k;           // pairs; empty: kShapes
  std::vector<std::string> kinds;  // of configs; empty: all
  bool rows = false;
  bool chosen = false;
  bool library = false;
  bool models = false;
  bool head = false;
  bool f32 = false;
  std::optional<DType> w_dtype;      // of codes
  std::optional<DType> input_dtype;  // what x is quantised to
  bool quantises = false;            // one row, by the kernel
  std::vector<std::string> stats;    // what is done with statistics of a norm
  SparseWeights sparse = SparseWeights::kNone;
  double kept = 0.5;  // of a bitmap's weights
  int rounds = 9;
};

bool sparse(const Options& o) {
  return o.sparse != SparseWeights::kNone;
}
bool does(const Options& o, std::string_view what) {
  return std::ranges::find(o.stats, what) != o.stats.end();
}

/// Sets the types of a format by its name.
void set_format(Options& o, const std::string& name) {
  if (name == "bf16") return;
  if (name == "fp32") {
    o.f32 = true;
  } else if (name == "w8a16") {
    o.w_dtype = DType::kI8;
  } else if (name == "w4a16") {
    o.w_dtype = DType::kI4;
  } else if (name == "fp8") {
    o.w_dtype = o.input_dtype = DType::kF8;
  } else if (name == "int8") {
    o.w_dtype = o.input_dtype = DType::kI8;
  } else if (name == "2:4") {
    o.sparse = SparseWeights::kTwoOfFour;
  } else if (name == "bitmap50" || name == "bitmap80") {
    o.sparse = SparseWeights::kBitmap;
    o.kept = name == "bitmap50" ? 0.5 : 0.2;
  } else {
    throw UsageError(fmt::format(
        "--format: '{}' is not one of bf16 fp32 w8a16 w4a16 fp8 int8 2:4 bitmap50 bitmap80", name));
  }
}

DType type_of(const Options& o) {
  return o.f32 ? DType::kF32 : DType::kBF16;
}

std::string_view kind_of(const SkinnyConfig& c) {
  using Kind = SkinnyConfig::Kind;
  switch (c.kind) {
    case Kind::kDot:
      return "kDot";
    case Kind::kMma:
      return "kMma";
    case Kind::kRow:
      return "kRow";
    default:
      return "kWide";
  }
}

/// us of the library's fastest algorithm with cold weights, as a plain graph node. The head's is the product alone.
double library_us(const Options& o, int n, int k, int m, cudaStream_t stream) {
  static const CublasLt library;
  const GemmProblem problem{.m = m,
                            .n = n,
                            .k = k,
                            .x = type_of(o),
                            .w = type_of(o),
                            .out = o.head ? DType::kF32 : type_of(o),
                            .ldy = round_up(n, 8)};
  return search(library, problem, stream, {.candidates = 16, .max_workspace_bytes = 4 << 20}).us;
}

/// One shape with enough copies of the weights that every launch finds them cold.
class Bench {
 public:
  Bench(const Options& options, int n, int k, cudaStream_t stream)
      : options_(options),
        n_(n),
        k_(k),
        stream_(stream),
        weights_(type_of(options), options.w_dtype, options.sparse, options.kept, n, k) {
    int l2 = 0;
    TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0));
    stride_ = round_up(weights_.device.bytes(), int64_t{256});
    copies_ = static_cast<int>(std::max<int64_t>(2, ceil_div(5 * static_cast<int64_t>(l2) / 2, bytes())));
    pool_ = DeviceBuffer(stride_ * copies_);
    for (int i = 0; i < copies_; ++i) {
      TANDEM_CUDA_CHECK(cudaMemcpy(pool_.data<char>() + i * stride_, weights_.device.data(),
                                   static_cast<size_t>(weights_.device.bytes()), cudaMemcpyDeviceToDevice));
    }
    x_ = random_buffer(static_cast<int64_t>(kSkinnyMaxRows) * k, type_of(options), 1, 2, &host_x_);
    if (options.input_dtype) quantise_x();
    y_ = DeviceBuffer(tensor_bytes(DType::kF32, static_cast<int64_t>(kSkinnyMaxRows) * n));
    ids_ = DeviceBuffer(4 * kSkinnyMaxRows);
    if (!options.stats.empty()) make_stats();
    workspace_ = DeviceBuffer(head_workspace_bytes(kSkinnyMaxRows));
    TANDEM_CUDA_CHECK(cudaMemset(workspace_.data(), 0, static_cast<size_t>(workspace_.bytes())));
  }

  /// Makes codes and scales of x, and of the host's x what they stand for.
  void quantise_x() {
    const Storage storage{.dtype = *options_.input_dtype, .scale_group = Storage::kWholeRow};
    std::vector<uint8_t> bytes(host_x_.size());
    std::vector<float> scales(kSkinnyMaxRows);
    std::vector<uint32_t> codes(static_cast<size_t>(k_));
    for (size_t i = 0; i < scales.size(); ++i) {
      const std::span<float> row(&host_x_[i * codes.size()], codes.size());
      quantise_row(storage, row, codes, {&scales[i], 1});
      dequantise_row(storage, codes, {&scales[i], 1}, row);
      for (size_t j = 0; j < codes.size(); ++j) bytes[i * codes.size() + j] = static_cast<uint8_t>(codes[j]);
    }
    codes_ = DeviceBuffer::of(bytes);
    x_scales_ = DeviceBuffer::of(scales);
  }

  /// Statistics of rows of mean 0 and variance 1, so that a norm of x leaves it as it is, and a residual of zeros.
  void make_stats() {
    const size_t pairs =
        static_cast<size_t>(kSkinnyMaxRows) * static_cast<size_t>(std::max(n_, k_)) / kStatsColumns;
    std::vector<float> stats(2 * pairs, 0.0f);
    for (size_t i = 1; i < stats.size(); i += 2) stats[i] = kStatsColumns;
    stats_ = DeviceBuffer::of(stats);
    stats_out_ = DeviceBuffer::of(stats);
    zeros_ = DeviceBuffer::of(std::vector<float>(static_cast<size_t>(kSkinnyMaxRows) * n_, 0.0f));
    scaled_ = DeviceBuffer(2 * static_cast<int64_t>(kSkinnyMaxRows) * n_);
  }
  void put_stats(SkinnyParams& p) const {
    p.eps = p.residual_eps = 0.0f;
    if (does(options_, "write")) {
      p.scaled_out = scaled_.data();
      p.scaled_gamma = zeros_.data();
      p.stats_out = stats_out_.data<float>();
      p.stats_norm = Norm::kLayer;
    }
    if (does(options_, "take")) {
      p.x_stats = stats_.data<float>();
      p.norm_sums = zeros_.data<float>();
    }
    if (does(options_, "residual")) {
      p.residual = zeros_.data();
      p.residual_float = true;
      p.residual_stats = stats_.data<float>();
      p.residual_gamma = p.residual_beta = zeros_.data();
    }
  }

  /// Does x come as codes?
  bool x_codes(int m) const {
    return options_.input_dtype.has_value() && (m > 1 || (!options_.quantises && skinny_card().sm90a));
  }
  int64_t bytes() const { return weights_.used; }
  cudaStream_t stream() const { return stream_; }
  SkinnyProblem problem(int m) const {
    return {.dtype = type_of(options_),
            .w_dtype = options_.w_dtype,
            .input_dtype = options_.input_dtype,
            .m = m,
            .n = n_,
            .k = k_,
            .head = options_.head,
            .x_codes = x_codes(m),
            .stats = !options_.stats.empty(),
            .sparse = options_.sparse};
  }

  void launch(int m, const SkinnyConfig& config, int copy, bool dependent, bool logits = false) {
    const char* w = pool_.data<char>() + copy * stride_;
    const void* scales = options_.w_dtype ? w + weights_.scales_at : nullptr;
    const void* x = x_codes(m) ? codes_.data() : x_.data();
    const float* x_scales = x_codes(m) ? x_scales_.data<float>() : nullptr;
    if (options_.head) {
      launch_head_argmax({.dtype = type_of(options_),
                          .w_dtype = options_.w_dtype,
                          .m = m,
                          .vocab = n_,
                          .k = k_,
                          .x = x,
                          .w = w,
                          .scales = scales,
                          .input_dtype = options_.input_dtype,
                          .x_scales = x_scales,
                          .next_ids = ids_.data<int32_t>(),
                          .logits = logits ? y_.data<float>() : nullptr,
                          .workspace = workspace_.data(),
                          .dependent = dependent,
                          .config = &config},
                         stream_);
    } else {
      SkinnyParams p{.dtype = type_of(options_),
                     .w_dtype = options_.w_dtype,
                     .m = m,
                     .n = n_,
                     .k = k_,
                     .x = x,
                     .w = w,
                     .scales = scales,
                     .input_dtype = options_.input_dtype,
                     .x_scales = x_scales,
                     .y = y_.data(),
                     .y_float = logits,
                     .dependent = dependent,
                     .config = &config};
      if (weights_.sparse) weights_.sparse->put(p, w);
      if (!options_.stats.empty()) put_stats(p);
      launch_skinny(p, stream_);
    }
  }

  /// Relative L2 error of sampled outputs.
  double error(int m, const SkinnyConfig& config) {
    TANDEM_CUDA_CHECK(cudaMemset(y_.data(), 0xff, static_cast<size_t>(y_.bytes())));
    launch(m, config, copies_ - 1, false, true);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const auto y = y_.to_host<float>();
    const std::vector<float>& x = host_x_;
    std::mt19937_64 engine(std::random_device{}());
    double wrong = 0;
    double norm = 0;
    for (int sample = 0; sample < 256; ++sample) {
      const int64_t row = std::uniform_int_distribution<int>(0, m - 1)(engine);
      const int64_t column =
          sample < 8 ? n_ - 1 - sample : std::uniform_int_distribution<int>(0, n_ - 1)(engine);
      double sum = 0;
      for (int j = 0; j < k_; ++j)
        sum += static_cast<double>(x[row * k_ + j]) * weights_.values[column * k_ + j];
      const double d = y[row * n_ + column] - sum;
      wrong += d * d;
      norm += sum * sum;
    }
    return std::sqrt(wrong / norm);
  }

  /// A graph of a chain of products, each on weights that none before it has read.
  TimedGraph chain(int m, const SkinnyConfig& config) {
    launch(m, config, 0, false);
    return TimedGraph(stream_, [&](cudaStream_t) {
      for (int i = 0; i < launches(); ++i) launch(m, config, i % copies_, true);
    });
  }
  int launches() const { return std::max(24, copies_); }

 private:
  Options options_;
  int n_, k_;
  cudaStream_t stream_;
  BenchWeights weights_;
  int64_t stride_ = 0;  // from copy to copy
  int copies_ = 0;
  DeviceBuffer pool_, x_, codes_, x_scales_, y_, ids_, workspace_;
  DeviceBuffer stats_, stats_out_, zeros_, scaled_;
  std::vector<float> host_x_;
};

struct Entrant {
  SkinnyConfig config;
  TimedGraph graph;
};

/// Those of the kinds asked for that read the weights at most twice, the chosen one first.
std::vector<SkinnyConfig> candidates(const Options& o, const SkinnyProblem& problem, const SkinnyCard& card) {
  std::vector<SkinnyConfig> all{choose_skinny(problem, card)};
  if (o.chosen) return all;
  for (const SkinnyConfig& c : all_configs(problem, card)) {
    const std::string_view kind = kind_of(c);
    if (!o.kinds.empty() && std::ranges::find(o.kinds, kind) == o.kinds.end()) continue;
    if (kind != "kWide" && plan_skinny(c, problem, card).grid_y > 2 && !o.f32) continue;
    if (c != all.front()) all.push_back(c);
  }
  return all;
}

std::string table_row(int n, int k, int m, const SkinnyConfig& c) {
  const std::string tail = c.kind == SkinnyConfig::Kind::kRow ? fmt::format(", {}", c.warps) : "";
  return fmt::format("    {{{}, {}, {}, {{Kind::{}, {}, {}, {}, {}, {}{}}}}},", m, n, k, kind_of(c), c.rows,
                     c.batch, c.warps_n, c.cluster, c.blocks_per_sm, tail);
}

void search_one(Bench& bench, int n, int k, int m, const Options& o) {
  const std::vector<SkinnyConfig> all = candidates(o, bench.problem(m), skinny_card());
  const double launches = bench.launches();
  const auto time = [&](Entrant& e) { return e.graph.time_us() / launches; };
  const Turns turns{.rounds = o.rounds};
  const auto enter = [&](size_t i) { return std::optional(Entrant{all[i], bench.chain(m, all[i])}); };
  auto best = first_look(all.size(), turns, enter, time);
  // What is run today is in the last turns whatever it took at first.
  if (std::ranges::none_of(best, [](const auto& t) { return t.order == 0; }))
    best.push_back({.entrant = *enter(0), .order = 0});
  for (const auto& finalist : best) {
    const double error = bench.error(m, finalist.entrant.config);
    const double limit = o.f32 ? 1e-5 : 1e-3;  // the checked launch writes fp32
    if (!(error <= limit))
      throw Error(fmt::format("{} x {}, {} rows, {}: wrong by {:.2e}", n, k, m,
                              config_text(finalist.entrant.config), error));
  }
  in_turns(best, turns, time);
  const auto& first = best.front();
  const SkinnyConfig& config = first.entrant.config;
  const auto& chosen = *std::ranges::find(best, size_t{0}, &Timed<Entrant>::order);
  const double floor = static_cast<double>(bench.bytes()) / kStreamBytesPerUs;
  std::string line = fmt::format(
      "{:>6} {:>6} {:>3} {:>8.2f} {:>8.2f} {:>6.2f} {:>6.0f}  {:<24} {:>8.2f}  {:<24} {:>4}", n, k, m, floor,
      first.us, first.us / floor, static_cast<double>(bench.bytes()) / first.us / 1e3, config_text(config),
      chosen.us, config_text(chosen.entrant.config), all.size());
  if (o.library && !o.w_dtype && !sparse(o))
    line += fmt::format(" {:>8.2f}", library_us(o, n, k, m, bench.stream()));
  if (o.rows) line = table_row(n, k, m, config) + "  //" + line;
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

bool supports(const Options& o, int m, int n, int k) {
  if (o.stats.empty()) return skinny_supports(type_of(o), m, n, k, o.sparse);
  return skinny_stats_supports(type_of(o), m, n, k) && n % kStatsColumns == 0 && k % kStatsColumns == 0;
}

void run(const Options& o) {
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  std::vector<std::pair<int, int>> shapes = !o.models ? kShapes : o.head ? kModelHeads : kModelShapes;
  if (!o.n.empty()) {
    shapes.clear();
    for (size_t i = 0; i < o.n.size(); ++i) shapes.emplace_back(o.n[i], o.k.at(i));
  }
  if (!o.rows) {
    fmt::print("{:>6} {:>6} {:>3} {:>8} {:>8} {:>6} {:>6}  {:<24} {:>8}  {:<24} {:>4}{}\n", "n", "k", "m",
               "floor us", "best us", "ratio", "GB/s", "best", "today us", "today", "of",
               o.library ? "  library" : "");
  }
  for (const auto& [n, k] : shapes) {
    Bench bench(o, n, k, stream);
    for (int m : o.m) {
      if (supports(o, m, n, k)) search_one(bench, n, k, m, o);
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace tandem::kernels

int main(int argc, char** argv) {
  tandem::kernels::Options options;
  CLI::App app("Finds the best config of an own product");
  app.add_option("--m", options.m, "rows of x")
      ->delimiter(',')
      ->check(CLI::Range(1, tandem::kernels::kSkinnyMaxRows));
  app.add_option("--n", options.n, "weight rows; with --k, pairs")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--k", options.k, "columns of the weights, one for each --n")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds, "times of a finalist")->check(CLI::Range(1, 1000));
  app.add_flag("--rows", options.rows, "print rows of the table of measured configs");
  app.add_flag("--chosen", options.chosen, "the config in use alone");
  app.add_option("--kinds", options.kinds, "only these")
      ->delimiter(',')
      ->check(CLI::IsMember({"kDot", "kMma", "kRow", "kWide"}));
  app.add_flag("--models", options.models, "the shapes of every preset");
  app.add_flag("--library", options.library, "time the library's product too");
  app.add_flag("--head", options.head, "the vocabulary head with arg-max instead of a product");
  std::vector<std::string> formats{"bf16"};
  app.add_option("--format", formats,
                 "bf16, fp32, of codes: w8a16 w4a16 fp8 int8, or sparse: 2:4 bitmap50 bitmap80")
      ->delimiter(',');
  app.add_option("--stats", options.stats, "norms by statistics, bf16")
      ->delimiter(',')
      ->check(CLI::IsMember({"write", "take", "residual"}));
  app.add_flag("--quantises", options.quantises, "fp8 and int8: one row of bf16, quantised by the kernel");
  try {
    app.parse(argc, argv);
    if (options.n.size() != options.k.size())
      throw tandem::UsageError("--n and --k must have as many values");
    if (!options.stats.empty() && (options.head || formats != std::vector<std::string>{"bf16"}))
      throw tandem::UsageError("--stats needs products of bf16");
    std::vector<tandem::kernels::Options> all;
    for (const std::string& format : formats) tandem::kernels::set_format(all.emplace_back(options), format);
    for (size_t i = 0; i < all.size(); ++i) {
      if (all.size() > 1) fmt::print("{}\n", formats[i]);
      tandem::kernels::run(all[i]);
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const tandem::Error& error) {
    std::fprintf(stderr, "skinny_search: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "skinny_search: %s\n", error.what());
    return 1;
  }
  return 0;
}
