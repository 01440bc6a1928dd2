// One launch for each operation of a plan. Element types are those of its tensors and of its weights, which
// check_kernels() found to go together.
#include <fmt/format.h>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/activation/activation.h"
#include "kernels/activation/rescale.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/encoder_attention.h"
#include "kernels/decoding/select.h"
#include "kernels/embedding/embedding.h"
#include "kernels/norm/norm.h"
#include "kernels/quantise/quantise.h"
#include "kernels/runtime/executor.h"
#include "kernels/skinny/skinny.h"
#include "kernels/sparse/unpack.h"
#include "kernels/tiled_gemm/tiled_gemm.h"

namespace tandem::kernels {
namespace {

/// Of the rows that go with a matrix: codes go with bf16.
DType rows_dtype(const DenseWeight& w) {
  return w.scales.empty() ? w.weight.dtype : DType::kBF16;
}

}  // namespace

void PlanExecutor::launch(const EmbedOp& op) {
  const ModelConfig& c = plan_.config;
  EmbeddingParams p{.dtype = op.table.dtype,
                    .out_dtype = type(op.x),
                    .tokens = op.x.rows,
                    .d = c.d_model,
                    .vocab = c.vocab,
                    .ids = at<int32_t>(op.ids),
                    .table = op.table.data,
                    .first_id = static_cast<int>(op.first_id),
                    .table_rows = static_cast<int>(op.table.rows),
                    .scale = static_cast<float>(c.embedding_scale),
                    .x = at(op.x),
                    .dependent = dependent_};
  if (!op.sinusoids.empty()) {
    p.positions = at(op.sinusoids);
    p.positions_dtype = DType::kF32;
    p.position_rows = static_cast<int>(op.sinusoids.rows);
  } else if (!op.learned.empty()) {
    p.positions = op.learned.data;
    p.positions_dtype = op.learned.dtype;
    p.position_rows = static_cast<int>(op.learned.rows);
  }
  if (p.positions != nullptr) {
    p.position_offset = c.position_offset;
    p.offsets = at<int32_t>(op.offsets);
    p.batch = op.offsets.empty() ? 0 : static_cast<int>(op.offsets.cols - 1);
    p.step = at<int32_t>(op.position);
  }
  launch_embedding(p, device_.stream());
}

NormParams PlanExecutor::norm_params(const NormOp& op) const {
  const ModelConfig& c = plan_.config;
  const DType dtype = op.weight.gamma.dtype;
  return {.dtype = dtype,
          .x_dtype = type(op.x),
          .stream_dtype = !op.residual.empty() ? type(op.residual)
                          : !op.sum.empty()    ? type(op.sum)
                                               : dtype,
          .norm = c.norm,
          .rows = op.x.rows,
          .d = static_cast<int>(op.x.cols),
          .eps = static_cast<float>(c.norm_eps),
          .x = at(op.x),
          .residual = at(op.residual),
          .sum = at(op.sum),
          .gamma = op.weight.gamma.data,
          .beta = op.weight.beta.data,
          .y = at(op.y),
          .codes = at(op.codes),
          .code_dtype = type_or(op.codes, DType::kF8),
          .scales = at<float>(op.scales),
          .dependent = dependent_};
}

void PlanExecutor::launch(const NormOp& op) {
  launch_norm(norm_params(op), device_.stream());
}

void PlanExecutor::launch(const DenseOp& op) {
  switch (op.kernel) {
    case DenseKernel::kSkinny:
      return launch_skinny_dense(op);
    case DenseKernel::kTiled:
      return launch_tiled_dense(op);
    case DenseKernel::kLibrary:
    case DenseKernel::kStructured:
      return launch_library_dense(op);
  }
}

void PlanExecutor::launch_tiled_dense(const DenseOp& op) {
  launch_tiled_gemm({.dtype = type(op.x),
                     .m = op.x.rows,
                     .n = op.y.cols,
                     .k = op.x.cols,
                     .x = at(op.x),
                     .ldx = op.x.stride,
                     .w = op.weight.weight.data,
                     .bias = op.weight.bias.data,
                     .residual = at(op.residual),
                     .ld_residual = op.residual.stride,
                     .y = at(op.y),
                     .ldy = op.y.stride,
                     .activation = op.activation,
                     .gated = op.gated,
                     .dependent = dependent_},
                    device_.stream());
}

void PlanExecutor::launch_skinny_dense(const DenseOp& op) {
  const ModelConfig& c = plan_.config;
  const DType dtype = rows_dtype(op.weight);
  SkinnyParams p{.dtype = dtype,
                 .w_dtype = op.weight.weight.dtype,
                 .m = static_cast<int>(op.x.rows),
                 .n = static_cast<int>(op.y.cols),
                 .k = static_cast<int>(op.x.cols),
                 .x = at(op.x),
                 .ldx = op.x.stride,
                 .w = op.weight.weight.data,
                 .scales = op.weight.scales.data,
                 .metadata = op.weight.metadata,
                 .bitmap = static_cast<const uint32_t*>(op.weight.bitmap),
                 .row_starts = op.weight.row_starts,
                 .input_dtype = op.weight.input_dtype,
                 .x_scales = at<float>(op.x_scales),
                 .bias = op.weight.bias.data,
                 .residual = at(op.residual),
                 .ld_residual = op.residual.stride,
                 .y = at(op.y),
                 .ldy = op.y.stride,
                 .x_float = op.x_scales.empty() && type(op.x) != dtype,
                 .residual_float = !op.residual.empty() && type(op.residual) != dtype,
                 .y_float = type(op.y) != dtype,
                 .norm = std::nullopt,
                 .norm_out = at(op.norm_out),
                 .activation = op.activation,
                 .gated = op.gated,
                 .dependent = dependent_};
  p.eps = static_cast<float>(c.norm_eps);
  p.norm_sums = at<float>(op.norm_sums);
  if (!op.x_stats.empty()) {
    p.x_stats = at<float>(op.x_stats);
    p.x_norm = c.norm;
  } else if (op.norm) {
    p.norm = c.norm;
    p.gamma = op.norm->gamma.data;
    p.beta = op.norm->beta.data;
  }
  if (op.stats_norm) {
    p.scaled_out = at(op.scaled);
    p.stats_out = at<float>(op.stats);
    p.scaled_gamma = op.stats_norm->gamma.data;
    p.stats_norm = c.norm;
  }
  if (op.residual_norm) {
    p.residual_stats = at<float>(op.residual_stats);
    p.residual_gamma = op.residual_norm->gamma.data;
    p.residual_beta = op.residual_norm->beta.data;
    p.residual_eps = p.eps;
  }
  launch_skinny(p, device_.stream());
}

void PlanExecutor::launch_library_dense(const DenseOp& op) {
  const DenseWeight& w = op.weight;
  const bool sums = type_or(op.scratch, DType::kF32) == DType::kI32;
  GemmArgs args{.x = at(op.x),
                .w = w.weight.data,
                .bias = w.bias.data,
                .residual = at(op.residual),
                .y = at(op.y),
                .alpha = static_cast<float>(op.scale),
                .workspace = workspace_.data(),
                .workspace_bytes = workspace_.bytes()};
  if (sums) {
    args.bias = args.residual = nullptr;
    args.y = at(op.scratch);
    args.alpha = 1.0f;
  } else if (w.input_dtype) {
    args.x_scales = at<float>(op.x_scales);
    args.w_scales = w.scales.as<float>();
  } else if (!op.scratch.empty() && w.sparse()) {
    launch_unpack({.dtype = w.weight.dtype,
                   .rows = w.weight.rows,
                   .cols = w.in(),
                   .values = w.weight.data,
                   .metadata = static_cast<const uint8_t*>(w.metadata),
                   .bitmap = static_cast<const uint32_t*>(w.bitmap),
                   .row_starts = w.row_starts,
                   .y = at(op.scratch),
                   .dependent = dependent_},
                  device_.stream());
    args.w = at(op.scratch);
  } else if (!op.scratch.empty()) {
    launch_dequantise({.code_dtype = w.weight.dtype,
                       .rows = w.weight.rows,
                       .cols = w.weight.cols,
                       .codes = w.weight.data,
                       .scales = w.scales.data,
                       .y = at(op.scratch),
                       .dependent = dependent_},
                      device_.stream());
    args.w = at(op.scratch);
  }
  if (op.kernel == DenseKernel::kStructured) return structured_.run(op_, args, device_.stream());
  product_of_op_.at(op_)->run(args, device_.stream());
  if (!sums) return;
  launch_rescale({.dtype = rows_dtype(w),
                  .y_dtype = type(op.y),
                  .residual_dtype = type_or(op.residual, type(op.y)),
                  .activation = op.activation,
                  .gated = op.gated,
                  .m = op.y.rows,
                  .f = op.gated ? op.y.cols : op.scratch.stride,
                  .scale = static_cast<float>(op.scale),
                  .x = at<int32_t>(op.scratch),
                  .x_scales = at<float>(op.x_scales),
                  .w_scales = w.scales.as<float>(),
                  .bias = w.bias.data,
                  .residual = at(op.residual),
                  .residual_stride = op.residual.stride,
                  .y = at(op.y),
                  .y_stride = op.y.stride,
                  .dependent = dependent_},
                 device_.stream());
}

void PlanExecutor::launch(const ActivationOp& op) {
  launch_activation({.dtype = type(op.x),
                     .activation = op.activation,
                     .gated = op.gated,
                     .m = op.y.rows,
                     .f = op.y.cols,
                     .x = at(op.x),
                     .bias = op.bias.data,
                     .y = at(op.y),
                     .dependent = dependent_},
                    device_.stream());
}

void PlanExecutor::launch(const EncoderAttentionOp& op) {
  const ModelConfig& c = plan_.config;
  launch_encoder_attention({.dtype = type(op.q),
                            .q = at(op.q),
                            .k = at(op.k),
                            .v = at(op.v),
                            .out = at(op.out),
                            .q_stride = op.q.stride,
                            .k_stride = op.k.stride,
                            .v_stride = op.v.stride,
                            .out_stride = op.out.stride,
                            .offsets = at<int32_t>(op.offsets),
                            .batch = static_cast<int>(op.offsets.cols - 1),
                            .tokens = op.q.rows,
                            .max_source = op.max_source,
                            .heads = op.heads,
                            .head_dim = c.head_dim,
                            .scale = static_cast<float>(c.attention_scale),
                            .distance_bias = at<float>(op.bias.distance_bias),
                            .max_distance = op.bias.distance_bias.empty() ? 0 : c.relative_max_distance,
                            .dependent = dependent_},
                           device_.stream());
}

void PlanExecutor::launch(const SelfAttentionOp& op) {
  const ModelConfig& c = plan_.config;
  launch_decode_self_attention({.dtype = type(op.q),
                                .kv_dtype = type(op.k_cache),
                                .q = at(op.q),
                                .k = at(op.k),
                                .v = at(op.v),
                                .qkv_stride = op.q.stride,
                                .k_cache = at(op.k_cache),
                                .v_cache = at(op.v_cache),
                                .k_scales = at<float>(op.k_scales),
                                .v_scales = at<float>(op.v_scales),
                                .out = at(op.out),
                                .out_stride = op.out.stride,
                                .position = at<int32_t>(op.position),
                                .finished = at<int32_t>(op.finished),
                                .ancestry = at<int32_t>(op.ancestry),
                                .distance_bias = at<float>(op.bias.distance_bias),
                                .max_distance = op.bias.distance_bias.empty() ? 0 : c.relative_max_distance,
                                .batch = static_cast<int>(op.q.rows),
                                .heads = op.heads,
                                .head_dim = c.head_dim,
                                .capacity = op.capacity,
                                .scale = static_cast<float>(c.attention_scale),
                                .dependent = dependent_,
                                .kv_ready = dependent_},
                               device_.stream());
}

void PlanExecutor::launch(const CrossAttentionOp& op) {
  const ModelConfig& c = plan_.config;
  launch_decode_cross_attention({.dtype = type(op.q),
                                 .kv_dtype = type(op.k),
                                 .q = at(op.q),
                                 .q_stride = op.q.stride,
                                 .k = at(op.k),
                                 .v = at(op.v),
                                 .token_stride = op.k.stride,
                                 .head_stride = c.head_dim,
                                 .k_scales = at<float>(op.k_scales),
                                 .v_scales = at<float>(op.v_scales),
                                 .scale_token_stride = op.k_scales.empty() ? 0 : 1,
                                 .scale_head_stride = op.k_scales.stride,
                                 .offsets = at<int32_t>(op.offsets),
                                 .out = at(op.out),
                                 .out_stride = op.out.stride,
                                 .finished = at<int32_t>(op.finished),
                                 .sources = static_cast<int>(op.offsets.cols - 1),
                                 .rows_per_source = static_cast<int>(op.q.rows / (op.offsets.cols - 1)),
                                 .heads = op.heads,
                                 .head_dim = c.head_dim,
                                 .max_source_length = op.max_source,
                                 .scale = static_cast<float>(c.attention_scale),
                                 .dependent = dependent_,
                                 .kv_ready = dependent_},
                                device_.stream());
}

void PlanExecutor::launch(const HeadOp& op) {
  const ModelConfig& c = plan_.config;
  const TokenState& s = op.state;
  const DType dtype = rows_dtype(op.weight);
  HeadParams p{.dtype = dtype,
               .w_dtype = op.weight.weight.dtype,
               .m = static_cast<int>(op.x.rows),
               .vocab = static_cast<int>(op.weight.weight.rows),
               .k = static_cast<int>(op.x.cols),
               .x = at(op.x),
               .ldx = op.x.stride,
               .x_float = op.x_scales.empty() && type(op.x) != dtype,
               .w = op.weight.weight.data,
               .scales = op.weight.scales.data,
               .input_dtype = op.weight.input_dtype,
               .x_scales = at<float>(op.x_scales),
               .bias = op.weight.bias.data,
               .scale = static_cast<float>(op.scale),
               .norm = std::nullopt,
               .next_ids = op.best ? at<int32_t>(op.best->ids()) : at<int32_t>(s.next_ids),
               .tokens_out = at<int32_t>(s.tokens),
               .tokens_stride = s.tokens.stride,
               .position = at<int32_t>(s.position),
               .stop_at_eos = !s.finished.empty(),
               .eos_id = c.eos_id,
               .pad_id = c.pad_id,
               .finished = at<int32_t>(s.finished),
               .running = at<int32_t>(s.running),
               .id_offset = op.best ? static_cast<int32_t>(op.best->first_id) : 0,
               .best_logits = op.best ? at<float>(op.best->candidates) : nullptr,
               .logits = logits_,
               .workspace = head_workspace_.data(),
               .dependent = dependent_};
  if (op.norm) {
    p.norm = c.norm;
    p.gamma = op.norm->gamma.data;
    p.beta = op.norm->beta.data;
    p.eps = static_cast<float>(c.norm_eps);
  }
  launch_head_argmax(p, device_.stream());
}

void PlanExecutor::launch(const SelectOp& op) {
  const ModelConfig& c = plan_.config;
  const TokenState& s = op.state;
  launch_select({.rows = static_cast<int>(op.logits.rows),
                 .vocab = static_cast<int>(op.logits.cols),
                 .logits = at<float>(op.logits),
                 .logits_stride = op.logits.stride,
                 .bias_dtype = op.bias.dtype,
                 .bias = op.bias.data,
                 .biased = logits_,
                 .id_offset = op.best ? static_cast<int32_t>(op.best->first_id) : 0,
                 .best_logits = op.best ? at<float>(op.best->candidates) : nullptr,
                 .next_ids = op.best ? at<int32_t>(op.best->ids()) : at<int32_t>(s.next_ids),
                 .tokens = at<int32_t>(s.tokens),
                 .tokens_stride = s.tokens.stride,
                 .position = at<int32_t>(s.position),
                 .stop_at_eos = !s.finished.empty(),
                 .eos_id = c.eos_id,
                 .pad_id = c.pad_id,
                 .finished = at<int32_t>(s.finished),
                 .running = at<int32_t>(s.running),
                 .arrived = static_cast<int32_t*>(head_workspace_.data()),
                 .dependent = dependent_},
                device_.stream());
}

void PlanExecutor::launch(const PickOp& op) {
  const ModelConfig& c = plan_.config;
  const TokenState& s = op.state;
  launch_pick({.rows = static_cast<int>(op.candidates.cols),
               .degree = plan_.slice.degree,
               .candidates = at<int32_t>(op.candidates),
               .next_ids = at<int32_t>(s.next_ids),
               .tokens = at<int32_t>(s.tokens),
               .tokens_stride = s.tokens.stride,
               .position = at<int32_t>(s.position),
               .stop_at_eos = !s.finished.empty(),
               .eos_id = c.eos_id,
               .pad_id = c.pad_id,
               .finished = at<int32_t>(s.finished),
               .running = at<int32_t>(s.running),
               .dependent = dependent_},
              device_.stream());
}

void PlanExecutor::launch(const CommOp& op) {
  if (plan_.slice.degree == 1) {  // the sum is what this rank has
    if (op.norm) launch(*op.norm);
    return;
  }
  DeviceRanks* ranks = device_.ranks();
  if (ranks == nullptr || ranks->size() != plan_.slice.degree)
    throw ImpossibleCase(
        fmt::format("tp: {} ranks need as many devices that know of each other", plan_.slice.degree));
  const int64_t count = op.x.rows * op.x.cols;
  if (op.x.stride != op.x.cols) throw Error("plan: what ranks exchange lies apart");
  if (op.kind == CommKind::kAllGather) {
    behind_library_ranks_ =
        !ranks->all_gather(at(op.x), at(op.y), tensor_bytes(type(op.x), count), dependent_);
  } else if (op.norm) {
    behind_library_ranks_ = !ranks->all_reduce_norm(all_reduce_, norm_params(*op.norm), at(op.x));
  } else {
    behind_library_ranks_ =
        !ranks->all_reduce(all_reduce_, at(op.x), at(op.y), count, type(op.x), dependent_);
  }
}

void PlanExecutor::launch(const QuantiseOp& op) {
  launch_quantise_rows({.dtype = type(op.x),
                        .code_dtype = type(op.codes),
                        .rows = op.x.rows,
                        .cols = op.x.cols,
                        .group = op.group,
                        .x = at(op.x),
                        .x_stride = op.x.stride,
                        .codes = at(op.codes),
                        .code_stride = op.codes.stride,
                        .scales = at<float>(op.scales),
                        .scale_stride = 1,
                        .scale_group_stride = op.scales.stride,
                        .dependent = dependent_},
                       device_.stream());
}

}  // namespace tandem::kernels
