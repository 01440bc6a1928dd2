// Products with quantised weights, as their kernels and as double loops over the same codes compute them. More of wide kernels:
// wide_codes_test.cc.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/formats/codes_test.h"

namespace tandem::kernels {
namespace {

// The chosen config of every kind of size: rows of 1 to 64, odd n, k that ends inside a unit and inside a scale group, all
// epilogues and prologues. A scale of another row of x or of w would be a wrong number everywhere.
TEST(SkinnyCodes, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64};
  const std::pair<int, int> sizes[] = {{1, 16},      {5, 48},      {13, 96},    {33, 176},   {56, 272},
                                       {129, 528},   {512, 512},   {1000, 784}, {768, 2096}, {1024, 1024},
                                       {3072, 1024}, {1024, 4096}, {65, 16384}, {5003, 144}, {77, 32768}};
  for (const CodesFormat& f : kCodesFormats) {
    for (const auto& [n, k] : sizes) {
      for (int draw = 0; draw < 7; ++draw) {
        const int m = draw == 0 ? 1 : random.one_of(rows);
        if (!f.runs(m)) continue;
        Product product = random_codes(random, f, m, n, k);
        product.check(nullptr, product.text());
      }
    }
  }
}

// Every config that a table or a user may pick gives the same result: clusters that split k, one and several tiles a block, x that
// stays and x that passes.
TEST(SkinnyCodes, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  const std::pair<int, int> sizes[] = {{37, 80}, {152, 528}, {264, 1040}, {72, 8208}};
  for (const CodesFormat& f : kCodesFormats) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 2, 8, 13, 32, 64}) {
        if (!f.runs(m)) continue;
        Product product = random_codes(random, f, m, n, k);
        const auto configs = all_configs(product.problem(), card);
        ASSERT_FALSE(configs.empty()) << product.text();
        for (const SkinnyConfig& c : configs) {
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
  for (const CodesFormat& f : kCodesFormats) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 8, 64}) {
        if (!f.runs(m)) continue;
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
  for (const CodesFormat& f : kCodesFormats) {
    for (int m : {1, 3, 8, 40, 64}) {
      if (!f.runs(m)) continue;
      Product product = random_codes(random, f, m, 520, 2000);
      for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
        if (!f.x_codes && random.between(0, 7) != 0) continue;
        const auto first = product.check(&c, product.text() + " " + config_text(c));
        for (int run = 0; run < 3; ++run) {
          EXPECT_EQ(product.check(&c, product.text()), first) << product.text() << " " << config_text(c);
        }
      }
    }
  }
}

// Each code of each format against each place of k, alone: rows of x that are zero but for one element. A code that is another
// number to the kernel, or meets the x of another k, shows here as itself.
TEST(SkinnyCodes, EveryCodeIsItself) {
  TANDEM_NEEDS_DEVICE();
  for (const CodesFormat& f : kCodesFormats) {
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
    const DeviceTensor scales(std::vector<float>(static_cast<size_t>(n), 0.5f),
                              f.weights == DType::kI4 ? DType::kBF16 : DType::kF32);
    // The largest code of the type at scale 1, so that what is quantised stays itself.
    const float v = f.inputs == DType::kF8 ? 448.0f : f.inputs == DType::kI8 ? 127.0f : 1.5f;
    const uint8_t v_code = f.inputs == DType::kF8 ? 0x7e : 127;
    for (int m : {1, 8, 16, 64}) {
      if (!f.runs(m)) continue;
      const DeviceTensor x_scales(std::vector<float>(static_cast<size_t>(m), 1.0f), DType::kF32);
      for (const SkinnyConfig& c : all_configs(
               {.w_dtype = f.weights, .input_dtype = f.inputs, .m = m, .n = n, .k = k, .x_codes = f.x_codes},
               skinny_card())) {
        if (c.blocks_per_sm > 1 || c.cluster > 2) continue;
        for (int first = 0; first < k; first += m) {
          std::vector<float> x(static_cast<size_t>(m) * k, 0.0f);
          std::vector<uint8_t> x_codes(x.size(), 0);
          for (int i = 0; i < m && first + i < k; ++i) {
            x[i * k + first + i] = v;
            x_codes[i * k + first + i] = v_code;
          }
          const DeviceTensor device_x(x, DType::kBF16);
          const DeviceBuffer device_x_codes = DeviceBuffer::of(x_codes);
          const DeviceTensor y(static_cast<int64_t>(m) * n, DType::kF32);
          launch_skinny({.w_dtype = f.weights,
                         .m = m,
                         .n = n,
                         .k = k,
                         .x = f.x_codes ? device_x_codes.data() : device_x.data(),
                         .w = w.data(),
                         .scales = scales.data(),
                         .input_dtype = f.inputs,
                         .x_scales = f.x_codes ? static_cast<const float*>(x_scales.data()) : nullptr,
                         .y = y.data(),
                         .y_float = true,
                         .config = &c},
                        nullptr);
          const std::vector<float> got = y.values();
          for (int i = 0; i < m && first + i < k; ++i) {
            for (int row = 0; row < n; ++row) {
              ASSERT_EQ(got[i * n + row], want[row * k + first + i] * v * 0.5f)
                  << f.text() << " m " << m << " k " << first + i << " row " << row << " " << config_text(c);
            }
          }
        }
      }
    }
  }
}

// Rows of x that are all zero, or have a NaN or an infinity: as codes their scale is 0, or NaN. They give the bias alone, and NaN;
// their neighbours must not notice.
TEST(SkinnyCodes, RowsWithoutAScale) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const float infinity = std::numeric_limits<float>::infinity();
  for (const CodesFormat& f : kCodesFormats) {
    for (int m : {1, 5, 20}) {
      if (!f.inputs || !f.runs(m)) continue;
      Product product;
      product.params.w_dtype = product.params.input_dtype = f.weights;
      product.params.m = m;
      product.params.n = 72;
      product.params.k = 512;
      product.x_codes = f.x_codes;
      product.with_bias = true;
      product.draw(random);
      const SkinnyParams& p = product.params;
      for (float bad : {0.0f, std::numeric_limits<float>::quiet_NaN(), infinity}) {
        const int row = m - 1;
        std::vector<float> x = product.dense_x;
        for (int j = 0; j < p.k; ++j) {
          float& v = x[static_cast<size_t>(row) * p.k + j];
          v = bad == 0.0f ? 0.0f : j == 3 ? bad : v;
        }
        const QuantisedRows rows(x, p.k, f.weights);
        ASSERT_TRUE(bad == 0.0f ? rows.scales[row] == 0.0f : std::isnan(rows.scales[row]));
        const DeviceTensor device_x(x, DType::kBF16);
        const DeviceBuffer codes = DeviceBuffer::of(rows.codes);
        const DeviceTensor scales(rows.scales, DType::kF32);
        const DeviceTensor y(m * p.ldy, DType::kBF16);
        SkinnyParams launch = p;
        launch.x = f.x_codes ? codes.data() : device_x.data();
        launch.ldx = 0;
        if (f.x_codes) launch.x_scales = static_cast<const float*>(scales.data());
        launch.y = y.data();
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
      }
    }
  }
}

// Products of each other's output, started before the previous one has ended: reading x too early would give other bits than the
// same products with the device idle between them.
TEST(SkinnyCodes, DependentChainInAGraphEqualsOneByOne) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  constexpr int kLayers = 4;
  for (const CodesFormat& f : kCodesFormats) {
    for (int m : {1, 4, 16, 64}) {
      if (f.x_codes || !f.runs(m)) continue;  // of codes: wide_codes_test.cc
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
      const auto run = [&](cudaStream_t s, bool dependent, const std::function<void()>& between) {
        TANDEM_CUDA_CHECK(cudaMemcpyAsync(values.data(), start.data(), static_cast<size_t>(m) * d * 2,
                                          cudaMemcpyDeviceToDevice, s));
        for (int i = 0; i < kLayers; ++i) {
          SkinnyParams a = up[i].params;
          a.x = values.data();
          a.y = hidden.data();
          a.activation = Activation::kRelu;
          a.dependent = dependent;
          if (i == 0 && skinny_norm_supports(m, d)) {
            a.norm = Norm::kRms;
            a.gamma = up[i].device[4].data();
          }
          launch_skinny(a, s);
          between();
          SkinnyParams b = down[i].params;
          b.x = hidden.data();
          b.y = values.data();
          b.residual = values.data();
          b.dependent = dependent;
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
  alignas(16) static unsigned char memory[80];
  const SkinnyParams good{.w_dtype = DType::kI8,
                          .m = 1,
                          .n = 8,
                          .k = 32,
                          .x = memory,
                          .w = memory + 16,
                          .scales = memory + 64,
                          .y = memory + 32};
  const auto refused = [&](const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    expect_refused(field, [&] { launch_skinny(p, nullptr); });
  };
  refused("w_dtype", [](auto& p) { p.w_dtype = DType::kU8; });
  refused("dtype", [](auto& p) { p.dtype = DType::kF16; });
  refused("k ", [](auto& p) { p.k = 24; });
  refused("k ", [](auto& p) {
    p.w_dtype = DType::kI4;
    p.k = 48;
  });
  refused("scales", [](auto& p) { p.scales = nullptr; });
  refused("scales", [](auto& p) { p.w_dtype = std::nullopt; });
  refused("input_dtype", [](auto& p) { p.w_dtype = DType::kF8; });
  refused("input_dtype", [](auto& p) { p.input_dtype = DType::kF8; });
  refused("input_dtype", [](auto& p) {
    p.w_dtype = DType::kI4;
    p.input_dtype = DType::kI8;
  });
  refused("x_scales", [](auto& p) {
    p.input_dtype = DType::kI8;
    p.m = 2;  // one row is quantised by the kernel
  });
}

}  // namespace
}  // namespace tandem::kernels
