// Products of 8-bit operands: both sides start from the same codes and scales.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/weights/values/quantise.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_test.h"

namespace tandem::kernels {
namespace {

/// A matrix in rows of codes with a scale each, on both sides.
struct Codes {
  std::vector<uint8_t> codes;  ///< rows `stride` apart, 0x7f between them: a NaN of e4m3
  std::vector<double> values;  ///< of the codes, [rows, cols]
  std::vector<float> scales;   ///< [rows]
  DeviceBuffer device_codes, device_scales;

  /// Rows of very different magnitudes; row 1, where there is one, is of zeros.
  Codes(DType type, int64_t rows, int64_t cols, int64_t stride, float std, RandomValues& random)
      : codes(static_cast<size_t>(rows * stride), 0x7f),
        values(static_cast<size_t>(rows * cols)),
        scales(static_cast<size_t>(rows)) {
    const Storage storage{.dtype = type, .scale_group = Storage::kWholeRow};
    std::vector<uint32_t> row_codes(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      const float size = r == 1 ? 0 : std::ldexp(std, static_cast<int>(random.between(-3, 3)));
      const std::vector<float> row = random.normal(cols, DType::kBF16, 0, size);
      quantise_row(storage, row, row_codes, std::span(&scales[static_cast<size_t>(r)], 1));
      for (int64_t c = 0; c < cols; ++c) {
        const auto code = static_cast<uint8_t>(row_codes[static_cast<size_t>(c)]);
        codes[static_cast<size_t>(r * stride + c)] = code;
        values[static_cast<size_t>(r * cols + c)] = type == DType::kF8
                                                        ? static_cast<double>(f8_to_float(code))
                                                        : static_cast<double>(static_cast<int8_t>(code));
      }
    }
    upload();
  }
  void upload() {
    device_codes = DeviceBuffer::of(codes);
    device_scales = DeviceBuffer::of(scales);
  }
};

class Operands {
 public:
  Operands(const GemmProblem& p, float alpha, RandomValues& random)
      : problem_(p),
        alpha_(alpha),
        x_(p.x, p.m, p.k, p.x_stride(), 1, random),
        w_(p.w, p.n, p.k, p.k, 1 / std::sqrt(static_cast<float>(p.k)), random),
        bias_(random.normal(p.n, DType::kBF16)),
        residual_(random.normal(p.m * p.y_stride(), DType::kBF16)),
        device_bias_(bias_, p.bias_type() == DType::kI32 ? DType::kF32 : p.bias_type()),
        device_residual_(residual_, p.out == DType::kI32 ? DType::kF32 : p.out),
        device_y_(p.m * p.y_stride(), p.out),
        workspace_(kGemmWorkspaceBytes) {}

  Codes& x() { return x_; }
  GemmArgs args(bool in_place = false) const {
    const bool scaled = problem_.x == DType::kF8;
    return {.x = x_.device_codes.data(),
            .w = w_.device_codes.data(),
            .bias = has_bias(problem_.epilogue) ? device_bias_.data() : nullptr,
            .residual = problem_.residual ? device_residual_.data() : nullptr,
            .y = in_place ? device_residual_.data() : device_y_.data(),
            .alpha = alpha_,
            .workspace = workspace_.data(),
            .workspace_bytes = workspace_.bytes(),
            .x_scales = scaled ? x_.device_scales.data<float>() : nullptr,
            .w_scales = scaled ? w_.device_scales.data<float>() : nullptr};
  }
  std::vector<uint8_t> y_bytes() const { return device_y_.bytes(); }
  std::vector<float> y_values() const { return device_y_.values(); }

  /// Products of integers must be exact, those of e4m3 within rounding; nothing may be written between the rows.
  void expect_right(bool in_place, const std::string& what) const {
    const GemmProblem& p = problem_;
    const DeviceTensor& y = in_place ? device_residual_ : device_y_;
    const std::vector<uint8_t> raw = y.bytes();
    const std::vector<float> got = p.out == DType::kI32 ? std::vector<float>{} : y.values();
    size_t wrong = 0;
    size_t touched = 0;
    double worst = 0;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.y_stride(); ++j) {
        const size_t at = static_cast<size_t>(i * p.y_stride() + j);
        if (j >= p.n) {
          if (in_place ? got[at] != residual_[at] : !poisoned(raw, at)) ++touched;
          continue;
        }
        const Sum sum = exact(i, j);
        if (p.out == DType::kI32) {
          int32_t v = 0;
          std::memcpy(&v, &raw[4 * at], 4);
          if (v == static_cast<int64_t>(sum.value)) continue;
          if (wrong++ == 0)
            ADD_FAILURE() << what << ": [" << i << ", " << j << "] is " << v << ", not " << sum.value;
          continue;
        }
        const double scale =
            double{alpha_} * x_.scales[static_cast<size_t>(i)] * w_.scales[static_cast<size_t>(j)];
        double v = sum.value * scale;
        double summands = std::abs(v);
        if (has_bias(p.epilogue)) {
          v += bias_[static_cast<size_t>(j)];
          summands += std::abs(bias_[static_cast<size_t>(j)]);
        }
        if (p.residual) {
          v += residual_[at];
          summands += std::abs(residual_[at]);
        }
        const double want = activated(p.epilogue, v);
        // Tensor cores add products of e4m3 with about 14 bits, which a deeper sum fills; a result that gets a residual is
        // rounded twice.
        const double arithmetic =
            (2e-3 + 4e-6 * static_cast<double>(std::min<int64_t>(p.k, 4096))) * sum.size * scale + 1e-6;
        // The library's GELU has a fast tanh, also where the result is fp32.
        const bool gelu = p.epilogue == GemmEpilogue::kGeluTanh || p.epilogue == GemmEpilogue::kBiasGeluTanh;
        const double rounding =
            p.residual ? epsilon(p.out) * summands
            : gelu     ? std::max(epsilon(p.out), epsilon(DType::kF16)) * (1.5 * std::abs(want) + 0.1)
                       : 0.51 * epsilon(p.out) * std::abs(want);
        if (sum.size > 0) worst = std::max(worst, (std::abs(got[at] - want) - rounding) / (sum.size * scale));
        if (std::abs(got[at] - want) <= arithmetic + rounding) continue;  // false for a NaN
        if (wrong++ == 0)
          ADD_FAILURE() << what << ": [" << i << ", " << j << "] is " << got[at] << ", not " << want;
      }
    }
    EXPECT_EQ(wrong, 0u) << what;
    EXPECT_EQ(touched, 0u) << what << ": written between the rows";
    if (p.out != DType::kI32 && p.k >= 1024) std::printf("%s: error of the sums %.2g\n", what.c_str(), worst);
  }

 private:
  struct Sum {
    double value = 0;
    double size = 0;  ///< root of the sum of squared products
  };
  Sum exact(int64_t i, int64_t j) const {
    Sum sum;
    const double* a = &x_.values[static_cast<size_t>(i * problem_.k)];
    const double* b = &w_.values[static_cast<size_t>(j * problem_.k)];
    for (int64_t k = 0; k < problem_.k; ++k) {
      sum.value += a[k] * b[k];
      sum.size += a[k] * b[k] * a[k] * b[k];
    }
    sum.size = std::sqrt(sum.size);
    return sum;
  }
  bool poisoned(const std::vector<uint8_t>& raw, size_t at) const {
    const auto bytes = static_cast<size_t>(dtype_bytes(problem_.out));
    for (size_t b = at * bytes; b < (at + 1) * bytes; ++b) {
      if (raw[b] != 0xff) return false;
    }
    return true;
  }

  GemmProblem problem_;
  float alpha_;
  Codes x_, w_;
  std::vector<float> bias_, residual_;
  DeviceTensor device_bias_, device_residual_, device_y_;
  DeviceBuffer workspace_;
};

GemmProblem f8(int64_t m, int64_t n, int64_t k) {
  return {.m = m, .n = n, .k = k, .x = DType::kF8, .w = DType::kF8, .out = DType::kBF16};
}
GemmProblem i8(int64_t m, int64_t n, int64_t k) {
  return {.m = m, .n = n, .k = k, .x = DType::kI8, .w = DType::kI8, .out = DType::kI32};
}

void check_gemm(const CublasLt& lt, const GemmProblem& problem, float alpha, bool in_place,
                RandomValues& random) {
  const std::string what =
      problem_text(problem) + " alpha " + std::to_string(alpha) + (in_place ? " in place" : "");
  const Stream stream;
  const Operands operands(problem, alpha, random);
  try {
    Gemm gemm(lt, problem, suggested(lt, problem));
    gemm.run(operands.args(in_place), stream.get());
  } catch (const Error& error) {
    ADD_FAILURE() << what << ": " << error.what();
    return;
  }
  stream.wait();
  operands.expect_right(in_place, what);
}

/// A card without fp8 must say so; then there is nothing else to test.
bool has_fp8(const CublasLt& lt) {
  const std::string lacks = library_lacks(DType::kF8, lt.compute_capability());
  if (lacks.empty()) return true;
  EXPECT_FALSE(has_algorithm(lt, f8(64, 64, 64)));
  try {
    (void)suggested(lt, f8(64, 64, 64));
    ADD_FAILURE() << "fp8 was accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find(lacks), std::string::npos) << error.what();
  }
  return false;
}

constexpr GemmEpilogue kEpilogues[] = {GemmEpilogue::kNone,     GemmEpilogue::kBias,
                                       GemmEpilogue::kRelu,     GemmEpilogue::kBiasRelu,
                                       GemmEpilogue::kGeluTanh, GemmEpilogue::kBiasGeluTanh};

// Without it: the scales go to the wrong side, or what library_fuses promises the plan is refused or computed wrongly.
TEST(NarrowGemm, Fp8WithEveryEpilogue) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  if (!has_fp8(lt)) GTEST_SKIP() << library_lacks(DType::kF8, lt.compute_capability());
  for (const DType out : {DType::kBF16, DType::kF32}) {
    for (const GemmEpilogue e : kEpilogues) {
      for (const bool residual : {false, true}) {
        if (!library_fuses(DType::kF8, e, residual)) continue;
        GemmProblem p = f8(100, 256, 128);
        p.out = out;
        p.epilogue = e;
        p.residual = residual;
        check_gemm(lt, p, 1, false, random);
        if (residual) check_gemm(lt, p, 0.125f, true, random);
      }
    }
  }
}

// Without it: rows that no tile divides, single rows, strides and deep sums fail in the library or write outside.
TEST(NarrowGemm, Fp8Shapes) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  if (!has_fp8(lt)) GTEST_SKIP() << library_lacks(DType::kF8, lt.compute_capability());
  const int64_t shapes[][3] = {{1, 16, 16},    {1, 1024, 1024}, {3, 48, 32},     {17, 128, 48},   {65, 8, 64},
                               {33, 24, 1040}, {129, 1000, 80}, {257, 384, 512}, {70, 128, 16384}};
  for (const auto& [m, n, k] : shapes) {
    check_gemm(lt, f8(m, n, k), 1, false, random);
    GemmProblem p = f8(m, n, k);
    p.epilogue = GemmEpilogue::kBias;
    p.ldx = k + 16;
    p.ldy = n + 8;
    check_gemm(lt, p, 2, false, random);
    p.residual = true;
    check_gemm(lt, p, 1, random.coin(), random);
  }
  for (int i = 0; i < 20; ++i) {
    GemmProblem p = f8(random.between(1, 300), 8 * random.between(1, 40), 16 * random.between(1, 40));
    p.epilogue = random.one_of(kEpilogues);
    p.residual = library_fuses(p.x, p.epilogue, true) && random.coin();
    check_gemm(lt, p, random.coin() ? 1.0f : 0.5f, p.residual && random.coin(), random);
  }
}

// Without it: a row that could not be quantised (scale NaN, codes 0) looks like zeros, or spoils its neighbours.
TEST(NarrowGemm, Fp8RowOfNaN) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  if (!has_fp8(lt)) GTEST_SKIP() << library_lacks(DType::kF8, lt.compute_capability());
  const GemmProblem p = f8(70, 64, 64);
  Operands operands(p, 1, random);
  for (int64_t c = 0; c < p.k; ++c) operands.x().codes[static_cast<size_t>(5 * p.k + c)] = 0;
  operands.x().scales[5] = std::numeric_limits<float>::quiet_NaN();
  operands.x().upload();
  const Stream stream;
  Gemm gemm(lt, p, suggested(lt, p));
  gemm.run(operands.args(), stream.get());
  stream.wait();
  const std::vector<float> y = operands.y_values();
  for (int64_t i = 0; i < p.m * p.n; ++i) EXPECT_EQ(std::isnan(y[static_cast<size_t>(i)]), i / p.n == 5) << i;
}

// Without it: sums of integers are rounded, or saturate where 32 bits hold them.
TEST(NarrowGemm, Int8IsExact) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  const int64_t shapes[][3] = {{1, 16, 16},    {1, 1024, 1024}, {3, 48, 32},     {17, 128, 48},   {65, 4, 64},
                               {33, 12, 1040}, {129, 1000, 80}, {257, 384, 512}, {70, 128, 16384}};
  for (const auto& [m, n, k] : shapes) {
    check_gemm(lt, i8(m, n, k), 1, false, random);
    GemmProblem p = i8(m, n, k);
    p.ldx = k + 16;
    p.ldy = n + 4;
    check_gemm(lt, p, 1, false, random);
  }
  for (int i = 0; i < 20; ++i) {
    check_gemm(lt, i8(random.between(1, 300), 4 * random.between(1, 80), 16 * random.between(1, 40)), 1,
               false, random);
  }
}

// Without it: the search has no operands of these types, or what it chose is wrong, does not repeat or cannot be captured.
TEST(NarrowGemm, SearchedChoiceRepeatsInAGraph) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  const Stream stream;
  GemmChoices choices;
  std::vector<GemmProblem> problems = {i8(200, 1024, 512)};
  if (has_fp8(lt)) {
    problems.push_back(f8(200, 1024, 512));
    problems.back().epilogue = GemmEpilogue::kBiasRelu;
    problems.push_back(f8(129, 512, 2048));
    problems.back().residual = true;
  }
  for (const GemmProblem& p : problems) {
    const std::string what = problem_text(p);
    const GemmChoice choice = choose(lt, choices, p, stream.get());
    EXPECT_GT(choice.us, 0) << what;
    std::printf("%s: %.2f us, %s\n", what.c_str(), choice.us, choice.description.c_str());
    const Operands operands(p, 1, random);
    Gemm gemm(lt, p, choices.at(lt.place(), p));
    gemm.run(operands.args(), stream.get());
    stream.wait();
    operands.expect_right(false, what);
    const auto first = operands.y_bytes();
    TimedGraph graph(stream.get(), [&](cudaStream_t s) { gemm.run(operands.args(), s); });
    for (int i = 0; i < 20; ++i) graph.launch();
    stream.wait();
    EXPECT_TRUE(operands.y_bytes() == first) << what << ": a replay differs";
  }
}

// Without it: a product without its scales is launched, or integers are scaled by nothing.
TEST(NarrowGemm, RefusesWrongArguments) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  const Stream stream;
  const auto refused = [&](const GemmProblem& p, auto change) {
    const Operands operands(p, 1, random);
    GemmArgs args = operands.args();
    change(args);
    Gemm gemm(lt, p, suggested(lt, p));
    EXPECT_THROW(gemm.run(args, stream.get()), UsageError);
  };
  refused(i8(64, 64, 64), [](GemmArgs& a) { a.alpha = 0.5f; });
  if (!has_fp8(lt)) return;
  refused(f8(64, 64, 64), [](GemmArgs& a) { a.x_scales = nullptr; });
  refused(f8(64, 64, 64), [](GemmArgs& a) { a.w_scales = nullptr; });
  refused(f8(64, 64, 64), [](GemmArgs& a) { a.w_scales += 1; });
}

}  // namespace
}  // namespace tandem::kernels
