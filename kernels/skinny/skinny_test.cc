#include "kernels/skinny/skinny.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/choose/skinny_plan.h"

namespace tandem::kernels {
namespace {

double tolerance(DType t) {
  return t == DType::kF32 ? 1e-5 : t == DType::kF16 ? 4e-3 : 1.5e-2;
}

double activated(std::optional<Activation> activation, double v) {
  if (!activation.has_value()) return v;
  switch (*activation) {
    case Activation::kRelu:
      return v > 0 ? v : 0;
    case Activation::kGelu:
      return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kTanh:
      return std::tanh(v);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-v));
  }
  return NAN;
}

/// ||got - want|| / ||want||, 0 for zeros that are zeros (a relu of few columns); NaN if any value is NaN.
double relative_l2(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

/// A product with everything it may have, its operands on host and device, and the truth in double.
struct Product {
  SkinnyParams params;
  bool with_bias = false;
  bool with_residual = false;
  bool in_place = false;
  int pad = 0;  // elements between rows of x, residual and y

  std::vector<float> x, w, bias, residual, gamma, beta;
  std::vector<double> truth;   // [m, n]
  std::vector<double> normed;  // [m, k]
  std::vector<DeviceTensor> device;

  DType x_type() const { return params.x_float ? DType::kF32 : params.dtype; }
  DType residual_type() const { return params.residual_float ? DType::kF32 : params.dtype; }
  DType y_type() const { return params.y_float ? DType::kF32 : params.dtype; }
  int w_rows() const { return params.gated ? 2 * params.n : params.n; }
  SkinnyProblem problem() const {
    return {.dtype = params.dtype,
            .m = params.m,
            .n = params.n,
            .k = params.k,
            .gated = params.gated,
            .norm = params.norm.has_value()};
  }
  std::string text() const {
    const SkinnyParams& p = params;
    const std::string norm = !p.norm ? "" : *p.norm == Norm::kLayer ? " layer" : " rms";
    const std::string_view activation = p.activation ? activation_name(*p.activation) : "linear";
    return fmt::format("{} m {} n {} k {}{}{} {}{}{}{}{}{} pad {}", dtype_name(p.dtype), p.m, p.n, p.k, norm,
                       p.x_float ? " x_float" : "", activation, p.gated ? " gated" : "",
                       with_bias ? " bias" : "", with_residual ? (in_place ? " in place" : " residual") : "",
                       p.residual_float ? " (float)" : "", p.y_float ? " y_float" : "", pad);
  }

  void draw(RandomValues& random) {
    SkinnyParams& p = params;
    if (in_place) p.residual_float = p.y_float;
    p.ldx = p.k + 8 * pad;
    p.ldy = p.ld_residual = p.n + pad;
    x = random.normal(p.m * p.ldx, x_type(), p.norm ? 1.5f : 0.0f, p.norm ? 2.0f : 1.0f);
    w = random.normal(static_cast<int64_t>(w_rows()) * p.k, p.dtype, 0,
                      1 / std::sqrt(static_cast<float>(p.k)));
    bias = random.normal(w_rows(), p.dtype, 0, 0.5f);
    residual = random.normal(p.m * p.ld_residual, residual_type());
    gamma = random.normal(p.k, p.dtype, 1, 0.2f);
    beta = random.normal(p.k, p.dtype, 0, 0.2f);

    normed.resize(static_cast<size_t>(p.m) * p.k);
    for (int i = 0; i < p.m; ++i) {
      const float* row = &x[i * p.ldx];
      double mean = 0;
      double squares = 0;
      for (int j = 0; j < p.k; ++j) mean += row[j];
      mean = p.norm == Norm::kLayer ? mean / p.k : 0;
      for (int j = 0; j < p.k; ++j) squares += (row[j] - mean) * (row[j] - mean);
      const double scale = 1 / std::sqrt(squares / p.k + p.eps);
      for (int j = 0; j < p.k; ++j) {
        normed[i * p.k + j] =
            p.norm ? (row[j] - mean) * scale * gamma[j] + (p.beta != nullptr ? beta[j] : 0) : row[j];
      }
    }
    truth.assign(static_cast<size_t>(p.m) * p.n, 0);
    auto dot = [&](int i, int64_t row) {
      double sum = with_bias ? bias[row] : 0;
      for (int j = 0; j < p.k; ++j) sum += normed[i * p.k + j] * w[row * p.k + j];
      return sum;
    };
#pragma omp parallel for schedule(static)
    for (int n = 0; n < p.n; ++n) {
      for (int i = 0; i < p.m; ++i) {
        double v = activated(p.activation, dot(i, n));
        if (p.gated) v *= dot(i, static_cast<int64_t>(n) + p.n);
        truth[i * p.n + n] = v + (with_residual ? residual[i * p.ld_residual + n] : 0);
      }
    }
    device.clear();
    device.emplace_back(x, x_type());
    device.emplace_back(w, p.dtype);
    device.emplace_back(bias, p.dtype);
    device.emplace_back(residual, residual_type());
    device.emplace_back(gamma, p.dtype);
    device.emplace_back(beta, p.dtype);
    p.x = device[0].data();
    p.w = device[1].data();
    p.bias = with_bias ? device[2].data() : nullptr;
    p.residual = with_residual ? device[3].data() : nullptr;
    p.gamma = p.norm ? device[4].data() : nullptr;
    if (p.beta != nullptr) p.beta = device[5].data();
  }

  /// Runs with `config` (null: the chosen one) into fresh poisoned buffers and compares. Returns the bytes of y.
  std::vector<uint8_t> check(const SkinnyConfig* config, const std::string& what) {
    SkinnyParams p = params;
    const DeviceTensor y = in_place ? DeviceTensor(residual, y_type()) : DeviceTensor(p.m * p.ldy, y_type());
    const DeviceTensor norm_out(static_cast<int64_t>(p.m) * p.k, p.dtype);
    p.y = y.data();
    if (in_place) p.residual = y.data();
    if (p.norm_out != nullptr) p.norm_out = norm_out.data();
    p.config = config;
    launch_skinny(p, nullptr);
    const std::vector<float> all = y.values();
    std::vector<float> got;
    for (int i = 0; i < p.m; ++i) got.insert(got.end(), &all[i * p.ldy], &all[i * p.ldy] + p.n);
    EXPECT_LE(relative_l2(got, truth), tolerance(p.dtype)) << what;
    for (int i = 0; i < p.m; ++i) {  // between the rows nothing may change
      for (int64_t j = p.n; j < p.ldy; ++j) {
        const float before = in_place ? residual[i * p.ldy + j] : NAN;
        const float after = all[i * p.ldy + j];
        EXPECT_TRUE(after == before || (std::isnan(after) && std::isnan(before)))
            << what << ": wrote past row " << i;
      }
    }
    if (p.norm_out != nullptr) {
      EXPECT_LE(relative_l2(norm_out.values(), normed), tolerance(p.dtype)) << what << ": norm_out";
    }
    return y.bytes();
  }
};

/// Random features for given sizes.
Product random_product(RandomValues& random, DType dtype, int m, int n, int k) {
  static constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh,
                                        Activation::kSilu, Activation::kTanh, Activation::kSigmoid};
  static const int kThere = 0;  // any address: draw() replaces it
  Product product;
  SkinnyParams& p = product.params;
  p.dtype = dtype;
  p.m = m;
  p.n = n;
  p.k = k;
  p.gated = random.between(0, 3) == 0;
  if (p.gated || random.coin()) p.activation = random.one_of(kAll);
  if (skinny_norm_supports(m, k) && random.coin()) {
    p.norm = random.coin() ? Norm::kLayer : Norm::kRms;
    p.beta = random.coin() ? &kThere : nullptr;
    p.norm_out = random.coin() ? const_cast<int*>(&kThere) : nullptr;
    p.x_float = random.coin();
  }
  p.y_float = random.coin();
  product.with_bias = random.coin();
  product.with_residual = random.coin();
  product.in_place = product.with_residual && random.coin();
  p.residual_float = product.with_residual && random.coin();
  product.pad = static_cast<int>(random.between(0, 2));
  product.draw(random);
  return product;
}

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
  expect_refused("dtype", [](auto& p) { p.dtype = DType::kI8; });
  expect_refused("m ", [](auto& p) { p.m = 65; });
  expect_refused("n ", [](auto& p) { p.n = 0; });
  expect_refused("k ", [](auto& p) { p.k = 12; });
  expect_refused("x ", [](auto& p) { p.x = memory + 2; });
  expect_refused("ldx", [](auto& p) { p.ldx = 12; });
  expect_refused("w ", [](auto& p) { p.w = nullptr; });
  expect_refused("y ", [](auto& p) { p.y = nullptr; });
  expect_refused("y ", [](auto& p) { p.y = const_cast<void*>(p.x); });
  expect_refused("x_float", [](auto& p) { p.x_float = true; });
  expect_refused("gamma", [](auto& p) { p.norm = Norm::kRms; });
  expect_refused("activation", [](auto& p) { p.gated = true; });
  expect_refused("norm_out", [](auto& p) { p.norm_out = memory + 48; });
  expect_refused("residual", [](auto& p) {
    p.residual = p.y;
    p.y_float = true;
  });
  expect_refused("norm", [](auto& p) {
    p.norm = Norm::kLayer;
    p.gamma = memory;
    p.m = 64;
    p.k = 1024;
  });
}

}  // namespace
}  // namespace tandem::kernels
