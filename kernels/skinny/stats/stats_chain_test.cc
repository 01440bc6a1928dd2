// Norms by statistics on the device, in chains of products.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kernels/common/timed_graph.h"
#include "kernels/skinny/product_test.h"
#include "kernels/skinny/stats/stats_rows_test.h"

namespace tandem::kernels {
namespace {

/// Products of a decoder's FFN without norm kernels: the stream is written with its statistics, taken by the next product, and
/// in a post-norm model read again, normed, as the residual. Two buffers of statistics in turn.
struct StatsChain {
  int m, d, f, layers;
  Norm norm;
  bool post_norm;
  std::vector<std::vector<float>> w_up, w_down, b_up, b_down, gamma, beta;
  std::vector<float> w_first, w_last, x0;
  std::vector<DeviceTensor> device;
  std::vector<SkinnyParams> products;
  DeviceTensor stream, scaled, hidden, stats[2], out;

  StatsChain(RandomValues& random, int rows, int width, int inner, int count, Norm kind, bool post)
      : m(rows),
        d(width),
        f(inner),
        layers(count),
        norm(kind),
        post_norm(post),
        x0(random.normal(int64_t{rows} * width, DType::kBF16)),
        stream(int64_t{rows} * width, DType::kF32),
        scaled(int64_t{rows} * width, DType::kBF16),
        hidden(int64_t{rows} * inner, DType::kBF16),
        stats{{2 * int64_t{rows} * (width / kStatsColumns), DType::kF32},
              {2 * int64_t{rows} * (width / kStatsColumns), DType::kF32}},
        out(int64_t{rows} * width, DType::kF32) {
    const auto weights = [&](int64_t n, int64_t k) {
      return random.normal(n * k, DType::kBF16, 0, 1 / std::sqrt(static_cast<float>(k)));
    };
    w_first = weights(d, d);
    w_last = weights(d, d);
    for (int i = 0; i < layers; ++i) {
      w_up.push_back(weights(f, d));
      w_down.push_back(weights(d, f));
      b_up.push_back(random.normal(f, DType::kBF16, 0, 0.5f));
      b_down.push_back(random.normal(d, DType::kBF16, 1.5f, 0.5f));
    }
    for (int i = 0; i <= layers; ++i) {
      gamma.push_back(random.normal(d, DType::kBF16, 1, 0.2f));
      beta.push_back(random.normal(d, DType::kBF16, 0, 0.2f));
    }
    build();
  }

  const void* put(const std::vector<float>& values, DType type = DType::kBF16) {
    device.emplace_back(values, type);
    return device.back().data();
  }
  /// c1, then c2, of the norm of stream i before these weights.
  const float* sums(const std::vector<float>& w, int n, int i) {
    std::vector<float> all(static_cast<size_t>(2) * n);
    for (int r = 0; r < n; ++r) {
      double c[2] = {0, 0};
      for (int j = 0; j < d; ++j) {
        c[0] += double{w[static_cast<size_t>(r) * d + j]} * gamma[i][j];
        c[1] += double{w[static_cast<size_t>(r) * d + j]} * beta[i][j];
      }
      all[r] = static_cast<float>(c[0]);
      all[n + r] = static_cast<float>(c[1]);
    }
    return static_cast<const float*>(put(all, DType::kF32));
  }
  /// Into the stream, with what the norm of stream i needs.
  SkinnyParams writing(const void* x, const std::vector<float>& w, int k, int i) {
    return {.m = m,
            .n = d,
            .k = k,
            .x = x,
            .w = put(w),
            .y = stream.data(),
            .y_float = true,
            .scaled_out = scaled.data(),
            .scaled_gamma = put(gamma[i]),
            .stats_out = static_cast<float*>(stats[i % 2].data()),
            .stats_norm = norm};
  }
  SkinnyParams taking(const std::vector<float>& w, int n, int i) {
    return {.m = m,
            .n = n,
            .k = d,
            .x = scaled.data(),
            .w = put(w),
            .x_stats = static_cast<const float*>(stats[i % 2].data()),
            .x_norm = norm,
            .norm_sums = sums(w, n, i)};
  }
  void build() {
    products.push_back(writing(put(x0), w_first, d, 0));
    for (int i = 0; i < layers; ++i) {
      SkinnyParams up = taking(w_up[i], f, i);
      up.bias = put(b_up[i]);
      up.activation = Activation::kRelu;
      up.y = hidden.data();
      products.push_back(up);
      SkinnyParams down = writing(hidden.data(), w_down[i], f, i + 1);
      down.bias = put(b_down[i]);
      down.residual = stream.data();
      down.residual_float = true;
      if (post_norm) {
        down.residual_stats = static_cast<const float*>(stats[i % 2].data());
        down.residual_gamma = put(gamma[i]);
        down.residual_beta = put(beta[i]);
      }
      products.push_back(down);
    }
    SkinnyParams last = taking(w_last, d, layers);
    last.y = out.data();
    last.y_float = true;
    products.push_back(last);
  }
  void run(cudaStream_t stream_id, bool dependent, const std::function<void()>& between) const {
    for (SkinnyParams p : products) {
      p.dependent = dependent;
      launch_skinny(p, stream_id);
      between();
    }
  }

  std::vector<double> truth() const {
    const auto product = [&](const std::vector<double>& x, const std::vector<float>& w, int n, int k) {
      return kernels::products(Rows::plain(as_floats(x), k), Rows::plain(w, k), m, n);
    };
    const auto normed = [&](const std::vector<double>& s, int i) {
      const NormOf of(norm, 1e-5, as_floats(s), m, d, d);
      std::vector<double> rows;
      for (int b = 0; b < m; ++b) {
        for (int j = 0; j < d; ++j)
          rows.push_back((s[b * d + j] - of.mean[b]) * of.scale[b] * gamma[i][j] + beta[i][j]);
      }
      return rows;
    };
    std::vector<double> s = product({x0.begin(), x0.end()}, w_first, d, d);
    for (int i = 0; i < layers; ++i) {
      const std::vector<double> rows = normed(s, i);
      std::vector<double> h = product(rows, w_up[i], f, d);
      for (size_t at = 0; at < h.size(); ++at) h[at] = std::max(0.0, h[at] + b_up[i][at % f]);
      const std::vector<double> y = product(h, w_down[i], d, f);
      for (size_t at = 0; at < s.size(); ++at)
        s[at] = y[at] + b_down[i][at % d] + (post_norm ? rows[at] : s[at]);
    }
    return product(normed(s, layers), w_last, d, d);
  }
};

// A product that starts before the statistics it takes are written, or writes some that others still read, would give other bits
// in a graph than with the device idle between products; a wrong formula would leave the truth of the whole chain.
TEST(SkinnyStats, ChainsAgreeWithDoubleLoopsAndKeepTheirBits) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  const int widths[] = {512, 768, 1024};
  for (const Norm norm : {Norm::kLayer, Norm::kRms}) {
    for (const bool post_norm : {false, true}) {
      for (int m : {5, 17, 33, 64}) {
        const int width = random.one_of(widths);
        const StatsChain chain(random, m, width, 4 * width, 5, norm, post_norm);
        const std::string what =
            fmt::format("m {} d {} {}{}", m, width, norm == Norm::kLayer ? "layer" : "rms",
                        post_norm ? " post-norm" : "");
        chain.run(stream, false, [&] { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream)); });
        EXPECT_LE(relative_l2(chain.out.values(), chain.truth()), 2e-2) << what;
        const auto want = chain.out.bytes();
        const auto want_stream = chain.stream.bytes();
        TimedGraph graph(stream, [&](cudaStream_t s) { chain.run(s, true, [] {}); });
        for (int replay = 0; replay < 20; ++replay) {
          graph.launch();
          ASSERT_EQ(chain.out.bytes(), want) << what << " replay " << replay;
          ASSERT_EQ(chain.stream.bytes(), want_stream) << what << " replay " << replay;
        }
      }
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace tandem::kernels
