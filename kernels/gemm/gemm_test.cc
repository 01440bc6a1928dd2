#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/gemm_test.h"

namespace tandem::kernels {
namespace {

/// A problem's operands on both sides, the truth in double, and the comparison.
class Operands {
 public:
  Operands(const GemmProblem& p, float alpha, RandomValues& random)
      : problem_(p),
        alpha_(alpha),
        shift_(p.alignment == 16 ? 0 : p.alignment / dtype_bytes(p.x)),
        shift_out_(p.alignment == 16 ? 0 : std::max<int64_t>(p.alignment / dtype_bytes(p.out), 1)),
        x_(random.normal(p.m * p.x_stride(), p.x)),
        w_(random.normal(p.n * p.k, p.w, 0, 1 / std::sqrt(static_cast<float>(p.k)))),
        bias_(random.normal(p.n, p.out)),
        residual_(random.normal(p.m * p.y_stride(), p.out)),
        device_x_(x_, p.x, shift_),
        device_w_(w_, p.w, shift_),
        device_bias_(bias_, p.out, shift_out_),
        device_residual_(residual_, p.out, shift_out_),
        device_y_(p.m * p.y_stride(), p.out, shift_out_),
        workspace_(kGemmWorkspaceBytes) {}

  GemmArgs args(bool in_place) const {
    return {.x = device_x_.data(),
            .w = device_w_.data(),
            .bias = has_bias(problem_.epilogue) ? device_bias_.data() : nullptr,
            .residual = problem_.residual ? device_residual_.data() : nullptr,
            .y = in_place ? device_residual_.data() : device_y_.data(),
            .alpha = alpha_,
            .workspace = workspace_.data(),
            .workspace_bytes = workspace_.bytes()};
  }

  std::vector<uint8_t> y_bytes() const { return device_y_.bytes(); }

  void expect_right(bool in_place, const std::string& what) const {
    const GemmProblem& p = problem_;
    const auto got = (in_place ? device_residual_ : device_y_).values();
    std::vector<float> dense;
    std::vector<double> want;
    size_t touched = 0;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.y_stride(); ++j) {
        const size_t at = static_cast<size_t>(i * p.y_stride() + j);
        if (j >= p.n) {  // between the rows of y nothing may be written
          const bool kept = in_place ? got[at] == residual_[at] : std::isnan(got[at]);
          if (!kept) ++touched;
          continue;
        }
        double v = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          v += static_cast<double>(x_[i * p.x_stride() + k]) * w_[j * p.k + k];
        }
        v *= alpha_;
        double summands = std::abs(v);
        if (has_bias(p.epilogue)) {
          v += bias_[j];
          summands += std::abs(bias_[j]);
        }
        if (p.residual) {
          v += residual_[at];
          summands += std::abs(residual_[at]);
        }
        want.push_back(activated(p.epilogue, v));
        // The library rounds a 16-bit result once more before it adds the residual: half a bit of each summand.
        const double twice = p.residual && p.out != DType::kF32 ? epsilon(p.out) * summands : 0;
        const bool rounding = std::abs(got[at] - want.back()) <= twice;
        dense.push_back(rounding ? static_cast<float>(want.back()) : got[at]);
      }
    }
    EXPECT_EQ(touched, 0u) << what << ": written between the rows";
    // x w sums k products of about 1 / sqrt(k): rounding the operands to tf32 moves it by about 2^-10. True fp32 stays
    // some hundred times closer, so this also shows that fp32 is not tf32.
    const double absolute = (p.tf32 ? 8e-3 : 2e-5) * std::max(1.0f, alpha_);
    // GELU of the library in 16 bits is made for 16-bit results.
    const bool gelu = p.epilogue == GemmEpilogue::kGeluTanh || p.epilogue == GemmEpilogue::kBiasGeluTanh;
    expect_near(dense, want, (gelu ? 1.5 : 0.51) * epsilon(p.out),
                gelu ? std::max(absolute, 0.1 * epsilon(p.out)) : absolute, what);
  }

 private:
  GemmProblem problem_;
  float alpha_;
  int64_t shift_;
  int64_t shift_out_;
  std::vector<float> x_, w_, bias_, residual_;
  DeviceTensor device_x_, device_w_, device_bias_, device_residual_, device_y_;
  DeviceBuffer workspace_;
};

void check_gemm(const CublasLt& lt, const GemmProblem& problem, float alpha, bool in_place,
                RandomValues& random) {
  const std::string what =
      problem_text(problem) + " alpha " + std::to_string(alpha) + (in_place ? " in place" : "");
  SCOPED_TRACE(what);
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

struct Storage {
  DType in;
  DType out;
  bool tf32;
};
constexpr Storage kStorages[] = {{DType::kF32, DType::kF32, false},  {DType::kF32, DType::kF32, true},
                                 {DType::kF16, DType::kF16, false},  {DType::kBF16, DType::kBF16, false},
                                 {DType::kBF16, DType::kF32, false}, {DType::kF16, DType::kF32, false}};
constexpr GemmEpilogue kEpilogues[] = {GemmEpilogue::kNone,     GemmEpilogue::kBias,
                                       GemmEpilogue::kRelu,     GemmEpilogue::kBiasRelu,
                                       GemmEpilogue::kGeluTanh, GemmEpilogue::kBiasGeluTanh};

// Without it: a type or an epilogue that the library lacks or does otherwise (a bias along the wrong side, the erf GELU,
// tf32 where fp32 was asked for) shows first as a wrong model.
TEST(Gemm, EveryTypeAndEpilogue) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  for (const Storage& s : kStorages) {
    for (GemmEpilogue e : kEpilogues) {
      const GemmProblem p{
          .m = 48, .n = 256, .k = 128, .x = s.in, .w = s.in, .out = s.out, .tf32 = s.tf32, .epilogue = e};
      check_gemm(lt, p, 1, false, random);
      if (e != GemmEpilogue::kNone && e != GemmEpilogue::kBias) continue;
      for (bool in_place : {false, true}) {
        GemmProblem with = p;
        with.residual = true;
        check_gemm(lt, with, 0.125f, in_place, random);
      }
    }
  }
}

// Without it: shapes that no tile divides, vocabularies and widths that are not multiples of 8, single rows and strides
// fail in the library or write outside.
TEST(Gemm, OddShapes) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  struct Shape {
    int64_t m, n, k, ldx, ldy;
    int alignment;
  };
  const Shape shapes[] = {
      {1, 1, 1, 0, 0, 4},           {1, 1024, 1024, 0, 0, 16},  {1, 1000, 520, 0, 0, 16},
      {3, 50265 / 15, 64, 0, 0, 2}, {5, 7, 9, 0, 0, 2},         {64, 100, 100, 0, 0, 8},
      {17, 129, 257, 0, 0, 2},      {33, 96, 64, 192, 256, 16}, {128, 513, 72, 80, 520, 16},
      {9, 40, 24, 25, 41, 2},       {257, 384, 192, 0, 0, 16}};
  for (const Shape& shape : shapes) {
    for (const Storage& s : kStorages) {
      GemmProblem p{.m = shape.m,
                    .n = shape.n,
                    .k = shape.k,
                    .x = s.in,
                    .w = s.in,
                    .out = s.out,
                    .tf32 = s.tf32,
                    .ldx = shape.ldx,
                    .ldy = shape.ldy,
                    .alignment = shape.alignment};
      p.alignment = std::max(p.alignment, static_cast<int>(dtype_bytes(p.out)));
      check_gemm(lt, p, 1, false, random);
      p.epilogue = GemmEpilogue::kBias;
      check_gemm(lt, p, 1, false, random);
      p.residual = true;
      check_gemm(lt, p, 2, random.coin(), random);
    }
  }
}

// Without it: shapes that nobody thought of.
TEST(Gemm, RandomShapes) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  for (int i = 0; i < 60; ++i) {
    const Storage s = random.one_of(kStorages);
    GemmProblem p{.m = random.between(1, 150),
                  .n = random.between(1, 300),
                  .k = random.between(1, 300),
                  .x = s.in,
                  .w = s.in,
                  .out = s.out,
                  .tf32 = s.tf32};
    if (random.coin()) {
      p.n = (p.n + 7) / 8 * 8;
      p.k = (p.k + 7) / 8 * 8;
    }
    p.alignment = p.k % 8 == 0 && p.n % 8 == 0 ? 16 : static_cast<int>(dtype_bytes(p.out));
    p.epilogue = random.coin() ? GemmEpilogue::kNone : GemmEpilogue::kBias;
    p.residual = random.coin();
    check_gemm(lt, p, random.coin() ? 1.0f : 0.5f, p.residual && random.coin(), random);
  }
}

// Without it: the searched algorithm could be wrong, not repeat, not survive the choice file, or not be capturable.
TEST(Gemm, SearchedChoiceRepeatsInAGraph) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  const Stream stream;
  GemmChoices choices;
  const GemmProblem problems[] = {
      {.m = 8, .n = 1024, .k = 4096},
      {.m = 64, .n = 3072, .k = 1024, .epilogue = GemmEpilogue::kBias},
      {.m = 200,
       .n = 1024,
       .k = 512,
       .x = DType::kF16,
       .w = DType::kF16,
       .out = DType::kF16,
       .epilogue = GemmEpilogue::kBiasRelu},
      {.m = 16, .n = 1001, .k = 520, .epilogue = GemmEpilogue::kBias, .residual = true, .alignment = 2}};
  for (const GemmProblem& p : problems) {
    const std::string what = problem_text(p);
    const GemmChoice choice = choose(lt, choices, p, stream.get());
    EXPECT_GT(choice.us, 0) << what;
    EXPECT_GT(choice.candidates, 0) << what;
    EXPECT_LE(choice.workspace_bytes, kGemmWorkspaceBytes) << what;
    EXPECT_EQ(choose(lt, choices, p, stream.get()), choice) << "a second call must not search again";
    std::printf("%s: %.2f us, %s\n", what.c_str(), choice.us, choice.description.c_str());

    const Operands operands(p, 1, random);
    Gemm gemm(lt, p, choices.at(lt.place(), p));
    gemm.run(operands.args(false), stream.get());
    stream.wait();
    operands.expect_right(false, what);
    const auto first = operands.y_bytes();
    TimedGraph graph(stream.get(), [&](cudaStream_t s) { gemm.run(operands.args(false), s); });
    for (int i = 0; i < 20; ++i) graph.launch();
    stream.wait();
    EXPECT_TRUE(operands.y_bytes() == first) << what << ": a replay differs";
  }
  EXPECT_EQ(choices.size(), std::size(problems));
}

// Without it: a wrong pointer, a small workspace or a choice from elsewhere is launched.
TEST(Gemm, RefusesWrongArguments) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const CublasLt lt;
  const Stream stream;
  const GemmProblem p{.m = 4, .n = 64, .k = 64, .epilogue = GemmEpilogue::kBias, .residual = true};
  const Operands operands(p, 1, random);
  GemmChoice choice = suggested(lt, p);
  const auto refused = [&](auto change) {
    GemmArgs args = operands.args(false);
    change(args);
    Gemm gemm(lt, p, choice);
    EXPECT_THROW(gemm.run(args, stream.get()), UsageError);
  };
  refused([](GemmArgs& a) { a.x = nullptr; });
  refused([](GemmArgs& a) { a.bias = nullptr; });
  refused([](GemmArgs& a) { a.residual = nullptr; });
  refused([](GemmArgs& a) { a.w = static_cast<const char*>(a.w) + 2; });
  refused([](GemmArgs& a) { a.y = static_cast<char*>(a.y) + 8; });
  if (choice.workspace_bytes > 0) {
    refused([](GemmArgs& a) { a.workspace_bytes = 0; });
    refused([](GemmArgs& a) { a.workspace = nullptr; });
  }
  choice.algo.fill(0xff);
  EXPECT_THROW(Gemm(lt, p, choice), UsageError);
  EXPECT_THROW((void)suggested(lt, {.m = 0, .n = 1, .k = 1}), UsageError);
  EXPECT_TRUE(has_algorithm(lt, p));
}

// Without it: operands of two types reach the library, which reads the one as the other or says nothing of use.
TEST(Gemm, RefusesMixedTypes) {
  TANDEM_NEEDS_DEVICE();
  const CublasLt lt;
  const Stream stream;
  constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kU8};
  const GemmChoice choice = suggested(lt, {.m = 4, .n = 64, .k = 64});
  for (const DType x : kTypes) {
    for (const DType w : kTypes) {
      if (x == w && dtype_bytes(x) > 1) continue;
      const GemmProblem p{.m = 4, .n = 64, .k = 64, .x = x, .w = w, .out = DType::kF32};
      EXPECT_THROW(Gemm(lt, p, choice), UsageError) << problem_text(p);
      EXPECT_THROW((void)search(lt, p, stream.get()), UsageError) << problem_text(p);
      EXPECT_THROW((void)has_algorithm(lt, p), UsageError) << problem_text(p);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
