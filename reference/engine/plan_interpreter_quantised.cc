// Rows of codes with scales, and weights as they are stored.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/quantise.h"
#include "reference/engine/plan_interpreter.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {
namespace {

float of_bits(DType dtype, uint32_t bits) {
  switch (dtype) {
    case DType::kF16:
      return fp16_to_float(static_cast<uint16_t>(bits));
    case DType::kBF16:
      return bf16_to_float(static_cast<uint16_t>(bits));
    default: {
      float v;
      std::memcpy(&v, &bits, sizeof(v));
      return v;
    }
  }
}

float rounded(DType dtype, float v) {
  if (dtype == DType::kF16) return fp16_to_float(float_to_fp16(v));
  return dtype == DType::kBF16 ? bf16_to_float(float_to_bf16(v)) : v;
}

/// The fields of a view's rows, from its start in memory.
std::vector<uint32_t> fields(const TensorView& t) {
  const PackedPlane plane{.offset = 0, .rows = t.rows, .cols = t.cols, .bits = dtype_bits(t.dtype)};
  const std::span<const std::byte> bytes(t.as<std::byte>(), static_cast<size_t>(t.bytes()));
  return unpack(plane, {.rows = t.rows, .cols = t.cols}, bytes);
}

}  // namespace

// ---- Codes
// ------------------------------------------------------------------------------------------------------------

void PlanInterpreter::write_codes(const PlanTensor& codes, const PlanTensor& scales, MatrixView x,
                                  int64_t group) {
  const Storage storage{.dtype = buffer(codes).dtype, .scale_group = static_cast<int>(group)};
  const int64_t groups = storage.scales_per_row(x.cols);
  std::vector<uint32_t> bits(static_cast<size_t>(x.cols));
  std::vector<float> of_row(static_cast<size_t>(groups));
  for (int64_t r = 0; r < x.rows; ++r) {
    quantise_row(storage, {x.row(r), bits.size()}, bits, of_row);
    for (int64_t c = 0; c < x.cols; ++c) write_bits(codes, r, c, bits[static_cast<size_t>(c)]);
    for (int64_t g = 0; g < groups; ++g) write(scales, g, r, of_row[static_cast<size_t>(g)]);
  }
}

Matrix PlanInterpreter::read_codes(const PlanTensor& codes, const PlanTensor& scales, int64_t group) const {
  const Storage storage{.dtype = buffer(codes).dtype, .scale_group = static_cast<int>(group)};
  const int64_t groups = storage.scales_per_row(codes.cols);
  std::vector<uint32_t> bits(static_cast<size_t>(codes.cols));
  std::vector<float> of_row(static_cast<size_t>(groups));
  Matrix x(codes.rows, codes.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) bits[static_cast<size_t>(c)] = read_bits(codes, r, c);
    for (int64_t g = 0; g < groups; ++g) of_row[static_cast<size_t>(g)] = read(scales, g, r);
    dequantise_row(storage, bits, of_row, {x.row(r), bits.size()});
  }
  return x;
}

Matrix PlanInterpreter::keys_values(const PlanTensor& rows, const PlanTensor& scales) const {
  return scales.empty() ? read(rows) : read_codes(rows, scales, rows.cols / scales.rows);
}

Matrix PlanInterpreter::in_activation_type(Matrix x) const {
  const DType dtype = activation_dtype(plan_.precision);
  for (float& v : x.values) v = rounded(dtype, v);
  return x;
}

Matrix PlanInterpreter::product_input(const PlanTensor& x, const PlanTensor& x_scales,
                                      const std::optional<NormWeight>& weight, const PlanTensor& norm_out,
                                      const DenseWeight& w) {
  if (!x_scales.empty()) return read_codes(x, x_scales, x.cols);
  Matrix rows = read(x);
  if (weight) rows = norm(*weight, rows);
  if (!norm_out.empty()) write(norm_out, rows);
  return w.input_dtype ? quantised_rows(in_activation_type(std::move(rows)), *w.input_dtype) : rows;
}

void PlanInterpreter::apply(const QuantiseOp& op) {
  write_codes(op.codes, op.scales, read(op.x), op.group);
}

// ---- Weights
// ----------------------------------------------------------------------------------------------------------

TensorView PlanInterpreter::in_fp32(const TensorView& t) const {
  if (t.empty() || t.dtype == DType::kF32) return t;
  const auto [at, fresh] = stored_.try_emplace({t.data, t.rows}, t.rows, t.cols);
  Matrix& m = at->second;
  if (fresh) {
    const std::vector<uint32_t> bits = fields(t);
    std::transform(bits.begin(), bits.end(), m.values.begin(),
                   [&](uint32_t b) { return of_bits(t.dtype, b); });
  }
  return {m.values.data(), DType::kF32, t.rows, t.cols};
}

NormWeight PlanInterpreter::in_fp32(const NormWeight& w) const {
  return {.gamma = in_fp32(w.gamma), .beta = in_fp32(w.beta)};
}

DenseWeight PlanInterpreter::in_fp32(const DenseWeight& w) const {
  DenseWeight plain = w;
  plain.input_dtype = {};  // the interpreter has quantised them
  plain.bias = in_fp32(w.bias);
  if (w.scales.empty() && !w.sparse()) {
    plain.weight = in_fp32(w.weight);
    return plain;
  }
  const TensorView& t = w.weight;
  const int64_t in = w.in();
  // Parts of one bitmap have the group's data: their bits tell them apart.
  const void* key = w.bitmap != nullptr ? w.bitmap : t.data;
  const auto [at, fresh] = stored_.try_emplace({key, t.rows}, t.rows, in);
  Matrix& m = at->second;
  if (fresh) {
    const std::vector<uint32_t> bits = w.sparse() ? unpack_sparse(w) : fields(t);
    const auto cols = static_cast<size_t>(in);
    if (w.scales.empty()) {
      std::ranges::transform(bits, m.values.begin(), [&](uint32_t b) { return of_bits(t.dtype, b); });
    } else {
      const std::vector<uint32_t> scale_bits = fields(w.scales);
      std::vector<float> scales(scale_bits.size());
      std::ranges::transform(scale_bits, scales.begin(),
                             [&](uint32_t b) { return of_bits(w.scales.dtype, b); });
      const Storage storage{.dtype = t.dtype,
                            .scale_group = t.dtype == DType::kI4 ? kInt4Group : Storage::kWholeRow,
                            .scale_dtype = w.scales.dtype};
      const auto groups = static_cast<size_t>(w.scales.cols);
      for (size_t r = 0; r < static_cast<size_t>(t.rows); ++r) {
        dequantise_row(storage, std::span(bits).subspan(r * cols, cols),
                       std::span(scales).subspan(r * groups, groups), {m.row(static_cast<int64_t>(r)), cols});
      }
    }
  }
  plain.weight = {m.values.data(), DType::kF32, t.rows, in};
  plain.two_of_four = false;
  plain.bitmap = plain.metadata = nullptr;
  plain.row_starts = nullptr;
  plain.scales = {};
  return plain;
}

}  // namespace tandem::reference
