// Small models and batches for tests: rows of a covering array in which every pair of values of every two
// factors occurs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/base/precision.h"
#include "harness/model/config.h"

namespace tandem::kernels {

struct CoverCase {
  ModelConfig config;
  Precision precision = Precision::kFp32;
  std::string kernel = "auto";
  std::vector<int32_t> lengths;  ///< of the sources
  std::string text;              ///< the row of the array, for messages
};

/// A fresh array from `seed`; `precisions` is the factor of that name. Two layers a side, sequences of up to
/// 40 tokens.
std::vector<CoverCase> covering_cases(uint64_t seed, const std::vector<Precision>& precisions);

}  // namespace tandem::kernels
