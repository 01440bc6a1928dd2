#include "kernels/norm/norm.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/codes.h"
#include "kernels/common/codes_test_util.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

/// Where a result goes: a buffer of its own, or that of an input.
enum class Place : uint8_t { kOwn, kX, kResidual };

/// One call of launch_norm: what is there, what shares a buffer, and how far from aligned everything is.
struct NormCase {
  NormParams params;
  bool with_bias = false;
  bool with_beta = true;
  bool with_residual = false;
  bool with_sum = false;
  Place sum = Place::kOwn;
  Place y = Place::kOwn;
  int64_t shift = 0;
  float mean = 0.5f;
};

std::string text(const NormCase& c) {
  const NormParams& p = c.params;
  std::string s = std::string(dtype_name(p.dtype)) + " x " + std::string(dtype_name(p.x_dtype)) + " stream " +
                  std::string(dtype_name(p.stream_dtype)) + (p.norm == Norm::kRms ? " rms " : " layer ") +
                  std::to_string(p.rows) + " x " + std::to_string(p.d) + " shift " + std::to_string(c.shift);
  if (c.with_bias) s += " bias";
  if (c.with_residual) s += " residual";
  const auto place = [](Place at) { return at == Place::kOwn ? "" : at == Place::kX ? "=x" : "=residual"; };
  if (c.with_sum) s += std::string(" sum") + place(c.sum);
  s += std::string(" y") + place(c.y);
  return s;
}

void check_norm(const NormCase& c, RandomValues& random) {
  NormParams p = c.params;
  const int64_t count = p.rows * p.d;
  const auto x = random.normal(count, p.x_dtype, c.mean, 1);
  const auto residual = random.normal(count, p.stream_dtype, -0.25f, 2);
  const auto bias = random.normal(p.d, p.dtype);
  const auto gamma = random.normal(p.d, p.dtype, 1, 0.2f);
  const auto beta = random.normal(p.d, p.dtype);

  std::vector<double> sum(x.size());
  std::vector<double> y(x.size());
  for (int64_t r = 0; r < p.rows; ++r) {
    double total = 0;
    for (int64_t i = r * p.d; i < (r + 1) * p.d; ++i) {
      sum[i] = x[i];
      if (c.with_bias) sum[i] += bias[i - r * p.d];
      if (c.with_residual) sum[i] += residual[i];
      total += sum[i];
    }
    const double mean = p.norm == Norm::kLayer ? total / p.d : 0;
    double squares = 0;
    for (int64_t i = r * p.d; i < (r + 1) * p.d; ++i) squares += (sum[i] - mean) * (sum[i] - mean);
    const double scale = 1 / std::sqrt(squares / p.d + p.eps);
    for (int64_t j = 0; j < p.d; ++j) {
      y[r * p.d + j] = (sum[r * p.d + j] - mean) * scale * gamma[j] + (c.with_beta ? beta[j] : 0);
    }
  }

  const DeviceTensor device_x(x, p.x_dtype, c.shift);
  const DeviceTensor device_residual(residual, p.stream_dtype, c.shift);
  const DeviceTensor device_bias(bias, p.dtype, c.shift);
  const DeviceTensor device_gamma(gamma, p.dtype, c.shift);
  const DeviceTensor device_beta(beta, p.dtype, c.shift);
  const DeviceTensor device_sum(count, p.stream_dtype, c.shift);
  const DeviceTensor device_y(count, p.dtype, c.shift);
  p.x = device_x.data();
  p.bias = c.with_bias ? device_bias.data() : nullptr;
  p.residual = c.with_residual ? device_residual.data() : nullptr;
  const auto placed = [&](Place at, const DeviceTensor& own) -> const DeviceTensor& {
    return at == Place::kOwn ? own : at == Place::kX ? device_x : device_residual;
  };
  const DeviceTensor& to_sum = placed(c.sum, device_sum);
  const DeviceTensor& to_y = placed(c.y, device_y);
  if (c.with_sum) p.sum = to_sum.data();
  p.gamma = device_gamma.data();
  p.beta = c.with_beta ? device_beta.data() : nullptr;
  p.y = to_y.data();
  launch_norm(p, nullptr);

  const auto got = to_y.values();
  // Half a unit in the last place for the rounding to dtype, and what fp32 loses on the way.
  expect_near(got, y, 0.51 * epsilon(p.dtype), 3e-6 * (1 + std::abs(c.mean)), text(c) + ": y");
  if (c.with_sum) {
    expect_near(to_sum.values(), sum, 0.51 * epsilon(p.stream_dtype), 2e-6, text(c) + ": sum");
  }
  const auto expect_kept = [&](Place place, const DeviceTensor& tensor, const std::vector<float>& values) {
    if (c.y == place || (c.with_sum && c.sum == place)) return;
    expect_near(tensor.values(), {values.begin(), values.end()}, 0, 0, text(c) + ": an input must stay");
  };
  expect_kept(Place::kX, device_x, x);
  expect_kept(Place::kResidual, device_residual, residual);
}

// Without it: a wrong column tail, a wrong reduction, or one layout's kernel being wrong, at the widths that
// models have and at odd ones, in each of the kernel's forms (warp a row, block a row, unaligned).
TEST(Norm, EveryFormMatchesDouble) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  struct Shape {
    int64_t rows;
    int d;
  };
  const Shape shapes[] = {{1, 512},     {1, 1024},    {3, 8},       {5, 7},       {64, 1024},  {2, 768},
                          {1, 1},       {17, 129},    {2, 4096},    {2, 8192},    {1, 16384},  {1, 36000},
                          {3, 1000},    {2048, 64},   {2049, 512},  {2050, 520},  {2051, 768}, {2048, 1024},
                          {2053, 1536}, {2048, 2048}, {2049, 4096}, {2048, 5120}, {2047, 1024}};
  for (const Shape& shape : shapes) {
    for (DType dtype : kFloatTypes) {
      for (Norm norm : {Norm::kLayer, Norm::kRms}) {
        NormCase c;
        c.params = {.dtype = dtype,
                    .x_dtype = dtype,
                    .stream_dtype = dtype,
                    .norm = norm,
                    .rows = shape.rows,
                    .d = shape.d,
                    .eps = 1e-5f};
        c.with_beta = norm == Norm::kLayer;
        c.with_residual = true;
        c.with_sum = true;
        check_norm(c, random);
      }
    }
  }
}

// Without it: a combination of optional inputs, shared buffers, mixed types or misaligned pointers reads or
// writes the wrong place.
TEST(Norm, RandomCombinations) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 300; ++i) {
    NormCase c;
    NormParams& p = c.params;
    p.dtype = random.one_of(kFloatTypes);
    p.x_dtype = random.coin() ? p.dtype : DType::kF32;
    p.stream_dtype = random.coin() ? p.dtype : DType::kF32;
    p.norm = random.coin() ? Norm::kLayer : Norm::kRms;
    p.rows = random.between(1, 40);
    p.d = static_cast<int>(random.coin() ? 8 * random.between(1, 300) : random.between(1, 2100));
    p.eps = random.coin() ? 1e-5f : 1e-6f;
    c.with_bias = random.coin();
    c.with_beta = random.coin();
    c.with_residual = random.coin();
    c.with_sum = random.coin();
    if (c.with_sum && c.with_residual && random.coin()) c.sum = Place::kResidual;
    if (p.x_dtype == p.dtype && random.coin()) c.y = Place::kX;
    c.shift = random.coin() ? 0 : random.between(1, 9);
    check_norm(c, random);
  }
}

// Without it: a stream that a norm leaves for the next sublayer, in place or not and wider than the norm's own type or not,
// is wrong in one of the kernel's forms; the plan allows all of these places.
TEST(Norm, SumForALaterResidual) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const auto& [rows, d] : {std::pair{1, 512}, {5, 1024}, {3, 7}, {2048, 1024}, {2049, 5120}}) {
    for (const DType dtype : kFloatTypes) {
      for (const DType stream : {dtype, DType::kF32}) {
        for (const Place sum : {Place::kOwn, Place::kX, Place::kResidual}) {
          for (const Place y : {Place::kOwn, Place::kX, Place::kResidual}) {
            if (sum == y && y != Place::kOwn) continue;
            NormCase c;
            c.params = {.dtype = dtype, .x_dtype = dtype, .stream_dtype = stream, .rows = rows, .d = d};
            c.with_residual = c.with_sum = true;
            c.sum = sum;
            c.y = y;
            // A buffer in place has one type.
            if (sum == Place::kX && stream != dtype) continue;
            if (y == Place::kResidual && stream != dtype) continue;
            check_norm(c, random);
          }
        }
      }
    }
  }
}

// Without it: the variance could be E[x^2] - E[x]^2, which cancels when the mean is far from 0.
TEST(Norm, LargeMeanDoesNotCancel) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const auto& [rows, d] : {std::pair{2, 1024}, {2048, 1024}, {2, 1001}}) {
    NormCase c;
    c.params = {
        .dtype = DType::kF32, .x_dtype = DType::kF32, .stream_dtype = DType::kF32, .rows = rows, .d = d};
    c.mean = 1000;
    check_norm(c, random);
  }
}

// Without it: an epsilon of the wrong place (a row of zeros must give beta, not NaN).
TEST(Norm, ConstantRowGivesBeta) {
  TANDEM_NEEDS_DEVICE();
  const DeviceTensor x(std::vector<float>(64, 0.0f), DType::kBF16);
  const DeviceTensor gamma(std::vector<float>(64, 3.0f), DType::kBF16);
  const DeviceTensor beta(std::vector<float>(64, 0.5f), DType::kBF16);
  const DeviceTensor y(64, DType::kBF16);
  launch_norm({.rows = 1, .d = 64, .x = x.data(), .gamma = gamma.data(), .beta = beta.data(), .y = y.data()},
              nullptr);
  expect_near(y.values(), std::vector<double>(64, 0.5), 0, 0, "beta");
}

// Without it: a dependent launch could read what the kernel before it has not yet written.
TEST(Norm, DependentChainEqualsPlainChain) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  constexpr int kLength = 24;
  const int64_t rows = random.between(1, 300);
  const int d = 1024;
  const DeviceTensor gamma(random.normal(d, DType::kBF16, 1, 0.1f), DType::kBF16);
  const DeviceTensor beta(random.normal(d, DType::kBF16), DType::kBF16);
  const auto start = random.normal(rows * d, DType::kBF16);
  std::vector<uint8_t> results[2];
  for (bool dependent : {false, true}) {
    cudaStream_t stream = nullptr;
    TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
    {
      const DeviceTensor x(start, DType::kBF16);
      const DeviceTensor stream_buffer(start, DType::kBF16);
      const DeviceTensor y(rows * d, DType::kBF16);
      const auto chain = [&](cudaStream_t s) {
        for (int i = 0; i < kLength; ++i) {
          launch_norm({.rows = rows,
                       .d = d,
                       .x = i % 2 == 0 ? x.data() : y.data(),
                       .residual = stream_buffer.data(),
                       .sum = stream_buffer.data(),
                       .gamma = gamma.data(),
                       .beta = beta.data(),
                       .y = i % 2 == 0 ? y.data() : x.data(),
                       .dependent = dependent},
                      s);
        }
      };
      TimedGraph graph(stream, chain);
      for (int i = 0; i < 5; ++i) graph.launch();
      TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
      results[dependent ? 1 : 0] = x.bytes();
    }
    TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  }
  EXPECT_TRUE(results[0] == results[1]);
}

/// The same norm plain and as codes: codes are those of the plain result.
void check_codes(NormParams p, int64_t shift, bool nan_row, bool in_place_sum, RandomValues& random) {
  const std::string what = std::string(dtype_name(p.dtype)) + " x " + std::string(dtype_name(p.x_dtype)) +
                           " " + std::to_string(p.rows) + " x " + std::to_string(p.d) + " shift " +
                           std::to_string(shift);
  auto x = random.normal(p.rows * p.d, p.x_dtype, 0.5f, 1);
  if (nan_row) x[random.between(0, p.rows * p.d - 1)] = std::numeric_limits<float>::quiet_NaN();
  const auto residual = random.normal(p.rows * p.d, p.stream_dtype);
  // A row of zeros: x and residual cancel, and there is no beta.
  for (int64_t i = 0; i < p.d; ++i) x[i] = -residual[i];
  if (p.x_dtype != p.stream_dtype) {
    for (int64_t i = 0; i < p.d; ++i) x[i] = 0;
  }
  const DeviceTensor gamma(random.normal(p.d, p.dtype, 1, 0.2f), p.dtype, shift);
  const DeviceTensor device_x(x, p.x_dtype, shift);
  p.x = device_x.data();
  p.gamma = gamma.data();
  std::vector<float> plain;
  std::vector<uint8_t> plain_bytes;
  std::vector<uint8_t> sums[3];
  int run = 0;
  for (const std::optional<DType> code_dtype :
       {std::optional<DType>(), std::optional(DType::kF8), std::optional(DType::kI8)}) {
    const DeviceTensor device_residual(residual, p.stream_dtype, shift);
    const DeviceTensor y(p.rows * p.d, p.dtype, shift);
    const DeviceTensor codes(p.rows * p.d, code_dtype.value_or(DType::kF8), shift);
    const DeviceTensor scales(p.rows, DType::kF32);
    const bool both = !code_dtype || random.coin();
    p.residual = device_residual.data();
    p.sum = in_place_sum ? device_residual.data() : nullptr;
    p.y = both ? y.data() : nullptr;
    p.codes = code_dtype ? codes.data() : nullptr;
    p.code_dtype = code_dtype.value_or(DType::kF8);
    p.scales = code_dtype ? static_cast<float*>(scales.data()) : nullptr;
    launch_norm(p, nullptr);
    sums[run] = device_residual.bytes();
    if (!code_dtype) {
      plain = y.values();
      plain_bytes = y.bytes();
    } else {
      const HostCodes want = host_codes(plain, p.d, *code_dtype);
      expect_scales(scales.values(), want.scales, what);
      expect_codes(codes.bytes(), want.codes, what);
      if (both) {
        EXPECT_TRUE(y.bytes() == plain_bytes) << what << ": codes change y";
      }
      EXPECT_TRUE(sums[run] == sums[0]) << what << ": codes change the sum";
    }
    ++run;
  }
}

// Without it: the codes that a product takes are not those of the rows that a plain norm gives, in one of the kernel's forms.
TEST(Norm, CodesAreThoseOfThePlainResult) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const auto& [rows, d] : {std::pair{1, 512},
                                {64, 1024},
                                {5, 7},
                                {3, 1000},
                                {2, 8192},
                                {1, 36000},
                                {2049, 512},
                                {2050, 1024},
                                {2048, 2048},
                                {2048, 4096},
                                {2048, 5120}}) {
    for (const DType dtype : kFloatTypes) {
      for (const Norm norm : {Norm::kLayer, Norm::kRms}) {
        const DType wide = random.coin() ? dtype : DType::kF32;
        check_codes(
            {.dtype = dtype, .x_dtype = wide, .stream_dtype = wide, .norm = norm, .rows = rows, .d = d}, 0,
            random.coin(), random.coin(), random);
      }
    }
  }
  for (int i = 0; i < 60; ++i) {
    const DType dtype = random.one_of(kFloatTypes);
    NormParams p{.dtype = dtype,
                 .x_dtype = random.coin() ? dtype : DType::kF32,
                 .stream_dtype = random.coin() ? dtype : DType::kF32,
                 .norm = random.coin() ? Norm::kLayer : Norm::kRms,
                 .rows = random.between(1, 30),
                 .d = static_cast<int>(random.coin() ? 8 * random.between(1, 300) : random.between(1, 2100))};
    // In fp32 a form with other sums, which a shifted plain result may take, differs in the last bit.
    const int64_t shift = dtype == DType::kF32 || random.coin() ? 0 : random.between(1, 9);
    check_codes(p, shift, random.coin(), random.coin(), random);
  }
}

// Without it: wrong parameters reach the device and fail there, far from their cause.
TEST(Norm, RefusesWrongParameters) {
  int dummy = 0;
  int other = 0;
  const NormParams good{.rows = 1, .d = 8, .x = &dummy, .gamma = &dummy, .y = &dummy};
  const auto refused = [&](auto change) {
    NormParams p = good;
    change(p);
    EXPECT_THROW(launch_norm(p, nullptr), UsageError);
  };
  refused([](NormParams& p) { p.dtype = DType::kI8; });
  refused([](NormParams& p) { p.x_dtype = DType::kF16; });
  refused([](NormParams& p) { p.stream_dtype = DType::kF16; });
  refused([](NormParams& p) { p.d = 0; });
  refused([](NormParams& p) { p.rows = -1; });
  refused([](NormParams& p) { p.x = nullptr; });
  refused([](NormParams& p) { p.gamma = nullptr; });
  refused([](NormParams& p) { p.sum = p.y; });
  refused([&](NormParams& p) {
    p.y = &other;
    p.sum = &dummy;  // x's, of another type
    p.stream_dtype = DType::kF32;
  });
  refused([](NormParams& p) { p.x_dtype = DType::kF32; });
  float scales = 0;
  int8_t codes = 0;
  refused([](NormParams& p) { p.y = nullptr; });  // neither y nor codes
  refused([&](NormParams& p) {
    p.codes = &codes;
    p.scales = &scales;
    p.code_dtype = DType::kF16;
  });
  refused([&](NormParams& p) { p.codes = &codes; });    // without scales
  refused([&](NormParams& p) { p.scales = &scales; });  // without codes
  refused([&](NormParams& p) {
    p.codes = &dummy;  // in x's place
    p.scales = &scales;
  });
}

}  // namespace
}  // namespace tandem::kernels
