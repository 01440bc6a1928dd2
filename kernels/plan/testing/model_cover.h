// Small models and batches for tests: rows of a covering array in which every pair of values of every two
// factors occurs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/base/precision.h"
#include "harness/model/config.h"
#include "harness/weights/sparsity.h"

namespace tandem::kernels {

struct CoverCase {
  ModelConfig config;
  Precision precision = Precision::kFp32;
  KvType kv = KvType::kSame;
  SparsitySpec sparsity = {};
  std::string kernel = "auto";
  int degree = 1;                ///< ranks
  std::vector<int32_t> lengths;  ///< of the sources
  std::string text;              ///< the row of the array, for messages
};

/// A fresh array from `seed`; `precisions` and `kvs` are the factors of that name (a K/V cache of 8 bits goes with activations
/// of bf16 only; other rows have `same`), and so are `degrees`: with several of them, sides have 8 or 16 heads. `patterns` are
/// that of sparsity. Two layers a side, sequences of up to 40 tokens. Widths are multiples of 8, of 16 where activations are
/// quantised.
std::vector<CoverCase> covering_cases(uint64_t seed, const std::vector<Precision>& precisions,
                                      const std::vector<KvType>& kvs = {KvType::kSame},
                                      const std::vector<int>& degrees = {1},
                                      const std::vector<SparsitySpec>& patterns = {SparsitySpec{}});

}  // namespace tandem::kernels
