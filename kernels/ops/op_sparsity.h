// Which elements of a matrix of suite_kernels are stored, drawn at random.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harness/weights/sparsity.h"
#include "harness/weights/storage.h"

namespace tandem::kernels {

/// The parts of a sparse matrix [rows, cols] beside its values, as DenseWeight has them.
struct OpSparsity {
  std::vector<uint8_t> metadata = {};
  std::vector<uint8_t> bitmap = {};
  std::vector<uint8_t> starts = {};  ///< as bytes
  int64_t values = 0;                ///< places of values, those that no element has included
  int64_t kept = 0;                  ///< elements

  /// `storage` as a form of the weights has it; `removed` the fraction that a bitmap leaves out.
  OpSparsity(const Storage& storage, int64_t rows, int64_t cols, double removed);

  /// Places of a row's values: of `row`, and as many columns as are stored. `row_values` what lies from its start on.
  std::vector<int64_t> columns(const Storage& storage, int64_t row, int64_t cols) const;
  /// The first place of a row's values.
  int64_t first_value(const Storage& storage, int64_t row, int64_t cols) const;
};

/// Storage of a product's matrix with this sparsity: with a bitmap where that is smaller.
Storage op_storage(const Storage& dense, const SparsitySpec& sparsity);

}  // namespace tandem::kernels
