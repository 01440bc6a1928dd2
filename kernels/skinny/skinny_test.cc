#include "kernels/skinny/skinny.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/product_test.h"

namespace tandem::kernels {
namespace {

// The chosen config of every kind of size: rows of 1 to 64, k not a multiple of 64, n not a multiple of 8, all epilogues.
TEST(Skinny, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64};
  const std::pair<int, int> sizes[] = {{1, 8},       {5, 16},      {13, 24},    {33, 40},    {50, 264},
                                       {129, 520},   {512, 512},   {1000, 768}, {768, 1000}, {1024, 1024},
                                       {3072, 1024}, {1024, 4096}, {65, 16384}, {5003, 136}};
  for (DType dtype : kFloatTypes) {
    for (const auto& [n, k] : sizes) {
      for (int draw = 0; draw < 4; ++draw) {
        const int m = random.one_of(rows);
        Product product = random_product(random, dtype, m, n, k);
        product.check(nullptr, product.text());
      }
    }
  }
}

// Every config that a table or a user may pick, cluster sizes and rings of x included, gives the same result.
TEST(Skinny, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  const std::pair<int, int> sizes[] = {{37, 72}, {150, 520}, {264, 1032}, {72, 8200}};
  for (DType dtype : kFloatTypes) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 4, 8, 13, 32, 64}) {
        Product product = random_product(random, dtype, m, n, k);
        for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
          product.check(&c, product.text() + " " + config_text(c));
          if (HasFailure()) return;  // thousands of lines help nobody
        }
      }
    }
  }
}

// The shapes of the models at full size, where grids are larger than the card and blocks walk several tiles.
TEST(Skinny, ModelShapesAreRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{16384, 1024}, {1024, 16384}, {8192, 2048}, {50265, 1024}};
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 8, 64}) {
        Product product = random_product(random, dtype, m, n, k);
        product.check(nullptr, product.text());
      }
    }
  }
}

// A race or an atomic in the sums would show as bits that change from run to run.
TEST(Skinny, SameBitsInEveryRun) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  for (DType dtype : kFloatTypes) {
    for (int m : {1, 3, 8, 40, 64}) {
      Product product = random_product(random, dtype, m, 520, 1000);
      for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
        if (random.between(0, 15) != 0) continue;
        const auto first = product.check(&c, product.text() + " " + config_text(c));
        for (int run = 0; run < 3; ++run) {
          EXPECT_EQ(product.check(&c, product.text()), first) << product.text() << " " << config_text(c);
        }
      }
    }
  }
}

/// Products that read each other's output: norm -> up -> down + residual in place, as a decoder's FFN.
struct Chain {
  int m, d, f, layers;
  DType dtype;
  std::vector<DeviceTensor> w_up, w_down, gamma;
  DeviceTensor start, stream, hidden;

  Chain(RandomValues& random, DType t, int rows, int width, int inner, int count)
      : m(rows),
        d(width),
        f(inner),
        layers(count),
        dtype(t),
        start(random.normal(m * d, t), t),
        stream(m * d, t),
        hidden(static_cast<int64_t>(m) * f, t) {
    for (int i = 0; i < layers; ++i) {
      w_up.emplace_back(
          random.normal(static_cast<int64_t>(f) * d, t, 0, 1 / std::sqrt(static_cast<float>(d))), t);
      w_down.emplace_back(
          random.normal(static_cast<int64_t>(f) * d, t, 0, 1 / std::sqrt(static_cast<float>(f))), t);
      gamma.emplace_back(random.normal(d, t, 1, 0.1f), t);
    }
  }
  void run(cudaStream_t stream_id, bool dependent, const std::function<void()>& between) {
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(stream.data(), start.data(),
                                      static_cast<size_t>(tensor_bytes(dtype, int64_t{m} * d)),
                                      cudaMemcpyDeviceToDevice, stream_id));
    for (int i = 0; i < layers; ++i) {
      launch_skinny({.dtype = dtype,
                     .m = m,
                     .n = f,
                     .k = d,
                     .x = stream.data(),
                     .w = w_up[i].data(),
                     .y = hidden.data(),
                     .norm = skinny_norm_supports(m, d) ? std::optional(Norm::kRms) : std::nullopt,
                     .gamma = skinny_norm_supports(m, d) ? gamma[i].data() : nullptr,
                     .activation = Activation::kRelu,
                     .dependent = dependent},
                    stream_id);
      between();
      launch_skinny({.dtype = dtype,
                     .m = m,
                     .n = d,
                     .k = f,
                     .x = hidden.data(),
                     .w = w_down[i].data(),
                     .residual = stream.data(),
                     .y = stream.data(),
                     .dependent = dependent},
                    stream_id);
      between();
    }
  }
};

// Dependent launch starts a kernel before the previous one has ended: reading x or writing y too early would give other bits
// than the same products with the device idle between them.
TEST(Skinny, DependentChainInAGraphEqualsOneByOne) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  for (DType dtype : kFloatTypes) {
    for (int m : {1, 4, 8, 16, 33, 64}) {
      Chain chain(random, dtype, m, 512, 2048, 6);
      chain.run(stream, false, [&] { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream)); });
      const auto want = chain.stream.bytes();
      for (float v : chain.stream.values()) ASSERT_TRUE(std::isfinite(v));
      TimedGraph graph(stream, [&](cudaStream_t s) { chain.run(s, true, [] {}); });
      for (int replay = 0; replay < 20; ++replay) {
        graph.launch();
        ASSERT_EQ(chain.stream.bytes(), want) << dtype_name(dtype) << " m " << m << " replay " << replay;
      }
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Wrong arguments must be refused with the field's name before anything is launched; no device is needed for that.
TEST(Skinny, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[64];
  const SkinnyParams good{
      .dtype = DType::kBF16, .m = 1, .n = 8, .k = 8, .x = memory, .w = memory + 16, .y = memory + 32};
  const auto refused = [&](const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    expect_refused(field, [&] { launch_skinny(p, nullptr); });
  };
  refused("dtype", [](auto& p) { p.dtype = DType::kI8; });
  refused("m ", [](auto& p) { p.m = 65; });
  refused("n ", [](auto& p) { p.n = 0; });
  refused("k ", [](auto& p) { p.k = 12; });
  refused("x ", [](auto& p) { p.x = memory + 2; });
  refused("ldx", [](auto& p) { p.ldx = 12; });
  refused("w ", [](auto& p) { p.w = nullptr; });
  refused("y ", [](auto& p) { p.y = nullptr; });
  refused("y ", [](auto& p) { p.y = const_cast<void*>(p.x); });
  refused("x_float", [](auto& p) { p.x_float = true; });
  refused("gamma", [](auto& p) { p.norm = Norm::kRms; });
  refused("activation", [](auto& p) { p.gated = true; });
  refused("norm_out", [](auto& p) { p.norm_out = memory + 48; });
  refused("residual", [](auto& p) {
    p.residual = p.y;
    p.y_float = true;
  });
  refused("norm", [](auto& p) {
    p.norm = Norm::kLayer;
    p.gamma = memory;
    p.m = 64;
    p.k = 1024;
  });
}

}  // namespace
}  // namespace tandem::kernels
