#include "kernels/plan/card_form.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/precision.h"

namespace tandem::kernels {
namespace {

WeightForm form_of(Precision precision, const char* sparsity) {
  return {.precision = precision, .sparsity = parse_sparsity(sparsity)};
}

std::vector<SparseKernels> table() {
  const auto all = sparse_kernels_proven();
  return {all.begin(), all.end()};
}

// Breaks when a number of rows has no line, or two: then a storage is used that nobody has looked at.
TEST(CardForm, EveryNumberOfRowsHasOneLine) {
  for (const bool bitmap : {false, true}) {
    for (const int bits : {8, 16}) {
      for (const int rows : {1, 2, 3, 16, 17, 64, 65, 4096, std::numeric_limits<int>::max()}) {
        const auto n = std::ranges::count_if(sparse_kernels_proven(), [&](const SparseKernels& k) {
          return k.bitmap == bitmap && k.bits == bits && k.first_row <= rows && rows <= k.last_row;
        });
        EXPECT_EQ(n, 1) << (bitmap ? "bitmap " : "2:4 ") << bits << " bits, " << rows << " rows";
      }
    }
  }
  for (const SparseKernels& k : sparse_kernels_proven()) EXPECT_NE(std::string(k.why), "") << k.kernel;
}

// Breaks when one unproven number of rows is stored sparse all the same, when a proven storage is not used, or when one pattern's
// proof is another's.
TEST(CardForm, SparseWhereAllRowsAreProven) {
  std::vector<SparseKernels> proven = table();
  const auto set = [&](bool bitmap, int bits, bool value) {
    for (SparseKernels& k : proven) {
      if (k.bitmap == bitmap && k.bits == bits) k.proven = value;
    }
  };
  const WeightForm fours = form_of(Precision::kBf16, "2:4"),
                   bitmap = form_of(Precision::kBf16, "unstructured:0.5");
  set(false, 16, true);
  EXPECT_FALSE(card_form(fours, proven).zeros_stored);
  EXPECT_EQ(zeros_reason(fours, proven), "");
  EXPECT_TRUE(card_form(bitmap, proven).zeros_stored);
  EXPECT_TRUE(card_form(form_of(Precision::kW8a16, "2:4"), proven).zeros_stored);
  EXPECT_TRUE(card_form(form_of(Precision::kW4a16, "2:4"), proven).zeros_stored);
  EXPECT_TRUE(card_form(form_of(Precision::kFp8, "unstructured:0.5"), proven).zeros_stored);
  EXPECT_TRUE(card_form(form_of(Precision::kFp32, "2:4"), proven).zeros_stored) << "no line: no kernel";
  for (SparseKernels& k : proven) {
    if (k.bitmap || k.bits != 16) continue;
    k.proven = false;
    EXPECT_TRUE(card_form(fours, proven).zeros_stored);
    EXPECT_NE(zeros_reason(fours, proven).find(k.why), std::string::npos) << zeros_reason(fours, proven);
    k.proven = true;
  }
  set(true, 16, true);
  EXPECT_FALSE(card_form(form_of(Precision::kFp16, "threshold:0.01"), proven).zeros_stored);
}

// Breaks when a model without masks stores zeros, or a record does not say why dense kernels ran.
TEST(CardForm, OnlyMasksStoreZerosAndSaySo) {
  for (const char* sparsity : {"dense", "heads:0.5", "ffn:0.25+layers:0.5"}) {
    EXPECT_FALSE(card_form(form_of(Precision::kBf16, sparsity)).zeros_stored) << sparsity;
    EXPECT_EQ(zeros_reason(form_of(Precision::kBf16, sparsity)), "");
  }
  EXPECT_EQ(zeros_reason(form_of(Precision::kW8a16, "2:4")),
            "zeros stored: 2:4 of 8 bits at 1 rows and more: none: not built");
  EXPECT_EQ(zeros_reason(form_of(Precision::kFp32, "heads:0.5+2:4")),
            "zeros stored: 2:4 of 32 bits has no kernel");
  for (const char* sparsity : {"2:4", "unstructured:0.5"}) {
    const WeightForm form = form_of(Precision::kBf16, sparsity);
    EXPECT_EQ(zeros_reason(form).starts_with("zeros stored: "), card_form(form).zeros_stored);
  }
}

}  // namespace
}  // namespace tandem::kernels
