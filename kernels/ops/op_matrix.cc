#include "kernels/ops/op_matrix.h"

#include <algorithm>
#include <cmath>

#include "harness/weights/values/quantise.h"

namespace tandem::kernels {
namespace {

/// Values of a code are uniform in (-this, this): of 8 bits as they are filled, of 4 bits any.
double code_range(DType dtype) {
  return dtype == DType::kI4 ? 8 : largest_code(dtype);
}

uint32_t code_at(DType dtype, const uint8_t* row, int64_t i) {
  if (dtype != DType::kI4) return row[i];
  return (row[i / 2] >> (i % 2 * 4)) & 15u;
}

}  // namespace

OpMatrix::OpMatrix(const OpSetup& s, TensorUse use, int64_t rows, int64_t cols, bool bias)
    : dtype_(s.dtype), rows_(rows), cols_(cols), has_bias_(bias) {
  const WeightForm form = weight_form(s.c);
  storage_ = storage_of(form, use);
  if (use == TensorUse::kProduct) storage_ = op_storage(storage_, form.sparsity);
  sparsity_ = std::make_shared<OpSparsity>(storage_, rows, cols, form.sparsity.unstructured);
  if (quantises_activations(form) && dtype_bits(storage_.dtype) == 8) input_dtype_ = storage_.dtype;
  copies_ = copies_beyond_l2(*s.device, static_cast<int64_t>(stored_bytes()));
  const double scale = 3 / std::sqrt(static_cast<double>(cols) * fraction_kept());
  // A uniform code times a uniform scale has the variance of a uniform value of `scale`.
  const bool coded = storage_.scale_group != 0;
  const double scales = coded ? scale * std::sqrt(3.0) / code_range(storage_.dtype) : 0;
  const std::vector<uint8_t>& marks = storage_.bitmap ? sparsity_->bitmap : sparsity_->metadata;
  const auto bytes = [](const std::vector<uint8_t>& given) -> OpWeights::Region {
    return {DType::kU8, static_cast<int64_t>(given.size()), 0, &given};
  };
  weights_ = s.weights({{storage_.dtype, sparsity_->values, coded ? code_range(storage_.dtype) : scale},
                        {storage_.scale_dtype, rows * storage_.scales_per_row(cols), scales},
                        {s.dtype, bias ? rows : 0, scale},
                        bytes(marks),
                        bytes(sparsity_->starts)},
                       copies_);
}

double OpMatrix::stored_bytes() const {
  const auto parts =
      tensor_bytes(storage_.dtype, sparsity_->values) + rows_ * storage_.scale_row_bytes(cols_) +
      static_cast<int64_t>(sparsity_->metadata.size() + sparsity_->bitmap.size() + sparsity_->starts.size());
  return static_cast<double>(parts);
}

double OpMatrix::flops(int64_t rows) const {
  const int64_t elements = storage_.bitmap ? sparsity_->kept : rows_ * cols_;
  return 2.0 * static_cast<double>(rows) * static_cast<double>(elements);
}

DenseWeight OpMatrix::copy(int i) const {
  DenseWeight w{.weight = weights_->view(i, kValues, rows_, storage_.stored_cols(cols_)),
                .bias = has_bias_ ? weights_->view(i, kBias, 1, rows_) : TensorView{}};
  const void* const marks = weights_->view(i, kMarks, 1, 0).data;
  w.two_of_four = storage_.two_of_four;
  if (storage_.two_of_four) w.metadata = marks;
  if (storage_.bitmap) {
    w.bitmap = marks;
    w.row_starts = weights_->view(i, kStarts, 1, 0).as<uint32_t>();
  }
  if (storage_.scale_group != 0) w.scales = weights_->view(i, kScales, rows_, storage_.scales_per_row(cols_));
  w.input_dtype = input_dtype_;
  return w;
}

double OpMatrix::input_row_bytes(bool library) const {
  Storage row{.dtype = dtype_};
  if (library && input_dtype_) row = {.dtype = *input_dtype_, .scale_group = Storage::kWholeRow};
  return static_cast<double>(row.row_bytes(cols_));
}

std::vector<float> OpMatrix::rows(int64_t first, int64_t count) const {
  if (storage_.two_of_four || storage_.bitmap) return sparse_rows(first, count);
  const DenseWeight last = copy(copies_ - 1);
  if (storage_.scale_group == 0) return weights_->download(last.weight, first * cols_, count * cols_);
  const int64_t row_bytes = storage_.value_row_bytes(cols_);
  const int64_t groups = storage_.scales_per_row(cols_);
  const std::vector<uint8_t> raw =
      weights_->download_bytes(last.weight, first * row_bytes, count * row_bytes);
  const std::vector<float> scales = weights_->download(last.scales, first * groups, count * groups);
  std::vector<float> values(static_cast<size_t>(count * cols_));
  std::vector<uint32_t> codes(static_cast<size_t>(cols_));
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < cols_; ++i) codes[i] = code_at(storage_.dtype, raw.data() + r * row_bytes, i);
    dequantise_row(storage_, codes, std::span(scales).subspan(r * groups, groups),
                   std::span(values).subspan(r * cols_, cols_));
  }
  return values;
}

std::vector<float> OpMatrix::sparse_rows(int64_t first, int64_t count) const {
  const DenseWeight last = copy(copies_ - 1);
  const int64_t groups = storage_.scales_per_row(cols_);
  std::vector<float> values(static_cast<size_t>(count * cols_));
  for (int64_t r = 0; r < count; ++r) {
    const std::vector<int64_t> stored = sparsity_->columns(storage_, first + r, cols_);
    const int64_t from = sparsity_->first_value(storage_, first + r, cols_);
    const auto n = static_cast<int64_t>(stored.size());
    if (n == 0) continue;
    const std::span row =
        std::span(values).subspan(static_cast<size_t>(r * cols_), static_cast<size_t>(cols_));
    if (storage_.scale_group == 0) {
      const std::vector<float> kept = weights_->download(last.weight, from, n);
      for (int64_t i = 0; i < n; ++i) row[static_cast<size_t>(stored[i])] = kept[static_cast<size_t>(i)];
      continue;
    }
    const std::vector<uint8_t> raw = weights_->download_bytes(last.weight, tensor_bytes(storage_.dtype, from),
                                                              tensor_bytes(storage_.dtype, n));
    const std::vector<float> scales = weights_->download(last.scales, (first + r) * groups, groups);
    std::vector<uint32_t> codes(static_cast<size_t>(cols_));
    for (int64_t i = 0; i < n; ++i)
      codes[static_cast<size_t>(stored[i])] = code_at(storage_.dtype, raw.data(), i);
    dequantise_row(storage_, codes, scales, row);
  }
  return values;
}

std::vector<float> OpMatrix::biases(int64_t first, int64_t count) const {
  if (!has_bias_) return std::vector<float>(static_cast<size_t>(count));
  return weights_->download(copy(copies_ - 1).bias, first, count);
}

std::vector<float> OpMatrix::input(std::span<const float> x) const {
  return input_dtype_ ? through_codes(*input_dtype_, x) : std::vector<float>(x.begin(), x.end());
}

}  // namespace tandem::kernels
