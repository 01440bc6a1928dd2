// Wide products of codes, as their kernels and as double loops over the same codes compute them: x that lies in memory as codes
// with a scale a row, and weights that are unpacked into registers (more of those in codes_test.cc).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/product_test.h"

namespace tandem::kernels {
namespace {

const DType kTypes[] = {DType::kF8, DType::kI8};

#define TANDEM_NEEDS_WIDE()   \
  TANDEM_NEEDS_DEVICE();      \
  if (!skinny_card().sm90a) { \
    GTEST_SKIP() << "sm_90a"; \
  }

Product random_x_codes(RandomValues& random, DType type, int m, int n, int k) {
  return random_product(random, DType::kBF16, m, n, round_up(k, 16), type, type, true);
}

// The chosen config of every kind of size: rows of 1 to 64, odd n, k that ends inside a unit, gates, all epilogues, maxima. A
// scale of another row of x or of w would be a wrong number everywhere.
TEST(SkinnyXCodes, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64};
  const std::pair<int, int> sizes[] = {{1, 16},      {5, 48},      {13, 96},    {33, 176},   {56, 272},
                                       {129, 528},   {512, 512},   {1000, 784}, {768, 2096}, {1024, 1024},
                                       {3072, 1024}, {1024, 4096}, {65, 16384}, {5003, 144}, {77, 32768}};
  for (DType type : kTypes) {
    for (const auto& [n, k] : sizes) {
      for (int draw = 0; draw < 6; ++draw) {
        Product product = random_x_codes(random, type, random.one_of(rows), n, k);
        product.check(nullptr, product.text());
      }
      Product one = random_x_codes(random, type, 1, n, k);
      one.check(nullptr, one.text());
    }
  }
}

// Every config gives the same result: clusters that split k, one and several tiles a block, x that stays and x that passes.
TEST(SkinnyXCodes, EveryConfigIsRight) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  const std::pair<int, int> sizes[] = {{37, 80}, {152, 528}, {264, 1040}, {72, 8208}, {20000, 512}};
  for (DType type : kTypes) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 2, 8, 13, 32, 64}) {
        Product product = random_x_codes(random, type, m, n, k);
        const auto configs = all_configs(product.problem(), card);
        ASSERT_FALSE(configs.empty());
        for (const SkinnyConfig& c : configs) {
          product.check(&c, product.text() + " " + config_text(c));
          if (HasFailure()) return;  // thousands of lines help nobody
        }
      }
    }
  }
}

// A race in the ring or an atomic in the sums would show as bits that change from run to run.
TEST(SkinnyXCodes, SameBitsInEveryRun) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  for (DType type : kTypes) {
    for (int m : {1, 3, 8, 40, 64}) {
      Product product = random_x_codes(random, type, m, 520, 2000);
      for (const SkinnyConfig& c : all_configs(product.problem(), skinny_card())) {
        const auto first = product.check(&c, product.text() + " " + config_text(c));
        for (int run = 0; run < 3; ++run) {
          EXPECT_EQ(product.check(&c, product.text()), first) << product.text() << " " << config_text(c);
        }
      }
    }
  }
}

// Each code of each type against each place of k, alone: a code that is another number to the tensor cores, or that meets the x
// of another k, shows here as itself.
TEST(SkinnyXCodes, EveryCodeIsItself) {
  TANDEM_NEEDS_WIDE();
  const int k = 256;
  const int n = 16;
  for (DType type : kTypes) {
    const Storage storage{.dtype = type, .scale_group = Storage::kWholeRow};
    const std::vector<float> one = {1.0f};
    std::vector<uint8_t> bytes(static_cast<size_t>(n) * k);
    std::vector<float> want(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      uint32_t code = static_cast<uint32_t>(i / k * 7 + i % k) & 0xffu;
      if (type == DType::kF8 && (code & 0x7f) == 0x7f) code = 0;  // NaN: no weight is
      bytes[i] = static_cast<uint8_t>(code);
      dequantise_row(storage, {&code, 1}, one, {&want[i], 1});
    }
    const DeviceBuffer w = DeviceBuffer::of(bytes);
    const DeviceTensor scales(std::vector<float>(static_cast<size_t>(n), 0.5f), DType::kF32);
    const uint8_t largest = type == DType::kF8 ? 0x7e : 127;
    const float v = type == DType::kF8 ? 448.0f : 127.0f;
    for (int m : {1, 8, 16, 64}) {
      const DeviceTensor x_scales(std::vector<float>(static_cast<size_t>(m), 2.0f), DType::kF32);
      for (const SkinnyConfig& c :
           all_configs({.w_dtype = type, .input_dtype = type, .m = m, .n = n, .k = k, .x_codes = true},
                       skinny_card())) {
        if (c.blocks_per_sm > 1) continue;
        for (int first = 0; first < k; first += m) {
          std::vector<uint8_t> x(static_cast<size_t>(m) * k, 0);
          for (int i = 0; i < m && first + i < k; ++i) x[i * k + first + i] = largest;
          const DeviceBuffer device_x = DeviceBuffer::of(x);
          const DeviceTensor y(static_cast<int64_t>(m) * n, DType::kF32);
          launch_skinny({.w_dtype = type,
                         .m = m,
                         .n = n,
                         .k = k,
                         .x = device_x.data(),
                         .w = w.data(),
                         .scales = scales.data(),
                         .input_dtype = type,
                         .x_scales = static_cast<const float*>(x_scales.data()),
                         .y = y.data(),
                         .y_float = true,
                         .config = &c},
                        nullptr);
          const std::vector<float> got = y.values();
          for (int i = 0; i < m && first + i < k; ++i) {
            for (int row = 0; row < n; ++row) {
              ASSERT_EQ(got[i * n + row], want[row * k + first + i] * v)
                  << dtype_name(type) << " m " << m << " k " << first + i << " row " << row << " "
                  << config_text(c);
            }
          }
        }
      }
    }
  }
}

// Rows whose scale is 0 (all zeros) or NaN (a NaN or an infinity in them): the bias alone, and NaN; their neighbours must not
// notice, and the maximum must say NaN to whoever quantises next.
TEST(SkinnyXCodes, RowsWithoutAScale) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  for (DType type : kTypes) {
    for (int m : {1, 5, 20}) {
      for (float bad : {0.0f, std::numeric_limits<float>::quiet_NaN()}) {
        Product product;
        product.params.w_dtype = product.params.input_dtype = type;
        product.params.m = m;
        product.params.n = 72;
        product.params.k = 512;
        product.x_codes = true;
        product.with_bias = true;
        product.draw(random);
        const SkinnyParams& p = product.params;
        const int row = m - 1;
        const QuantisedRows rows(product.dense_x, p.k, type);
        std::vector<uint8_t> codes = rows.codes;
        std::vector<float> x_scales = rows.scales;
        std::fill_n(&codes[static_cast<size_t>(row) * p.k], p.k, 0);
        x_scales[row] = bad;
        const DeviceBuffer device_x = DeviceBuffer::of(codes);
        const DeviceTensor device_scales(x_scales, DType::kF32);
        const DeviceTensor y(m * p.ldy, DType::kBF16);
        const DeviceTensor y_max(std::vector<float>(static_cast<size_t>(m), 0.0f), DType::kF32);
        SkinnyParams launch = p;
        launch.x = device_x.data();
        launch.ldx = 0;
        launch.x_scales = static_cast<const float*>(device_scales.data());
        launch.y = y.data();
        launch.y_max = static_cast<float*>(y_max.data());
        launch_skinny(launch, nullptr);
        const std::vector<float> got = y.values();
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < p.n; ++j) {
            const float v = got[i * p.ldy + j];
            if (i != row) {
              EXPECT_NEAR(v, product.truth[i * p.n + j], 4e-2) << product.text();
            } else if (bad == 0.0f) {
              EXPECT_EQ(v, product.bias[j]) << product.text();
            } else {
              EXPECT_TRUE(std::isnan(v)) << product.text();
            }
          }
        }
        EXPECT_EQ(std::isnan(y_max.values()[row]), std::isnan(bad));
      }
    }
  }
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
  auto expect_refused = [&](const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    try {
      launch_skinny(p, nullptr);
      ADD_FAILURE() << field << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  };
  expect_refused("x_scales", [](auto& p) { p.input_dtype = std::nullopt; });
  expect_refused("x_scales", [](auto& p) { p.x_max = reinterpret_cast<float*>(memory + 128); });
  expect_refused("x_scales", [](auto& p) {
    p.norm = Norm::kRms;
    p.gamma = memory + 128;
  });
  expect_refused("x_scales", [](auto& p) {
    p.w_dtype = p.input_dtype = std::nullopt;
    p.scales = nullptr;
  });
  expect_refused("ldx", [](auto& p) { p.ldx = 40; });
}

// Blocks that walk several tiles, with weights that are unpacked: the group scales of a tile are requested in the one before, and x
// may stay in shared memory.
TEST(SkinnyUnpacked, SeveralTilesABlock) {
  TANDEM_NEEDS_WIDE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{20000, 544}, {9001, 2336}};
  for (DType type : {DType::kI8, DType::kI4}) {
    for (const auto& [n, k] : sizes) {
      for (int m : {2, 16, 31, 64}) {
        Product product = random_product(random, DType::kBF16, m, n, k, type);
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
  const Product product = random_x_codes(random, DType::kI8, 4, 64, 512);
  SkinnyParams p = product.params;
  const DeviceTensor y(p.m * p.ldy, p.y_float ? DType::kF32 : DType::kBF16);
  p.y = y.data();
  p.residual = nullptr;
  EXPECT_THROW(launch_skinny(p, nullptr), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
