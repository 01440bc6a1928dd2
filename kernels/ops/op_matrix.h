// The weight matrix of a product of suite_kernels, stored as the case's precision has it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "harness/weights/weights.h"
#include "kernels/ops/op_setup.h"
#include "kernels/ops/op_sparsity.h"

namespace tandem::kernels {

/// Copies of a matrix [rows, cols] of random values, as many as make them far larger than L2 together, each with its scales
/// and its bias. Of a sparse one all copies store the same elements.
class OpMatrix {
 public:
  /// With inputs of (-1, 1) products have unit variance.
  OpMatrix(const OpSetup& s, TensorUse use, int64_t rows, int64_t cols, bool bias);

  int copies() const { return copies_; }
  std::shared_ptr<OpWeights> weights() const { return weights_; }
  DenseWeight copy(int i) const;
  /// Of one copy: values, scales and what says which are stored.
  double stored_bytes() const;
  /// Of the matrix's elements.
  double fraction_kept() const {
    return static_cast<double>(sparsity_->kept) / static_cast<double>(rows_ * cols_);
  }
  /// Of a product with so many rows: those of the dense matrix, or of the elements that a bitmap has.
  double flops(int64_t rows) const;
  /// Whose rate its products have: a matrix in the type of activations is not multiplied in the precision's format.
  ComputeUnit unit() const {
    if (storage_.two_of_four) return ComputeUnit::kStructured;
    return storage_.dtype == dtype_ ? ComputeUnit::kActivations : ComputeUnit::kProduct;
  }
  /// Bytes of one row of inputs as the product reads it from memory.
  double input_row_bytes(bool library) const;

  /// On the host, of the last copy: values of rows [first, first + count), and their biases (0 without).
  std::vector<float> rows(int64_t first, int64_t count) const;
  std::vector<float> biases(int64_t first, int64_t count) const;
  /// What is multiplied of a row of inputs: itself, or the values of its codes.
  std::vector<float> input(std::span<const float> x) const;

 private:
  std::vector<float> sparse_rows(int64_t first, int64_t count) const;

  enum Region : int { kValues, kScales, kBias, kMarks, kStarts };

  DType dtype_;
  Storage storage_;
  std::optional<DType> input_dtype_;
  int64_t rows_;
  int64_t cols_;
  bool has_bias_;
  std::shared_ptr<const OpSparsity> sparsity_;
  int copies_;
  std::shared_ptr<OpWeights> weights_;
};

}  // namespace tandem::kernels
