// The products of a plan: by whom, and where the norm in front of them is done.
#include <fmt/format.h>

#include <algorithm>

#include "harness/base/error.h"
#include "kernels/gemm/problem.h"
#include "kernels/plan/builder.h"
#include "kernels/skinny/skinny_shape.h"
#include "kernels/tiled_gemm/tiled_shape.h"

namespace tandem::kernels {
namespace {

/// Does the library's epilogue compute this activation of this product? Its GELU is the tanh form with a fast
/// tanh, too coarse for fp32; odd widths have no kernel with an activation.
bool library_activates(Activation activation, DType dtype, int64_t n) {
  if (n % 8 != 0) return false;
  return activation == Activation::kRelu || (activation == Activation::kGeluTanh && dtype != DType::kF32);
}

static_assert(kPlanStatsColumns == kStatsColumns && kStatisticsRows >= kStatsMinRows);

/// Does the own product of several bf16 rows with such a matrix leave and take statistics?
bool has_statistics(const DenseWeight& w) {
  return !coded(w.weight.dtype) && !w.sparse() && !w.input_dtype;
}

}  // namespace

PlanTensor PlanBuilder::dense(const Stream& x, const Dense& what, Residual* normalised) {
  const int64_t rows = x.rows.rows;
  const int64_t k = what.weight.in();
  const int64_t width = what.weight.weight.rows;
  const int64_t n = what.gated ? width / 2 : width;
  const bool own = skinny(what.kind, rows, n, what.weight);
  DenseOp op{.x = x.rows,
             .residual = what.residual.rows,
             .weight = what.weight,
             .activation = what.activation,
             .gated = what.gated,
             .kernel = DenseKernel::kSkinny,
             .residual_stats = what.residual.stats,
             .residual_norm = what.residual.norm};
  ProductInput in{.x = x.rows};
  if (own && fuses_norm(x, what.weight)) {
    op.norm = x.pending;
    // With the sums, a product of bf16 need not wait for the row's moments.
    if (section_ == PlanSection::kStep && dtype_ == DType::kBF16 && has_statistics(what.weight))
      op.norm_sums = norm_sums(what);
    if (normalised != nullptr) normalised->rows = op.norm_out = activations(PhaseKind::kNorm, rows, k);
  } else if (!own || !norm_by_statistics(x, what, op, normalised)) {
    in = product_input(x, what, own, normalised);
    op.x = in.x;
    op.x_scales = in.scales;
  }
  const DType out = what.residual.rows.empty() ? dtype_ : stream_dtype_;
  op.y = scratch(phase_path(phase(what.kind)), out, rows, n);
  if (own) {
    add(what.kind, op);
  } else {
    library_dense(in, what, op.y);
  }
  return op.y;
}

bool PlanBuilder::statistics_pay(int64_t rows) const {
  const bool wide = request_.auto_own_rows >= kAutoWideRows;  // the kernels that leave statistics
  if (!request_.norms_by_statistics || !wide || rows < kStatisticsRows || dtype_ != DType::kBF16 ||
      request_.slice)
    return false;
  return config().d_model >= request_.statistics_width && config().d_model % kPlanStatsColumns == 0 &&
         std::ranges::all_of(request_.weights.decoder.layers, [](const DecoderLayerWeight& layer) {
           return has_statistics(layer.self.out) && has_statistics(layer.cross.out) &&
                  has_statistics(layer.ffn.down);
         });
}

DenseOp* PlanBuilder::leaves_statistics(const Stream& x) {
  if (!norms_by_statistics_ || !x.pending || !x.addend.empty() || plan_.ops.empty()) return nullptr;
  auto* product = std::get_if<DenseOp>(&plan_.ops.back().body);
  const bool made_them =
      product != nullptr && product->kernel == DenseKernel::kSkinny && product->y.buffer == x.rows.buffer;
  return made_them ? product : nullptr;
}

PlanTensor PlanBuilder::norm_sums(const Dense& what) {
  if (config().norm != Norm::kLayer) return {};
  return state(phase_path(phase(what.kind)) + ".norm_sums", DType::kF32, 2, what.weight.weight.rows,
               BufferRole::kInput);
}

bool PlanBuilder::norm_by_statistics(const Stream& x, const Dense& what, DenseOp& op, Residual* normalised) {
  DenseOp* const product = leaves_statistics(x);
  if (product == nullptr || !has_statistics(what.weight)) return false;
  const auto [rows, cols] = std::pair(x.rows.rows, x.rows.cols);
  const std::string name = phase_path(phase(PhaseKind::kNorm));
  op.x = product->scaled = scratch(name + ".scaled", dtype_, rows, cols);
  op.x_stats = product->stats = scratch(name + ".stats", DType::kF32, cols / kPlanStatsColumns, 2 * rows);
  op.norm = product->stats_norm = x.pending;
  op.norm_sums = norm_sums(what);
  if (normalised != nullptr) *normalised = {.rows = x.rows, .stats = op.x_stats, .norm = x.pending};
  return true;
}

bool PlanBuilder::fuses_norm(const Stream& x, const DenseWeight& weight) const {
  const auto rows = static_cast<int>(x.rows.rows);
  return x.pending && !x.partial && x.addend.empty() &&
         norm_prologue_pays(rows, static_cast<int>(weight.in())) &&
         (rows == 1 || !(weight.input_dtype || weight.sparse()));
}

PlanBuilder::ProductInput PlanBuilder::product_input(const Stream& x, const Dense& what, bool own,
                                                     Residual* normalised) {
  // An own product of one row quantises it.
  const std::optional<DType> narrow = own && x.rows.rows == 1 ? std::nullopt : what.weight.input_dtype;
  if (narrow && x.pending) {  // the norm writes codes at once
    const std::string name = phase_path(phase(PhaseKind::kNorm));
    const ProductInput in{.x = scratch(name + ".codes", *narrow, x.rows.rows, x.rows.cols),
                          .scales = scratch(name + ".scales", DType::kF32, 1, x.rows.rows)};
    NormOp op{.residual = x.addend, .codes = in.x, .scales = in.scales, .weight = *x.pending};
    if (normalised != nullptr)
      normalised->rows = op.y = activations(PhaseKind::kNorm, x.rows.rows, x.rows.cols);
    add_norm(x, op);
    return in;
  }
  const PlanTensor rows = materialise(x);
  if (normalised != nullptr) normalised->rows = rows;
  if (!narrow) return {.x = rows};
  const Quantised q = quantised(what.kind, rows, *narrow, rows.cols);
  return {.x = q.codes, .scales = q.scales};
}

void PlanBuilder::library_dense(const ProductInput& in, const Dense& what, const PlanTensor& y) {
  const DenseWeight& w = what.weight;
  if (w.sparse() && w.input_dtype) {
    throw ImpossibleCase(
        "sparsity: products of rows in 8 bits read every weight; what masks remove must be stored as zeros");
  }
  DenseOp op{.x = in.x, .residual = what.residual.rows, .y = y, .x_scales = in.scales, .weight = w};
  // The library leaves sums of integers, and a pass of our own does the rest.
  if (w.input_dtype == DType::kI8) {
    op.scratch = scratch(phase_path(phase(what.kind)) + ".sums", DType::kI32, in.x.rows, w.weight.rows);
    op.activation = what.activation;
    op.gated = what.gated;
    add(what.kind, op);
    return;
  }
  const bool structured = request_.structured && w.two_of_four && !coded(w.weight.dtype) &&
                          dtype_ != DType::kF32 && structured_takes(in.x.rows, w.weight.rows, w.in());
  if (structured) op.kernel = DenseKernel::kStructured;
  if (!structured && !w.input_dtype && (coded(w.weight.dtype) || w.sparse()))
    op.scratch = scratch(phase_path(phase(what.kind)) + ".weight", dtype_, w.weight.rows, w.in());
  const bool activates = what.activation && !what.gated &&
                         (structured ? *what.activation == Activation::kRelu
                                     : library_activates(*what.activation, dtype_, y.cols));
  const bool own = tiled(in, what, y, what.activation && !activates);
  if (own) op.kernel = DenseKernel::kTiled;
  if (own || !what.activation || activates) {
    op.activation = what.activation;
    op.gated = what.gated;
    add(what.kind, op);
    return;
  }
  const PlanTensor wide = what.gated ? activations(what.kind, in.x.rows, w.weight.rows) : y;
  op.residual = {};
  op.y = wide;
  op.weight.bias = {};
  add(what.kind, op);
  add(what.kind,
      ActivationOp{.x = wide, .y = y, .bias = w.bias, .activation = *what.activation, .gated = what.gated});
}

bool PlanBuilder::tiled(const ProductInput& in, const Dense& what, const PlanTensor& y, bool passes) const {
  const DenseWeight& w = what.weight;
  const bool wanted =
      request_.kernel == KernelChoice::kOwn || (request_.kernel == KernelChoice::kAuto && passes &&
                                                !what.gated && in.x.rows >= request_.auto_tiled_rows);
  if (!request_.tiled || !wanted || w.input_dtype || w.sparse() || coded(w.weight.dtype)) return false;
  const auto serves = [&](const PlanTensor& t) {
    return t.empty() || (plan_.buffers[t.buffer].dtype == dtype_ && t.offset % 8 == 0 && t.stride % 8 == 0);
  };
  return serves(in.x) && serves(y) && serves(what.residual.rows) &&
         tiled_gemm_supports(dtype_, in.x.rows, y.cols, w.in());
}

}  // namespace tandem::kernels
