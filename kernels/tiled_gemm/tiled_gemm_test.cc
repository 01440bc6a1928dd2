#include "kernels/tiled_gemm/tiled_gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/activation/activation_test_util.h"
#include "kernels/common/arch.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_test.h"
#include "kernels/gemm/operands.h"

namespace tandem::kernels {
namespace {

#define TANDEM_NEEDS_SM90A() \
  TANDEM_NEEDS_DEVICE();     \
  if (!current_arch().sm90a) GTEST_SKIP() << "needs sm_90a"

std::string text(const TiledGemmParams& p) {
  return std::string(dtype_name(p.dtype)) + " " + std::to_string(p.m) + " x " + std::to_string(p.n) + " x " +
         std::to_string(p.k) + (p.activation ? " " + std::string(activation_name(*p.activation)) : "") +
         " band " + std::to_string(p.band);
}

struct Extras {
  bool bias = false;
  bool residual = false;
  bool in_place = false;  ///< the residual is y
};

/// Every output of a small product, or 4000 sampled ones and all of the last row and column of a large one, against sums in double;
/// the columns between y's rows stay as they were.
void check_product(TiledGemmParams p, const Extras& with, RandomValues& random) {
  const int64_t ldx = p.ldx == 0 ? p.k : p.ldx;
  const int64_t ldy = p.ldy == 0 ? p.n : p.ldy;
  const int64_t width = p.gated ? 2 * p.n : p.n;
  const auto x = random.normal(p.m * ldx, p.dtype);
  const auto w = random.normal(width * p.k, p.dtype, 0, 1 / std::sqrt(static_cast<float>(p.k)));
  const auto bias = random.normal(width, p.dtype);
  auto residual = random.normal(with.residual ? p.m * ldy : 0, p.dtype);
  for (int64_t row = 0; with.residual && row < p.m; ++row)
    for (int64_t column = p.n; column < ldy; ++column)
      residual[static_cast<size_t>(row * ldy + column)] = std::numeric_limits<float>::quiet_NaN();
  const DeviceTensor device_x(x, p.dtype), device_w(w, p.dtype), device_bias(bias, p.dtype);
  const DeviceTensor device_residual(residual, p.dtype);
  const DeviceTensor own_y(p.m * ldy, p.dtype);
  const DeviceTensor& y = with.in_place ? device_residual : own_y;
  p.x = device_x.data();
  p.w = device_w.data();
  p.bias = with.bias ? device_bias.data() : nullptr;
  p.residual = with.residual ? device_residual.data() : nullptr;
  p.ld_residual = with.residual ? ldy : 0;
  p.y = y.data();
  launch_tiled_gemm(p, nullptr);
  const std::vector<float> got = y.values();

  // What fp32 may lose of a sum.
  const double slack = 2e-6 * std::sqrt(static_cast<double>(p.k));
  /// The sum rounded to the type, and the neighbours that such an error may make of it.
  const auto product = [&](int64_t row, int64_t column) {
    double sum = 0;
    for (int64_t i = 0; i < p.k; ++i)
      sum += double{x[static_cast<size_t>(row * ldx + i)]} * w[static_cast<size_t>(column * p.k + i)];
    return std::array{double{rounded(static_cast<float>(sum), p.dtype)},
                      double{rounded(static_cast<float>(sum - slack), p.dtype)},
                      double{rounded(static_cast<float>(sum + slack), p.dtype)}};
  };
  const auto biased = [&](double sum, int64_t column) {
    return sum + (with.bias ? bias[static_cast<size_t>(column)] : 0.0);
  };
  std::vector<std::array<int64_t, 2>> places;
  if (p.m * width * p.k <= 40'000'000) {
    for (int64_t row = 0; row < p.m; ++row)
      for (int64_t column = 0; column < p.n; ++column) places.push_back({row, column});
  } else {
    for (int64_t column = 0; column < p.n; ++column) places.push_back({p.m - 1, column});
    for (int64_t row = 0; row < p.m; row += 7) places.push_back({row, p.n - 1});
    for (int i = 0; i < 4000; ++i) places.push_back({random.between(0, p.m - 1), random.between(0, p.n - 1)});
  }
  std::vector<float> checked(places.size());
  std::vector<double> want(places.size());
#pragma omp parallel for
  for (size_t i = 0; i < places.size(); ++i) {
    const auto [row, column] = places[i];
    const float own = got[static_cast<size_t>(row * ldy + column)];
    double nearest = std::numeric_limits<double>::infinity();
    const auto other = p.gated ? product(row, p.n + column) : std::array{1.0, 1.0, 1.0};
    for (const double sum : product(row, column)) {
      for (const double up : other) {
        double v = biased(sum, column);
        if (p.activation) v = truth(*p.activation, v);
        if (p.gated) v *= biased(up, p.n + column);
        if (with.residual) v += residual[static_cast<size_t>(row * ldy + column)];
        if (!(std::abs(own - nearest) <= std::abs(own - v))) nearest = v;
      }
    }
    checked[i] = own;
    want[i] = nearest;
  }
  // The last rounding, an activation in fp32, and sums that are finer than the error of theirs; the other factor is up to 6 when
  // gated.
  expect_near(checked, want, 0.51 * epsilon(p.dtype), (p.gated ? 6 : 1) * (2 * slack + 4e-6), text(p));
  for (int64_t row = 0; row < p.m; ++row) {
    for (int64_t column = p.n; column < ldy; ++column) {
      if (!std::isnan(got[static_cast<size_t>(row * ldy + column)])) {
        ADD_FAILURE() << text(p) << ": written between the rows";
        return;
      }
    }
  }
}

// Without it: a tile, its edges, the ring's parities or a cluster's shared copies are wrong at some size.
TEST(TiledGemm, Shapes) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (int64_t m : {1, 127, 129, 513}) {
    for (int64_t n : {8, 264, 1000}) {
      for (int64_t k : {8, 64, 320, 1024}) {
        check_product({.m = m, .n = n, .k = k}, {.bias = k != 64}, random);
      }
    }
  }
  check_product({.m = 8191, .n = 1000, .k = 1024}, {.bias = true}, random);
  check_product({.dtype = DType::kF16, .m = 513, .n = 4096, .k = 4096}, {.bias = true}, random);
  check_product({.m = 40000, .n = 1032, .k = 136}, {.bias = true}, random);
  check_product({.m = 9000, .n = 2056, .k = 64}, {.bias = true}, random);
}

// Without it: how the work is cut changes the result, or hangs.
TEST(TiledGemm, Bands) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (int band : {1, 3, 64}) {
    check_product(
        {.dtype = band == 3 ? DType::kF16 : DType::kBF16, .m = 2500, .n = 3000, .k = 192, .band = band},
        {.bias = true}, random);
  }
}

// Without it: one activation is another, or its bias is missing, in one type.
TEST(TiledGemm, Activations) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (Activation a : kActivations) {
      for (bool bias : {false, true}) {
        for (bool gated : {false, true}) {
          check_product({.dtype = dtype, .m = 300, .n = 520, .k = 128, .activation = a, .gated = gated},
                        {.bias = bias}, random);
        }
      }
    }
  }
}

// Without it: a residual of another strip, row or tile is added, one that is y itself is read after it was written, or a tile's
// second half comes before the first has left.
TEST(TiledGemm, Residuals) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (bool in_place : {false, true}) {
    const Extras with{.bias = true, .residual = true, .in_place = in_place};
    for (int64_t n : {8, 136, 264, 1000}) check_product({.m = 333, .n = n, .k = 72}, with, random);
    check_product({.m = 20000, .n = 1024, .k = 64}, with, random);
    check_product({.dtype = DType::kF16, .m = 1000, .n = 520, .k = 512, .activation = Activation::kSilu},
                  with, random);
  }
}

// Without it: gate and up rows are mixed up at the edges, or among several tiles of a block.
TEST(TiledGemm, Gated) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (int64_t n : {8, 120, 136, 1000}) {
    check_product({.m = 333, .n = n, .k = 200, .activation = Activation::kGeluTanh, .gated = true},
                  {.bias = n != 120}, random);
  }
  check_product(
      {.dtype = DType::kF16, .m = 9000, .n = 1032, .k = 512, .activation = Activation::kGelu, .gated = true},
      {}, random);
}

// Without it: rows that are not next to each other are read or written as if they were.
TEST(TiledGemm, Strides) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  for (int i = 0; i < 40; ++i) {
    TiledGemmParams p{.dtype = random.coin() ? DType::kBF16 : DType::kF16,
                      .m = random.between(1, 700),
                      .n = 8 * random.between(1, 80),
                      .k = 8 * random.between(1, 60)};
    p.ldx = p.k + 8 * random.between(0, 3);
    p.ldy = p.n + 8 * random.between(0, 3);
    p.band = static_cast<int>(random.between(1, 9));
    if (random.coin()) p.activation = random.one_of(kActivations);
    p.gated = p.activation && random.coin();
    check_product(p, {.bias = random.coin(), .residual = !p.gated && random.coin()}, random);
  }
}

/// Operands on the device that are large enough for every block to have several tiles.
struct Large {
  static constexpr int64_t kM = 8192, kN = 4096, kK = 1024;
  DeviceBuffer x, w, bias;
  Large() {
    x = DeviceBuffer(2 * kM * kK);
    w = DeviceBuffer(2 * kN * kK);
    bias = DeviceBuffer(2 * kN);
    launch_random_fill({.out = x.data(), .count = kM * kK, .key = test_seed()}, nullptr);
    launch_random_fill({.out = w.data(), .count = kN * kK, .key = test_seed() + 1, .scale = 0.05f}, nullptr);
    launch_random_fill({.out = bias.data(), .count = kN, .key = test_seed() + 2}, nullptr);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  }
  TiledGemmParams params(void* y) const {
    return {.m = kM, .n = kN, .k = kK, .x = x.data(), .w = w.data(), .bias = bias.data(), .y = y};
  }
};

// Without it: a rare race goes unseen. All of a large product against the library's, and the same bits twice and in every
// cut.
TEST(TiledGemm, LargeAgainstTheLibraryAndItself) {
  TANDEM_NEEDS_SM90A();
  const Large large;
  const Stream stream;
  const CublasLt library;
  const GemmProblem problem{.m = Large::kM, .n = Large::kN, .k = Large::kK};
  const DeviceTensor theirs(Large::kM * Large::kN, DType::kBF16);
  DeviceBuffer workspace(kGemmWorkspaceBytes);
  Gemm gemm(library, problem, suggested(library, problem));
  gemm.run({.x = large.x.data(),
            .w = large.w.data(),
            .y = theirs.data(),
            .workspace = workspace.data(),
            .workspace_bytes = workspace.bytes()},
           stream.get());
  stream.wait();
  const std::vector<float> other = theirs.values();
  const std::vector<double> want(other.begin(), other.end());

  const DeviceTensor plain(Large::kM * Large::kN, DType::kBF16);
  TiledGemmParams bare = large.params(plain.data());
  bare.bias = nullptr;
  launch_tiled_gemm(bare, stream.get());
  stream.wait();
  expect_near(plain.values(), want, 1.01 * epsilon(DType::kBF16), 1e-4, text(bare));

  std::vector<uint8_t> first;
  for (int band : {4, 4, 1, 3, 16}) {
    const DeviceTensor y(Large::kM * Large::kN, DType::kBF16);
    TiledGemmParams p = large.params(y.data());
    p.activation = Activation::kGelu;
    p.band = band;
    launch_tiled_gemm(p, stream.get());
    stream.wait();
    if (first.empty()) first = y.bytes();
    EXPECT_TRUE(y.bytes() == first) << text(p) << ": other bits";
  }
}

// Without it: a dependent launch reads before the kernel ahead of it has written, or writes what that one still reads.
TEST(TiledGemm, DependentChainEqualsPlainChain) {
  TANDEM_NEEDS_SM90A();
  RandomValues random(test_seed());
  constexpr int64_t kRows = 3000, kWidth = 512;
  const auto start = random.normal(kRows * kWidth, DType::kBF16);
  const DeviceTensor w(random.normal(kWidth * kWidth, DType::kBF16, 0, 0.06f), DType::kBF16);
  std::vector<uint8_t> results[2];
  for (bool dependent : {false, true}) {
    const Stream stream;
    const DeviceTensor a(start, DType::kBF16);
    const DeviceTensor b(kRows * kWidth, DType::kBF16);
    TimedGraph graph(stream.get(), [&](cudaStream_t s) {
      for (int i = 0; i < 20; ++i) {
        launch_tiled_gemm({.m = kRows,
                           .n = kWidth,
                           .k = kWidth,
                           .x = i % 2 == 0 ? a.data() : b.data(),
                           .w = w.data(),
                           .y = i % 2 == 0 ? b.data() : a.data(),
                           .activation = Activation::kGelu,
                           .dependent = dependent},
                          s);
      }
    });
    graph.launch();
    stream.wait();
    results[dependent ? 1 : 0] = a.bytes();
  }
  EXPECT_TRUE(results[0] == results[1]);
}

// Without it: a NaN of x, w or the bias is hidden by an activation or by a tile's zeros, or reaches another row or column.
TEST(TiledGemm, NaNsStayWhereTheyBelong) {
  TANDEM_NEEDS_SM90A();
  constexpr int64_t kM = 200, kN = 264, kK = 72;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::optional<Activation> a :
       {std::optional<Activation>{}, std::optional(Activation::kRelu), std::optional(Activation::kGelu)}) {
    std::vector<float> x(kM * kK, 1.0f), w(kN * kK, 1.0f), bias(kN, 0.0f);
    x[131 * kK + 71] = nan;
    w[260 * kK] = nan;
    bias[7] = nan;
    const DeviceTensor dx(x, DType::kBF16), dw(w, DType::kBF16), dbias(bias, DType::kBF16);
    const DeviceTensor y(kM * kN, DType::kBF16);
    launch_tiled_gemm({.m = kM,
                       .n = kN,
                       .k = kK,
                       .x = dx.data(),
                       .w = dw.data(),
                       .bias = dbias.data(),
                       .y = y.data(),
                       .activation = a},
                      nullptr);
    const std::vector<float> got = y.values();
    for (int64_t row = 0; row < kM; ++row) {
      for (int64_t column = 0; column < kN; ++column) {
        const float v = got[static_cast<size_t>(row * kN + column)];
        const bool is_nan = row == 131 || column == 260 || column == 7;
        ASSERT_EQ(std::isnan(v), is_nan) << row << ", " << column << ": " << v;
        if (!is_nan) {
          ASSERT_EQ(v, static_cast<float>(kK)) << row << ", " << column;
        }
      }
    }
  }
}

// Without it: wrong parameters reach the device, where the copy engine faults.
TEST(TiledGemm, RefusesWrongParameters) {
  alignas(16) static char memory[64];
  const TiledGemmParams good{.m = 1, .n = 8, .k = 8, .x = memory, .w = memory, .y = memory};
  const auto refused = [&](auto change) {
    TiledGemmParams p = good;
    change(p);
    EXPECT_THROW(launch_tiled_gemm(p, nullptr), UsageError);
  };
  refused([](TiledGemmParams& p) { p.dtype = DType::kF32; });
  refused([](TiledGemmParams& p) { p.m = 0; });
  refused([](TiledGemmParams& p) { p.n = 12; });
  refused([](TiledGemmParams& p) { p.k = 4; });
  refused([](TiledGemmParams& p) { p.ldx = 4; });
  refused([](TiledGemmParams& p) { p.ldy = 20; });
  refused([](TiledGemmParams& p) { p.x = nullptr; });
  refused([](TiledGemmParams& p) { p.bias = memory + 2; });
  refused([](TiledGemmParams& p) { p.residual = memory + 8; });
  refused([](TiledGemmParams& p) { p.gated = true; });
  refused([](TiledGemmParams& p) { p.band = 0; });
  refused([](TiledGemmParams& p) { p.m = p.n = 1 << 30; });
}

}  // namespace
}  // namespace tandem::kernels
