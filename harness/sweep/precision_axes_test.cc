// The axes that say in which form weights and K/V cache are held.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harness/sweep/sweep_spec.h"

namespace tandem {
namespace {

/// The cases of suite_decoder on tiny with these axes.
SweepCases expand(const std::string& axes) {
  nlohmann::json group = {{"suite", "decoder"}, {"model", "tiny"}};
  group.update(nlohmann::json::parse(axes));
  return expand_sweep({{"groups", {group}}}, {});
}

// Without it a calibration would be measured where it changes nothing, or a case of two names would be timed twice.
TEST(Sweep, CalibrationHeadAndCacheNeedAPrecisionThatHasThem) {
  const auto kept = [](const std::string& text) {
    const SweepCases s = expand(text);
    std::string all;
    for (const Case& c : s.cases) all += fmt::format("{} ", precision_name(c.precision));
    return all;
  };
  const auto reason = [](const std::string& text) {
    const SweepCases s = expand(text);
    return s.skipped.empty() ? std::string() : s.skipped[0].reason;
  };
  const std::string all = R"("precision": ["fp32","tf32","fp16","bf16","fp8","int8","w8a16","w4a16"]})";
  EXPECT_EQ(kept(R"({"calibration": "smoothquant",)" + all), "fp8 int8 ");
  EXPECT_EQ(kept(R"({"calibration": "awq",)" + all), "w8a16 w4a16 ");
  EXPECT_EQ(kept(R"({"head": "16bit",)" + all), "fp8 int8 w8a16 w4a16 ");
  EXPECT_EQ(kept(R"({"kv": "16bit",)" + all), "fp16 bf16 fp8 int8 w8a16 w4a16 ");
  EXPECT_EQ(kept(R"({"kv": "int8",)" + all), "fp32 tf32 fp16 bf16 fp8 int8 w8a16 w4a16 ");
  EXPECT_EQ(reason(R"({"calibration": "awq", "precision": "int8"})"),
            "calibration: awq is for precision w8a16 and w4a16, not 'int8'");
  EXPECT_EQ(reason(R"({"calibration": "smoothquant", "precision": "bf16"})"),
            "calibration: smoothquant is for precision fp8 and int8, not 'bf16'");
  EXPECT_EQ(reason(R"({"head": "16bit", "precision": "bf16"})"),
            "head: 16bit is for precision fp8, int8, w8a16 and w4a16, which store it in 8 bits, not 'bf16'");
  EXPECT_EQ(reason(R"({"kv": "16bit", "precision": "fp32"})"),
            "kv: 16bit needs activations of 16 bits, precision 'fp32' has 32");
}

// Without it two cases that compute the same would be two, or two that do not would be one.
TEST(Axes, SuitesUseThoseThatChangeWhatTheyMeasure) {
  const auto used = [](std::string_view axis) {
    std::string all;
    for (const Suite suite : suites()) {
      for (const std::string& op :
           suite_ops(suite).empty() ? std::vector<std::string>{""} : suite_ops(suite)) {
        if (axis_used(suite, op, axis))
          all += fmt::format("{}{}{} ", suite_name(suite), op.empty() ? "" : ":", op);
      }
    }
    return all;
  };
  const std::string memory =
      "memory:cold_load memory:warm_load memory:allocation memory:peak memory:fragmentation ";
  EXPECT_EQ(used("calibration"), "encoder decoder generate " + memory);
  EXPECT_EQ(used("head"), "decoder generate kernels:gemm_head kernels:head_argmax " + memory);
  EXPECT_EQ(used("kv"),
            "decoder generate kernels:decode_self_attention kernels:cross_attention memory:allocation "
            "memory:peak memory:fragmentation ");
  EXPECT_EQ(used("allreduce"), "encoder decoder generate collectives:all_reduce collectives:chain ");
}

// Without it a case of one rank would be measured once for each way in which ranks could have summed.
TEST(Axes, OneRankSumsInNoWay) {
  Case c;
  c.allreduce = "nccl";
  EXPECT_EQ(case_id(canonical(c)), case_id(Case{}));
  c.tp = 2;
  EXPECT_EQ(canonical(c).allreduce, "nccl");
}

// Without it a form would be loaded, keyed and counted as another.
TEST(WeightForm, IsWhatTheAxesSay) {
  Case c;
  EXPECT_EQ(weight_form(c), WeightForm{.precision = Precision::kBf16});
  c.precision = Precision::kInt8;
  c.calibration = "smoothquant";
  c.head = "16bit";
  c.sparsity = "heads:0.5";
  EXPECT_EQ(weight_form(c), (WeightForm{.precision = Precision::kInt8,
                                        .sparsity = parse_sparsity("heads:0.5"),
                                        .calibration = Calibration::kSmoothQuant,
                                        .head = HeadStorage::k16Bit}));
  c.calibration = "awq";
  EXPECT_EQ(weight_form(c).calibration, Calibration::kAwq);
}

// Without it a lossy case would be timed without its accuracy, or one that loses nothing asked for it.
TEST(IsLossy, IsAnyFormThatLosesMoreThanRounding) {
  const auto lossy_with = [](const char* precision, const char* kv, const char* sparsity) {
    Case c;
    c.precision = parse_precision(precision);
    c.kv = kv;
    c.sparsity = sparsity;
    return is_lossy(c);
  };
  EXPECT_FALSE(lossy_with("bf16", "same", "dense"));
  EXPECT_FALSE(lossy_with("bf16", "16bit", "dense")) << "as it is";
  EXPECT_FALSE(lossy_with("fp32", "same", "dense"));
  EXPECT_TRUE(lossy_with("bf16", "fp8", "dense"));
  EXPECT_TRUE(lossy_with("fp32", "int8", "dense"));
  EXPECT_TRUE(lossy_with("bf16", "same", "2:4"));
  for (const char* precision : {"fp8", "int8", "w8a16", "w4a16"}) {
    EXPECT_TRUE(lossy_with(precision, "same", "dense"));
    EXPECT_TRUE(lossy_with(precision, "16bit", "dense"));
  }
}

}  // namespace
}  // namespace tandem
