// Products and heads with quantised weights, as their kernels and as double loops over the same codes compute them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/product_test.h"

namespace tandem::kernels {
namespace {

struct Format {
  DType weights;
  std::optional<DType> inputs;
  int k_step;  // of which k must be a multiple
};
const Format kFormats[] = {{DType::kI8, std::nullopt, 16},
                           {DType::kI4, std::nullopt, 32},
                           {DType::kF8, DType::kF8, 16},
                           {DType::kI8, DType::kI8, 16}};

Product random_codes(RandomValues& random, const Format& f, int m, int n, int k) {
  return random_product(random, DType::kBF16, m, n, round_up(k, f.k_step), f.weights, f.inputs);
}

// The chosen config of every kind of size: rows of 1 to 64, odd n, k that ends inside a unit and inside a scale group, all
// epilogues, prologues and maxima.
TEST(SkinnyCodes, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64};
  const std::pair<int, int> sizes[] = {{1, 16},      {5, 48},      {13, 96},    {33, 176},   {50, 272},
                                       {129, 528},   {512, 512},   {1000, 784}, {768, 2096}, {1024, 1024},
                                       {3072, 1024}, {1024, 4096}, {65, 16384}, {5003, 144}, {77, 8192}};
  for (const Format& f : kFormats) {
    for (const auto& [n, k] : sizes) {
      for (int draw = 0; draw < 6; ++draw) {
        Product product = random_codes(random, f, random.one_of(rows), n, k);
        product.check(nullptr, product.text());
      }
      Product one = random_codes(random, f, 1, n, k);
      one.check(nullptr, one.text());
    }
  }
}

// Every config that a table or a user may pick, cluster sizes and rings of x included, gives the same result.
TEST(SkinnyCodes, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  const std::pair<int, int> sizes[] = {{37, 80}, {150, 528}, {264, 1040}, {72, 8208}};
  for (const Format& f : kFormats) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 2, 8, 13, 32, 64}) {
        Product product = random_codes(random, f, m, n, k);
        for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
          product.check(&c, product.text() + " " + config_text(c));
          if (HasFailure()) return;  // thousands of lines help nobody
        }
      }
    }
  }
}

// The shapes of the models at full size, where grids are larger than the card and blocks walk several tiles.
TEST(SkinnyCodes, ModelShapesAreRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{16384, 1024}, {1024, 16384}, {8192, 2048}};
  for (const Format& f : kFormats) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 8, 64}) {
        Product product = random_codes(random, f, m, n, k);
        product.check(nullptr, product.text());
      }
    }
  }
}

// A race in the staging of codes or an atomic in the sums would show as bits that change from run to run.
TEST(SkinnyCodes, SameBitsInEveryRun) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  for (const Format& f : kFormats) {
    for (int m : {1, 3, 8, 40, 64}) {
      Product product = random_codes(random, f, m, 520, 1008);
      for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
        if (random.between(0, 7) != 0) continue;
        const auto first = product.check(&c, product.text() + " " + config_text(c));
        for (int run = 0; run < 3; ++run) {
          EXPECT_EQ(product.check(&c, product.text()), first) << product.text() << " " << config_text(c);
        }
      }
    }
  }
}

// Each code of each format, alone: rows of x that are zero but for one element. A code that is unpacked to another number, or
// meets the x of another k, shows here as itself.
TEST(SkinnyCodes, EveryCodeIsItself) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const Format& f : kFormats) {
    const int k = f.weights == DType::kI4 ? 128 : 256;
    const int n = 16;
    const Storage storage{.dtype = f.weights, .scale_group = Storage::kWholeRow};
    const std::vector<float> one = {1.0f};
    std::vector<uint8_t> bytes(static_cast<size_t>(n * tensor_bytes(f.weights, k)));
    std::vector<float> want(static_cast<size_t>(n * k));
    for (int row = 0; row < n; ++row) {
      for (int j = 0; j < k; ++j) {
        const int bits = dtype_bits(f.weights);
        uint32_t code = static_cast<uint32_t>(row * 7 + j) & ((1u << bits) - 1);
        if (f.weights == DType::kF8 && (code & 0x7f) == 0x7f) code = 0;  // NaN: no weight is
        dequantise_row(storage, {&code, 1}, one, {&want[row * k + j], 1});
        bytes[(row * k + j) * bits / 8] |= static_cast<uint8_t>(code << (bits == 4 ? j % 2 * 4 : 0));
      }
    }
    const DeviceBuffer w = DeviceBuffer::of(bytes);
    // The largest code of the type at scale 1, so that what is quantised stays itself.
    const float v = f.inputs == DType::kF8 ? 448.0f : f.inputs == DType::kI8 ? 127.0f : 1.5f;
    for (int m : {1, 8, 16, 64}) {
      const int groups = f.weights == DType::kI4 ? 1 : 0;
      const DeviceTensor scales(std::vector<float>(static_cast<size_t>(n), 0.5f),
                                groups > 0 ? DType::kBF16 : DType::kF32);
      for (const SkinnyConfig& c : all_configs(
               {.w_dtype = f.weights, .input_dtype = f.inputs, .m = m, .n = n, .k = k}, skinny_card())) {
        if (c.blocks_per_sm > 1 || c.cluster > 2) continue;
        for (int first = 0; first < k; first += m) {
          std::vector<float> x(static_cast<size_t>(m) * k, 0.0f);
          std::vector<float> x_max(static_cast<size_t>(m), v);
          for (int i = 0; i < m && first + i < k; ++i) x[i * k + first + i] = v;
          const DeviceTensor device_x(x, DType::kBF16);
          const DeviceTensor device_max(x_max, DType::kF32);
          const DeviceTensor y(static_cast<int64_t>(m) * n, DType::kF32);
          launch_skinny({.w_dtype = f.weights,
                         .m = m,
                         .n = n,
                         .k = k,
                         .x = device_x.data(),
                         .w = w.data(),
                         .scales = scales.data(),
                         .input_dtype = f.inputs,
                         .x_max = f.inputs ? static_cast<const float*>(device_max.data()) : nullptr,
                         .y = y.data(),
                         .y_float = true,
                         .config = &c},
                        nullptr);
          const std::vector<float> got = y.values();
          for (int i = 0; i < m && first + i < k; ++i) {
            for (int row = 0; row < n; ++row) {
              ASSERT_EQ(got[i * n + row], want[row * k + first + i] * v * 0.5f)
                  << dtype_name(f.weights) << " m " << m << " k " << first + i << " row " << row << " "
                  << config_text(c);
            }
          }
        }
      }
    }
  }
}

// Rows of x that are all zero, or have a NaN or an infinity: quantise_row says 0, and NaN throughout the row. A row's neighbours
// must not notice, and the maximum of a row with a NaN must say so to whoever quantises it next.
TEST(SkinnyCodes, RowsWithoutAScale) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const Format& f : {kFormats[2], kFormats[3]}) {
    for (int m : {1, 5, 20}) {
      Product product = random_codes(random, f, m, 72, 512);
      SkinnyParams& p = product.params;
      p.norm = std::nullopt;
      p.norm_out = nullptr;
      p.x_float = p.y_float = p.residual_float = p.gated = false;
      p.activation = std::nullopt;
      product.with_residual = product.in_place = false;
      product.draw(random);
      for (float bad :
           {0.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        const int row = m - 1;
        std::vector<float> x = product.x;
        std::vector<float> x_max(static_cast<size_t>(m));
        for (int j = 0; j < p.k; ++j) {
          float& v = x[row * p.ldx + j];
          v = bad == 0.0f ? 0.0f : j == 3 ? bad : v;
        }
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < p.k; ++j) x_max[i] = std::max(x_max[i], std::abs(x[i * p.ldx + j]));
        }
        if (bad != 0.0f) x_max[row] = bad;
        const DeviceTensor device_x(x, DType::kBF16);
        const DeviceTensor device_max(x_max, DType::kF32);
        const DeviceTensor y(m * p.ldy, DType::kBF16);
        const DeviceTensor y_max(std::vector<float>(static_cast<size_t>(m), 0.0f), DType::kF32);
        SkinnyParams launch = p;
        launch.x = device_x.data();
        launch.x_max = static_cast<const float*>(device_max.data());
        launch.y = y.data();
        launch.y_max = static_cast<float*>(y_max.data());
        launch_skinny(launch, nullptr);
        const std::vector<float> got = y.values();
        const std::vector<float> maxima = y_max.values();
        for (int i = 0; i < m; ++i) {
          float largest = 0;
          for (int j = 0; j < p.n; ++j) {
            const float v = got[i * p.ldy + j];
            largest = std::max(largest, std::abs(v));
            if (i != row) {
              EXPECT_NEAR(v, product.truth[i * p.n + j], 2e-2) << product.text();
            } else if (bad == 0.0f) {
              EXPECT_EQ(v, product.with_bias ? product.bias[j] : 0.0f) << product.text();
            } else {
              EXPECT_TRUE(std::isnan(v)) << product.text();
            }
          }
          if (i == row && bad != 0.0f) {
            EXPECT_TRUE(std::isnan(maxima[i])) << product.text();
          } else {
            EXPECT_EQ(maxima[i], largest) << product.text();
          }
        }
      }
    }
  }
}

// Products that quantise each other's output by the maxima that they raise, started before the previous one has ended: reading
// a maximum too early would give other codes than the same products with the device idle between them.
TEST(SkinnyCodes, DependentChainInAGraphEqualsOneByOne) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  constexpr int kLayers = 4;
  for (const Format& f : kFormats) {
    for (int m : {1, 4, 16, 64}) {
      const int d = 512;
      const int inner = 2048;
      std::vector<Product> up, down;
      for (int i = 0; i < kLayers; ++i) {
        for (bool first : {true, false}) {
          Product p;
          p.params.w_dtype = f.weights;
          p.params.input_dtype = f.inputs;
          p.params.m = m;
          p.params.n = first ? inner : d;
          p.params.k = first ? d : inner;
          p.draw(random);
          (first ? up : down).push_back(std::move(p));
        }
      }
      const DeviceTensor start(random.normal(int64_t{m} * d, DType::kBF16), DType::kBF16);
      DeviceTensor values(int64_t{m} * d, DType::kBF16);
      DeviceTensor hidden(int64_t{m} * inner, DType::kBF16);
      const std::vector<float> zeros(static_cast<size_t>(2 * kLayers + 1) * kSkinnyMaxRows, 0.0f);
      DeviceTensor maxima(zeros, DType::kF32);
      const auto run = [&](cudaStream_t s, bool dependent, const std::function<void()>& between) {
        TANDEM_CUDA_CHECK(cudaMemsetAsync(maxima.data(), 0, zeros.size() * 4, s));
        TANDEM_CUDA_CHECK(cudaMemcpyAsync(values.data(), start.data(), static_cast<size_t>(m) * d * 2,
                                          cudaMemcpyDeviceToDevice, s));
        float* max = static_cast<float*>(maxima.data());
        for (int i = 0; i < kLayers; ++i) {
          SkinnyParams a = up[i].params;
          a.x = values.data();
          a.y = hidden.data();
          a.activation = Activation::kRelu;
          a.dependent = dependent;
          // The first one has no kernel before it that raised a maximum: it has a norm.
          if (i == 0 && skinny_norm_supports(m, d)) {
            a.norm = Norm::kRms;
            a.gamma = up[i].device[4].data();
          }
          a.x_max = max + 2 * i * kSkinnyMaxRows;
          a.y_max = max + (2 * i + 1) * kSkinnyMaxRows;
          launch_skinny(a, s);
          between();
          SkinnyParams b = down[i].params;
          b.x = hidden.data();
          b.y = values.data();
          b.residual = values.data();
          b.dependent = dependent;
          b.x_max = a.y_max;
          b.y_max = max + (2 * i + 2) * kSkinnyMaxRows;
          launch_skinny(b, s);
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
        ASSERT_EQ(values.bytes(), want) << dtype_name(f.weights) << " m " << m << " replay " << replay;
      }
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Wrong arguments must be refused with the field's name before anything is launched; no device is needed for that.
TEST(SkinnyCodes, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[96];
  const SkinnyParams good{.w_dtype = DType::kI8,
                          .m = 1,
                          .n = 8,
                          .k = 32,
                          .x = memory,
                          .w = memory + 16,
                          .scales = memory + 64,
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
  expect_refused("w_dtype", [](auto& p) { p.w_dtype = DType::kU8; });
  expect_refused("dtype", [](auto& p) { p.dtype = DType::kF16; });
  expect_refused("k ", [](auto& p) { p.k = 24; });
  expect_refused("k ", [](auto& p) {
    p.w_dtype = DType::kI4;
    p.k = 48;
  });
  expect_refused("scales", [](auto& p) { p.scales = nullptr; });
  expect_refused("scales", [](auto& p) { p.w_dtype = std::nullopt; });
  expect_refused("input_dtype", [](auto& p) { p.w_dtype = DType::kF8; });
  expect_refused("input_dtype", [](auto& p) { p.input_dtype = DType::kF8; });
  expect_refused("input_dtype", [](auto& p) {
    p.w_dtype = DType::kI4;
    p.input_dtype = DType::kI8;
  });
  expect_refused("x_max", [](auto& p) {
    p.input_dtype = DType::kI8;
    p.m = 2;  // one row finds it itself
  });
  expect_refused("y_max", [](auto& p) {
    p.y_max = reinterpret_cast<float*>(memory + 80);
    p.y_float = true;
  });
  expect_refused("y_max", [](auto& p) {
    p.y_max = reinterpret_cast<float*>(memory + 80);
    p.w_dtype = std::nullopt;
    p.scales = nullptr;
  });
}

}  // namespace
}  // namespace tandem::kernels
