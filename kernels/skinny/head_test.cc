#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {
namespace {

double tolerance(DType t) {
  return t == DType::kF32 ? 1e-5 : t == DType::kF16 ? 4e-3 : 1.5e-2;
}

DeviceBuffer zeroed(int64_t bytes) {
  DeviceBuffer buffer(bytes);
  TANDEM_CUDA_CHECK(cudaMemset(buffer.data(), 0, static_cast<size_t>(bytes)));
  return buffer;
}

/// Index of the largest value of a row, the lowest of equals.
int arg_max(const float* row, int n) {
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (row[i] > row[best]) best = i;
  }
  return best;
}

/// Operands of a head and everything it writes.
struct Head {
  HeadParams params;
  std::vector<float> x, w, bias, gamma, beta;
  std::vector<DeviceTensor> device;
  DeviceBuffer next_ids, best, workspace;
  DeviceTensor logits;

  Head(RandomValues& random, DType dtype, int m, int vocab, int k, bool with_bias, std::optional<Norm> norm,
       bool x_float, float scale)
      : x(random.normal(static_cast<int64_t>(m) * k, x_float ? DType::kF32 : dtype, 0.5f)),
        w(random.normal(static_cast<int64_t>(vocab) * k, dtype, 0, 1 / std::sqrt(static_cast<float>(k)))),
        bias(random.normal(vocab, dtype, 0, 0.3f)),
        gamma(random.normal(k, dtype, 1, 0.2f)),
        beta(random.normal(k, dtype, 0, 0.2f)),
        next_ids(4 * m),
        best(4 * m),
        workspace(zeroed(head_workspace_bytes(m))),
        logits(static_cast<int64_t>(m) * vocab, DType::kF32) {
    params = {.dtype = dtype,
              .m = m,
              .vocab = vocab,
              .k = k,
              .x_float = x_float,
              .scale = scale,
              .norm = norm,
              .next_ids = next_ids.data<int32_t>(),
              .best_logits = best.data<float>(),
              .logits = static_cast<float*>(logits.data()),
              .workspace = workspace.data()};
    upload(with_bias);
  }
  void upload(bool with_bias) {
    device.clear();
    device.emplace_back(x, params.x_float ? DType::kF32 : params.dtype);
    device.emplace_back(w, params.dtype);
    device.emplace_back(bias, params.dtype);
    device.emplace_back(gamma, params.dtype);
    device.emplace_back(beta, params.dtype);
    params.x = device[0].data();
    params.w = device[1].data();
    params.bias = with_bias ? device[2].data() : nullptr;
    params.gamma = params.norm ? device[3].data() : nullptr;
    params.beta = params.norm == Norm::kLayer ? device[4].data() : nullptr;
  }
  std::string text(const SkinnyConfig* c) const {
    return fmt::format("{} m {} vocab {} k {}{} {}", dtype_name(params.dtype), params.m, params.vocab,
                       params.k, params.norm ? " norm" : "", c != nullptr ? config_text(*c) : "");
  }
  mutable std::vector<double> sizes;  ///< of the products that truth() adds up, a logit each
  std::vector<double> truth() const {
    const HeadParams& p = params;
    std::vector<double> rows(x.begin(), x.end());
    for (int i = 0; i < p.m && p.norm; ++i) {
      double* row = &rows[static_cast<size_t>(i) * p.k];
      double mean = 0;
      double squares = 0;
      for (int j = 0; j < p.k; ++j) mean += row[j];
      mean = p.norm == Norm::kLayer ? mean / p.k : 0;
      for (int j = 0; j < p.k; ++j) squares += (row[j] - mean) * (row[j] - mean);
      for (int j = 0; j < p.k; ++j) {
        row[j] =
            (row[j] - mean) / std::sqrt(squares / p.k + p.eps) * gamma[j] + (p.beta != nullptr ? beta[j] : 0);
      }
    }
    std::vector<double> all(static_cast<size_t>(p.m) * p.vocab);
    sizes.assign(all.size(), 0.0);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < p.vocab; ++n) {
      for (int i = 0; i < p.m; ++i) {
        double sum = 0;
        double squares = 0;
        for (int j = 0; j < p.k; ++j) {
          const double product = rows[static_cast<size_t>(i) * p.k + j] * w[static_cast<size_t>(n) * p.k + j];
          sum += product;
          squares += product * product;
        }
        all[static_cast<size_t>(i) * p.vocab + n] = sum * p.scale + (p.bias != nullptr ? bias[n] : 0);
        sizes[static_cast<size_t>(i) * p.vocab + n] = std::sqrt(squares) * std::abs(p.scale);
      }
    }
    return all;
  }
  /// Runs and compares ids with the arg-max of the logits that the same launch wrote, and those with `want`.
  void check(const SkinnyConfig* config, const std::vector<double>& want) {
    TANDEM_CUDA_CHECK(cudaMemset(next_ids.data(), 0xff, static_cast<size_t>(next_ids.bytes())));
    TANDEM_CUDA_CHECK(cudaMemset(logits.data(), 0xff, sizeof(float) * want.size()));
    params.config = config;
    launch_head_argmax(params, nullptr);
    const std::vector<float> got = logits.values();
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += (got[i] - want[i]) * (got[i] - want[i]);
      // A few logits whose products cancel are no more exact than their products.
      norm += std::max(want[i] * want[i], sizes[i] * sizes[i]);
    }
    EXPECT_LE(std::sqrt(error / norm), tolerance(params.dtype)) << text(config);
    const auto ids = next_ids.to_host<int32_t>();
    const auto values = best.to_host<float>();
    for (int i = 0; i < params.m; ++i) {
      const float* row = &got[static_cast<size_t>(i) * params.vocab];
      const int id = arg_max(row, params.vocab);
      EXPECT_EQ(ids[i], id + params.id_offset) << text(config) << " row " << i;
      EXPECT_EQ(values[i], row[id]) << text(config) << " row " << i;
    }
    // Without writing logits the choice must be the same.
    HeadParams quiet = params;
    quiet.logits = nullptr;
    launch_head_argmax(quiet, nullptr);
    EXPECT_EQ(next_ids.to_host<int32_t>(), ids) << text(config);
    EXPECT_EQ(best.to_host<float>(), values) << text(config);
  }
};

// Odd vocabularies (no multiple of 8), every row count, norms, bias and scale.
TEST(HeadArgmax, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{1, 8}, {9, 40}, {333, 264}, {5003, 512}, {50265, 128}, {32000, 1024}};
  for (DType dtype : kFloatTypes) {
    for (const auto& [vocab, k] : sizes) {
      for (int m : {1, 2, 3, 4, 5, 8, 9, 16, 24, 33, 64}) {
        if (vocab >= 32000 && random.between(0, 3) != 0) continue;
        std::optional<Norm> norm;
        if (skinny_norm_supports(m, k) && random.coin()) norm = random.coin() ? Norm::kLayer : Norm::kRms;
        Head head(random, dtype, m, vocab, k, random.coin(), norm, norm.has_value() && random.coin(),
                  random.coin() ? 1.0f : 0.3f);
        head.params.id_offset = static_cast<int32_t>(random.between(0, 1) * 1000);
        head.check(nullptr, head.truth());
      }
    }
  }
}

// The largest vocabulary: every block walks many tiles.
TEST(HeadArgmax, LargestVocabulary) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int m : {1, 4, 8, 64}) {
    Head head(random, DType::kBF16, m, 256206, 72, true, {}, false, 1.0f);
    head.check(nullptr, head.truth());
  }
}

// Every config gives the same choice.
TEST(HeadArgmax, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (DType dtype : kFloatTypes) {
    for (int m : {1, 4, 7, 16, 32, 64}) {
      Head head(random, dtype, m, 1003, 520, true, {}, false, 1.0f);
      const auto want = head.truth();
      for (const SkinnyConfig& c :
           all_configs({.dtype = dtype, .m = m, .n = 1003, .k = 520, .head = true}, skinny_card())) {
        head.check(&c, want);
        if (HasFailure()) return;
      }
    }
  }
}

// Equal logits must give the lowest id, wherever in the grid the equals are; the reference breaks ties so, and token parity
// hangs on it.
TEST(HeadArgmax, TiesGoToTheLowestId) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (DType dtype : kFloatTypes) {
    for (int m : {1, 3, 8, 20, 64}) {
      const int vocab = 4099;
      const int k = 264;
      Head head(random, dtype, m, vocab, k, false, {}, false, 1.0f);
      // A few rows of weights far larger than the others, all the same: they win or lose everywhere together.
      std::vector<int> twins;
      for (int i = 0; i < 5; ++i) twins.push_back(static_cast<int>(random.between(0, vocab - 1)));
      std::sort(twins.begin(), twins.end());
      for (int twin : twins) {
        for (int j = 0; j < k; ++j) head.w[static_cast<size_t>(twin) * k + j] = rounded(head.x[j] * 4, dtype);
      }
      head.upload(false);
      for (const SkinnyConfig& c :
           all_configs({.dtype = dtype, .m = m, .n = vocab, .k = k, .head = true}, skinny_card())) {
        head.params.config = &c;
        launch_head_argmax(head.params, nullptr);
        EXPECT_EQ(head.next_ids.to_host<int32_t>()[0], twins[0]) << head.text(&c);
      }
      // All rows the same: id 0 for every row of x.
      for (size_t i = k; i < head.w.size(); ++i) head.w[i] = head.w[i % k];
      head.upload(false);
      head.params.config = nullptr;
      launch_head_argmax(head.params, nullptr);
      EXPECT_EQ(head.next_ids.to_host<int32_t>(), std::vector<int32_t>(m, 0)) << head.text(nullptr);
    }
  }
}

// A NaN must not be chosen, nor leave an id that is no id.
TEST(HeadArgmax, NaNNeverWins) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int m : {1, 16}) {
    Head head(random, DType::kBF16, m, 777, 64, true, {}, false, 1.0f);
    std::vector<double> want = head.truth();
    head.bias[5] = std::numeric_limits<float>::quiet_NaN();
    head.upload(true);
    launch_head_argmax(head.params, nullptr);
    for (int32_t id : head.next_ids.to_host<int32_t>()) {
      EXPECT_NE(id, 5);
      EXPECT_TRUE(id >= 0 && id < 777);
    }
    std::fill(head.x.begin(), head.x.end(), std::numeric_limits<float>::quiet_NaN());
    head.upload(true);
    launch_head_argmax(head.params, nullptr);
    EXPECT_EQ(head.next_ids.to_host<int32_t>(), std::vector<int32_t>(m, 0));
  }
}

// The decode loop replays one graph: columns, end of sequence, padding and the counters must all come from device state.
TEST(HeadArgmax, StepsOfOneGraph) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  constexpr int kSteps = 6;
  constexpr int kColumns = 8;
  constexpr int kVocab = 40;
  constexpr int kWidth = 64;
  constexpr int kPad = 999;
  constexpr int kEos = 7;
  for (const bool stop : {false, true}) {
    for (int m : {1, 5, 64}) {
      Head head(random, DType::kBF16, m, kVocab, kWidth, false, {}, false, 1.0f);
      // Weight row i is the unit vector i, so x says which id is chosen: at step s row b chooses plan[s][b].
      for (int i = 0; i < kVocab; ++i) {
        for (int j = 0; j < kWidth; ++j) head.w[static_cast<size_t>(i) * kWidth + j] = i == j ? 1.0f : 0.0f;
      }
      head.upload(false);
      const DeviceBuffer tokens(4 * m * kColumns);
      const DeviceBuffer position = zeroed(4);
      const DeviceBuffer finished = zeroed(4 * m);
      const DeviceBuffer running(4);
      TANDEM_CUDA_CHECK(cudaMemset(tokens.data(), 0xff, static_cast<size_t>(tokens.bytes())));
      const int32_t first = 1;
      TANDEM_CUDA_CHECK(cudaMemcpy(position.data(), &first, 4, cudaMemcpyHostToDevice));
      head.params.tokens_out = tokens.data<int32_t>();
      head.params.tokens_stride = kColumns;
      head.params.position = position.data<int32_t>();
      head.params.stop_at_eos = stop;
      head.params.finished = finished.data<int32_t>();
      head.params.running = running.data<int32_t>();
      head.params.eos_id = kEos;
      head.params.pad_id = kPad;
      head.params.logits = nullptr;
      launch_head_argmax(head.params, stream);  // loads the kernel; its traces are wiped
      TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
      TANDEM_CUDA_CHECK(cudaMemcpy(position.data(), &first, 4, cudaMemcpyHostToDevice));
      TANDEM_CUDA_CHECK(cudaMemset(finished.data(), 0, static_cast<size_t>(finished.bytes())));
      TANDEM_CUDA_CHECK(cudaMemset(tokens.data(), 0xff, static_cast<size_t>(tokens.bytes())));
      TimedGraph graph(stream, [&](cudaStream_t s) { launch_head_argmax(head.params, s); });

      std::vector<int32_t> want(static_cast<size_t>(m) * kColumns, -1);
      std::vector<int32_t> done(m, 0);
      for (int step = 0; step < kSteps; ++step) {
        std::vector<float> x(static_cast<size_t>(m) * kWidth, 0.0f);
        std::vector<int32_t> ids(m);
        for (int b = 0; b < m; ++b) {
          int id = random.between(0, 3) == 0 ? kEos : static_cast<int>(random.between(0, kVocab - 1));
          x[static_cast<size_t>(b) * kWidth + id] = 1.0f;
          if (stop && done[b] != 0) id = kPad;
          if (stop && id == kEos) done[b] = 1;
          ids[b] = want[static_cast<size_t>(b) * kColumns + step + 1] = id;
        }
        const auto bytes = encoded(x, DType::kBF16);
        TANDEM_CUDA_CHECK(
            cudaMemcpy(head.device[0].data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
        graph.launch();
        TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
        EXPECT_EQ(head.next_ids.to_host<int32_t>(), ids) << "step " << step;
        EXPECT_EQ(tokens.to_host<int32_t>(), want) << "step " << step;
        EXPECT_EQ(position.to_host<int32_t>()[0], step + 2);
        int left = m;
        for (int32_t d : done) left -= d;
        EXPECT_EQ(running.to_host<int32_t>()[0], left);
        if (stop) {
          EXPECT_EQ(finished.to_host<int32_t>(), done);
        }
      }
      // Past the last column nothing may be stored.
      graph.launch();
      graph.launch();
      graph.launch();
      TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
      EXPECT_EQ(position.to_host<int32_t>()[0], kSteps + 4);
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Wrong arguments must be refused with the field's name; no device is needed for that.
TEST(HeadArgmax, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[64];
  auto* ints = reinterpret_cast<int32_t*>(memory);
  const HeadParams good{.dtype = DType::kBF16,
                        .m = 1,
                        .vocab = 8,
                        .k = 8,
                        .x = memory,
                        .w = memory,
                        .next_ids = ints,
                        .workspace = memory};
  auto expect_refused = [&](const char* field, auto change) {
    HeadParams p = good;
    change(p);
    try {
      launch_head_argmax(p, nullptr);
      ADD_FAILURE() << field << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  };
  expect_refused("next_ids", [](auto& p) { p.next_ids = nullptr; });
  expect_refused("position", [&](auto& p) { p.tokens_out = ints; });
  expect_refused("finished", [](auto& p) { p.stop_at_eos = true; });
  expect_refused("workspace", [](auto& p) { p.workspace = nullptr; });
  expect_refused("m ", [](auto& p) { p.m = 0; });
}

}  // namespace
}  // namespace tandem::kernels
