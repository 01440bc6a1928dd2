// What of products with quantised weights is the wide kernels' alone; the rest in codes_test.cc.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/formats/codes_test.h"

namespace tandem::kernels {
namespace {

#define TANDEM_NEEDS_WIDE()   \
  TANDEM_NEEDS_DEVICE();      \
  if (!skinny_card().sm90a) { \
    GTEST_SKIP() << "sm_90a"; \
  }

// One product writes scales, one writes what the next takes as codes (any byte is an int8), each started before the previous one
// has ended: a product that read x or its scales too early would give other bits than the same ones with the device idle between.
TEST(SkinnyXCodes, DependentChainInAGraphEqualsOneByOne) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  constexpr int kLayers = 6;
  const int d = 1024;
  for (int m : {1, 4, 16, 64}) {
    std::vector<Product> all;
    for (int i = 0; i < 3 * kLayers; ++i) {
      Product p;
      const bool of_codes = i % 3 == 2;
      if (of_codes) p.params.w_dtype = p.params.input_dtype = DType::kI8;
      p.x_codes = of_codes;
      p.params.m = m;
      p.params.n = i % 3 == 0 ? 1 : d;
      p.params.k = of_codes ? 2 * d : d;
      p.draw(random);
      all.push_back(std::move(p));
    }
    const DeviceTensor start(random.normal(int64_t{m} * d, DType::kBF16), DType::kBF16);
    DeviceTensor values(int64_t{m} * d, DType::kBF16);
    DeviceTensor codes(int64_t{m} * d, DType::kBF16);
    DeviceTensor scales(m, DType::kF32);
    const auto run = [&](cudaStream_t s, bool dependent, const std::function<void()>& between) {
      TANDEM_CUDA_CHECK(cudaMemcpyAsync(values.data(), start.data(), static_cast<size_t>(m) * d * 2,
                                        cudaMemcpyDeviceToDevice, s));
      for (size_t i = 0; i < all.size(); ++i) {
        SkinnyParams p = all[i].params;
        p.ldx = p.ldy = 0;
        p.dependent = dependent;
        p.x = values.data();
        if (i % 3 == 0) {
          p.y = scales.data();
          p.y_float = true;
          p.activation = Activation::kTanh;
        } else if (i % 3 == 1) {
          p.y = codes.data();
        } else {
          p.x = codes.data();
          p.x_scales = static_cast<const float*>(scales.data());
          p.y = values.data();
        }
        launch_skinny(p, s);
        between();
      }
    };
    run(stream, false, [&] { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream)); });
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    const auto want = values.bytes();
    for (float v : values.values()) ASSERT_TRUE(std::isfinite(v));
    TimedGraph graph(stream, [&](cudaStream_t s) { run(s, true, [] {}); });
    for (int replay = 0; replay < 20; ++replay) {
      graph.launch();
      ASSERT_EQ(values.bytes(), want) << "m " << m << " replay " << replay;
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Wrong arguments must be refused with the field's name before anything is launched.
TEST(SkinnyXCodes, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[256];
  const SkinnyParams good{.w_dtype = DType::kI8,
                          .m = 1,
                          .n = 8,
                          .k = 32,
                          .x = memory,
                          .w = memory + 16,
                          .scales = memory + 64,
                          .input_dtype = DType::kI8,
                          .x_scales = reinterpret_cast<float*>(memory + 96),
                          .y = memory + 32};
  const auto refused = [&](const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    expect_refused(field, [&] { launch_skinny(p, nullptr); });
  };
  refused("x_scales", [](auto& p) { p.input_dtype = std::nullopt; });
  refused("x_scales", [](auto& p) {
    p.norm = Norm::kRms;
    p.gamma = memory + 128;
  });
  refused("x_scales", [](auto& p) {
    p.w_dtype = p.input_dtype = std::nullopt;
    p.scales = nullptr;
  });
  refused("ldx", [](auto& p) { p.ldx = 40; });
}

// Blocks that walk several tiles: group scales of a tile are requested in the one before, and x may stay in shared memory.
TEST(SkinnyWideCodes, SeveralTilesABlock) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{20000, 544}, {9001, 2336}};
  for (const CodesFormat& f : kCodesFormats) {
    if (f.inputs && !f.x_codes) continue;
    for (const auto& [n, k] : sizes) {
      for (int m : {2, 16, 31, 64}) {
        Product product = random_codes(random, f, m, n, k);
        product.params.norm = std::nullopt;
        product.params.norm_out = nullptr;
        product.params.x_float = product.params.gated = false;
        product.draw(random);
        for (const SkinnyConfig& c : all_configs(product.problem(), skinny_card())) {
          if (c.kind != SkinnyConfig::Kind::kWide) continue;
          product.check(&c, product.text() + " " + config_text(c));
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Without the tensor copy engine nothing takes codes of x: that is said, not computed wrong.
TEST(SkinnyXCodes, RefusesOlderCards) {
  TANDEM_NEEDS_DEVICE();
  if (skinny_card().sm90a) GTEST_SKIP() << "a newer card";
  RandomValues random(test_seed());
  const Product product = random_codes(random, {DType::kI8, DType::kI8, true}, 4, 64, 512);
  SkinnyParams p = product.params;
  const DeviceTensor y(p.m * p.ldy, p.y_float ? DType::kF32 : DType::kBF16);
  p.y = y.data();
  p.residual = nullptr;
  EXPECT_THROW(launch_skinny(p, nullptr), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
