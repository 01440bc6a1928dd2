#include "kernels/gemm/choices.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>

#include "harness/base/error.h"
#include "kernels/gemm/choices_test_util.h"
#include "kernels/gemm/problem.h"

namespace tandem::kernels {
namespace {

namespace fs = std::filesystem;

const GemmPlace kPlace{"A card", 130100};
const GemmProblem kProblem{.m = 64, .n = 3072, .k = 1024, .epilogue = GemmEpilogue::kBiasRelu};

GemmChoice some_choice(uint8_t first) {
  GemmChoice c{.workspace_bytes = 4096, .us = 5.25, .candidates = 40, .description = "algo 66 \"quoted\""};
  for (size_t i = 0; i < c.algo.size(); ++i) c.algo[i] = static_cast<uint8_t>(first + 37 * i);
  return c;
}

// Without it: two different products share a key, or a key read from a file means another product.
TEST(GemmProblem, TextRoundTrips) {
  const GemmProblem problems[] = {
      kProblem,
      {.m = 1, .n = 50265, .k = 1024, .x = DType::kF16, .w = DType::kF16, .out = DType::kF32},
      {.m = 7,
       .n = 8,
       .k = 9,
       .x = DType::kF32,
       .w = DType::kF32,
       .out = DType::kF32,
       .tf32 = true,
       .alignment = 4},
      {.m = 7,
       .n = 8,
       .k = 9,
       .epilogue = GemmEpilogue::kBias,
       .residual = true,
       .ldx = 12,
       .ldy = 16,
       .alignment = 2},
      {.m = 7, .n = 8, .k = 9, .epilogue = GemmEpilogue::kBiasGeluTanh},
      {.m = 7, .n = 8, .k = 32, .x = DType::kF8, .w = DType::kF8, .epilogue = GemmEpilogue::kBiasGeluTanh},
      {.m = 7, .n = 8, .k = 32, .x = DType::kF8, .w = DType::kF8, .residual = true, .ldx = 48},
      {.m = 7, .n = 8, .k = 32, .x = DType::kF8, .w = DType::kF8, .out = DType::kF32},
      {.m = 7, .n = 8, .k = 32, .x = DType::kI8, .w = DType::kI8, .out = DType::kI32, .ldy = 12},
      {.m = 8, .n = 16, .k = 32, .two_of_four = true, .epilogue = GemmEpilogue::kBiasRelu},
      {.m = 8, .n = 16, .k = 32, .epilogue = GemmEpilogue::kBiasRelu},
      {.m = 8, .n = 16, .k = 32, .two_of_four = true, .residual = true, .ldx = 48, .ldy = 32},
  };
  for (const GemmProblem& p : problems) {
    EXPECT_EQ(parse_problem(problem_text(p)), p) << problem_text(p);
    for (const GemmProblem& q : problems) {
      EXPECT_EQ(problem_text(p) == problem_text(q), p == q);
      EXPECT_EQ(std::hash<GemmProblem>()(p) == std::hash<GemmProblem>()(q), p == q);
    }
  }
  EXPECT_EQ(problem_text(kProblem), "m64 n3072 k1024 bf16-bf16 bias_relu");
  GemmProblem dense = kProblem;
  dense.ldx = dense.k;
  EXPECT_EQ(problem_text(dense), problem_text(kProblem)) << "a stride equal to the width is no stride";
}

// Without it: a shape that cuSPARSELt has no product of reaches it, or a choice of a 2:4 product is taken for the dense one's.
TEST(GemmProblem, ChecksTwoOfFour) {
  GemmProblem p = kProblem;
  p.two_of_four = true;
  EXPECT_NO_THROW(check(p));
  EXPECT_EQ(problem_text(p), "m64 n3072 k1024 bf16*2:4-bf16 bias_relu");
  const auto refused = [&](const std::function<void(GemmProblem&)>& change) {
    GemmProblem q = p;
    change(q);
    EXPECT_THROW(check(q), UsageError) << problem_text(q);
  };
  refused([](GemmProblem& q) { q.m = 4; });
  refused([](GemmProblem& q) { q.n = 8; });
  refused([](GemmProblem& q) { q.k = 1000; });
  refused([](GemmProblem& q) { q.ldy = q.n + 8; });
  refused([](GemmProblem& q) { q.out = DType::kF32; });
  refused([](GemmProblem& q) { q.x = q.w = DType::kF8; });
  refused([](GemmProblem& q) { q.epilogue = GemmEpilogue::kGeluTanh; });
  refused([](GemmProblem& q) { q.alignment = 8; });
}

// Without it: an impossible product reaches the library, whose error names nothing.
TEST(GemmProblem, ChecksNameTheProduct) {
  const auto refused = [](const std::function<void(GemmProblem&)>& change) {
    GemmProblem p = kProblem;
    change(p);
    try {
      check(p);
      ADD_FAILURE() << problem_text(p) << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("k1024"), std::string::npos) << error.what();
    }
  };
  refused([](GemmProblem& p) { p.m = 0; });
  refused([](GemmProblem& p) { p.n = -1; });
  refused([](GemmProblem& p) { p.m = int64_t{1} << 31; });
  refused([](GemmProblem& p) { p.x = p.w = DType::kI8; });
  refused([](GemmProblem& p) { p.w = DType::kF16; });
  refused([](GemmProblem& p) { p.x = p.out = DType::kF32; });
  refused([](GemmProblem& p) { p.out = DType::kF16; });
  refused([](GemmProblem& p) { p.tf32 = true; });
  refused([](GemmProblem& p) { p.residual = true; });
  refused([](GemmProblem& p) { p.ldx = 1023; });
  refused([](GemmProblem& p) { p.ldy = 3071; });
  refused([](GemmProblem& p) { p.alignment = 1; });
  refused([](GemmProblem& p) { p.alignment = 32; });
  refused([](GemmProblem& p) { p.alignment = 12; });
  for (const char* text :
       {"", "m1 n2 k3 bf16-bf16", "m1 n2 kx bf16-bf16 none", "m1 n2 k3 bf16 none", "m1 n2 k3 bf16-f16 none",
        "m1 n2 k3 bf16-bf16 gelu", "m1 n2 k3 bf16*i8-bf16 none", "m1 n2 k3 bf16*-bf16 none",
        "m1 n2 k3 bf16-bf16 none ldz4", "m1 n2 k3 bf16-bf16 tf32", "n1 m2 k3 bf16-bf16 none"}) {
    EXPECT_THROW(parse_problem(text), UsageError) << text;
  }
  EXPECT_EQ(pointer_alignment(nullptr), 16);
  EXPECT_EQ(pointer_alignment(reinterpret_cast<void*>(0x1002)), 2);
  EXPECT_EQ(pointer_alignment(reinterpret_cast<void*>(0x1008)), 8);
  EXPECT_EQ(pointer_alignment(reinterpret_cast<void*>(0x1100)), 16);
}

// Without it: a product of 8-bit operands that the library has no kernel for reaches it, or one that it has is refused.
TEST(GemmProblem, EightBitOperands) {
  const GemmProblem f8{.m = 7, .n = 40, .k = 32, .x = DType::kF8, .w = DType::kF8};
  const GemmProblem i8{.m = 7, .n = 36, .k = 32, .x = DType::kI8, .w = DType::kI8, .out = DType::kI32};
  EXPECT_EQ(problem_text(f8), "m7 n40 k32 f8-bf16 none");
  EXPECT_EQ(problem_text(i8), "m7 n36 k32 i8-i32 none");
  EXPECT_EQ(f8.bias_type(), DType::kBF16);
  EXPECT_NO_THROW(check(f8));
  EXPECT_NO_THROW(check(i8));
  const auto refused = [](GemmProblem p, const char* what, const std::function<void(GemmProblem&)>& change) {
    change(p);
    try {
      check(p);
      ADD_FAILURE() << problem_text(p) << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  for (const GemmProblem& p : {f8, i8}) {
    refused(p, "multiples of 16", [](GemmProblem& q) { q.k = 40; });
    refused(p, "multiples of 16", [](GemmProblem& q) { q.ldx = 40; });
    refused(p, "n and ldy", [](GemmProblem& q) { q.n = 38; });
    refused(p, "n and ldy", [](GemmProblem& q) { q.ldy = 42; });
    refused(p, "alignment must be 16", [](GemmProblem& q) { q.alignment = 8; });
    refused(p, "`out` must be", [](GemmProblem& q) { q.out = DType::kF16; });
    refused(p, "tf32", [](GemmProblem& q) { q.tf32 = true; });
    refused(p, "w is bf16", [](GemmProblem& q) { q.w = DType::kBF16; });
  }
  refused(f8, "`out` must be bf16 or f32", [](GemmProblem& q) { q.out = DType::kF8; });
  refused(i8, "epilogue none", [](GemmProblem& q) { q.epilogue = GemmEpilogue::kBias; });
  refused(i8, "without residual", [](GemmProblem& q) { q.residual = true; });
}

// Without it: the plan leaves to the library what it cannot do, or a card without fp8 fails without a reason.
TEST(GemmProblem, WhatTheLibraryCan) {
  for (const DType t : {DType::kBF16, DType::kF8}) {
    EXPECT_TRUE(library_fuses(t, GemmEpilogue::kBiasGeluTanh, false));
    EXPECT_TRUE(library_fuses(t, GemmEpilogue::kBias, true));
    EXPECT_FALSE(library_fuses(t, GemmEpilogue::kRelu, true));
  }
  EXPECT_TRUE(library_fuses(DType::kI8, GemmEpilogue::kNone, false));
  EXPECT_FALSE(library_fuses(DType::kI8, GemmEpilogue::kBias, false));
  EXPECT_FALSE(library_fuses(DType::kI8, GemmEpilogue::kNone, true));
  EXPECT_TRUE(library_takes(DType::kBF16, DType::kBF16, 50265, 7));
  EXPECT_TRUE(library_takes(DType::kF8, DType::kBF16, 8, 16));
  EXPECT_FALSE(library_takes(DType::kF8, DType::kBF16, 50265, 64));
  EXPECT_FALSE(library_takes(DType::kI8, DType::kI32, 64, 24));
  EXPECT_EQ(library_lacks(DType::kF8, 90), "");
  EXPECT_EQ(library_lacks(DType::kI8, 80), "");
  EXPECT_EQ(library_lacks(DType::kF8, 89).find("precision: fp8 needs compute capability 9.0"), 0u);
  EXPECT_NE(library_lacks(DType::kF8, 100).find("the card has 10.0"), std::string::npos);
}

// Without it: a product of mixed types shares the key of another, old choice files lose their entries, or the refusal does
// not say which type is wrong.
TEST(GemmProblem, TypesOfBothOperands) {
  EXPECT_EQ(parse_problem("m64 n3072 k1024 bf16-bf16 bias_relu"), kProblem);
  GemmProblem mixed = kProblem;
  mixed.w = DType::kI8;
  EXPECT_EQ(problem_text(mixed), "m64 n3072 k1024 bf16*i8-bf16 bias_relu");
  EXPECT_NE(std::hash<GemmProblem>()(mixed), std::hash<GemmProblem>()(kProblem));
  for (const bool read : {false, true}) {
    try {
      read ? (void)parse_problem(problem_text(mixed)) : check(mixed);
      ADD_FAILURE() << "bf16 times i8 was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("w is i8, allowed with x of bf16: bf16"), std::string::npos)
          << error.what();
    }
  }
}

// Without it: a choice is lost or altered on its way through the file, or another card sees it.
TEST_F(ChoicesFile, RoundTrips) {
  GemmChoices choices(path_, GemmChoices::Mode::kSearch);
  EXPECT_FALSE(choices.find(kPlace, kProblem));
  EXPECT_EQ(choices.size(), 0u);
  choices.put(kPlace, kProblem, some_choice(200));
  choices.put({"B card", 130100}, kProblem, some_choice(3));
  choices.save();
  const GemmChoices again(path_, GemmChoices::Mode::kReadOnly);
  EXPECT_EQ(again.size(), 2u);
  EXPECT_EQ(again.at(kPlace, kProblem), some_choice(200));
  EXPECT_EQ(again.at({"B card", 130100}, kProblem), some_choice(3));
  EXPECT_FALSE(again.find({"A card", 130200}, kProblem)) << "another library version";
  EXPECT_EQ(again.text(), choices.text());
  EXPECT_EQ(again.sha256(), choices.sha256());
  EXPECT_EQ(again.sha256().size(), 64u);
  choices.put(kPlace, kProblem, some_choice(201));
  EXPECT_NE(again.sha256(), choices.sha256());
}

// Without it: a repeated run silently uses other kernels than the run it repeats.
TEST_F(ChoicesFile, ReadOnlyNamesWhatIsMissing) {
  // No file: a case of no products made none, and needs none.
  EXPECT_THROW((void)GemmChoices(path_, GemmChoices::Mode::kReadOnly).at(kPlace, kProblem), UsageError);
  GemmChoices(path_, GemmChoices::Mode::kSearch).save();
  GemmChoices choices(path_, GemmChoices::Mode::kReadOnly);
  try {
    (void)choices.at(kPlace, kProblem);
    ADD_FAILURE() << "a missing choice was found";
  } catch (const UsageError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(problem_text(kProblem)), std::string::npos) << text;
    EXPECT_NE(text.find("A card"), std::string::npos) << text;
    EXPECT_NE(text.find(path_), std::string::npos) << text;
  }
  EXPECT_THROW(choices.put(kPlace, kProblem, some_choice(1)), UsageError);
}

// Without it: a damaged file stops every run, or half of it is believed.
TEST_F(ChoicesFile, CorruptFileIsIgnoredAndRebuilt) {
  GemmChoices good;
  good.put(kPlace, kProblem, some_choice(9));
  const std::string text = good.text();
  std::string bad_hex = text;
  bad_hex[bad_hex.find("\"algo\": \"") + 12] = 'z';
  std::string bad_key = text;
  bad_key.replace(bad_key.find("m64"), 3, "q64");
  for (const std::string& damaged :
       {std::string("{"), std::string(), text.substr(0, text.size() / 2), bad_hex, bad_key,
        std::string("[1, 2]"), std::string(R"({"schema": "other/1", "places": []})"),
        std::string("\xff\xfe\x00", 3), std::string(100000, '[') + std::string(100000, ']')}) {
    write(damaged);
    ::testing::internal::CaptureStderr();
    GemmChoices choices(path_, GemmChoices::Mode::kSearch);
    EXPECT_EQ(choices.size(), 0u) << damaged;
    EXPECT_NE(::testing::internal::GetCapturedStderr().find(path_), std::string::npos) << damaged;
    EXPECT_THROW(GemmChoices(path_, GemmChoices::Mode::kReadOnly), IoError) << damaged;
    choices.put(kPlace, kProblem, some_choice(9));
    ::testing::internal::CaptureStderr();
    choices.save();
    ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(GemmChoices(path_, GemmChoices::Mode::kReadOnly).at(kPlace, kProblem), some_choice(9));
  }
}

// Without it: the last of several workers to save removes what the others found.
TEST_F(ChoicesFile, SaveMerges) {
  GemmChoices first(path_, GemmChoices::Mode::kSearch);
  GemmChoices second(path_, GemmChoices::Mode::kSearch);
  GemmProblem other = kProblem;
  other.m = 65;
  first.put(kPlace, kProblem, some_choice(1));
  second.put(kPlace, other, some_choice(2));
  first.save();
  second.save();
  const GemmChoices both(path_, GemmChoices::Mode::kReadOnly);
  EXPECT_EQ(both.at(kPlace, kProblem), some_choice(1));
  EXPECT_EQ(both.at(kPlace, other), some_choice(2));
  for (const auto& entry : fs::directory_iterator(fs::path(path_).parent_path())) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
}

// Without it: a run on a full or read-only disk ends in silence.
TEST_F(ChoicesFile, UnwritableFolderIsAnError) {
  write("{}");
  const std::string below_a_file = path_ + "/choices.json";
  GemmChoices choices(below_a_file, GemmChoices::Mode::kSearch);
  choices.put(kPlace, kProblem, some_choice(1));
  EXPECT_THROW(choices.save(), IoError);
}

}  // namespace
}  // namespace tandem::kernels
