// One launch for each operation of a plan. Element types are those of its tensors and of its weights, which
// check_kernels() found to go together.
#include "harness/base/cuda_check.h"
#include "kernels/activation/activation.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/encoder_attention.h"
#include "kernels/decoding/select.h"
#include "kernels/embedding/embedding.h"
#include "kernels/norm/norm.h"
#include "kernels/runtime/executor.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {

void PlanExecutor::launch(const EmbedOp& op) {
  const ModelConfig& c = plan_.config;
  EmbeddingParams p{.dtype = op.table.dtype,
                    .out_dtype = type(op.x),
                    .tokens = op.x.rows,
                    .d = c.d_model,
                    .vocab = c.vocab,
                    .ids = at<int32_t>(op.ids),
                    .table = op.table.data,
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

void PlanExecutor::launch(const NormOp& op) {
  const ModelConfig& c = plan_.config;
  const DType dtype = op.weight.gamma.dtype;
  launch_norm({.dtype = dtype,
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
               .dependent = dependent_},
              device_.stream());
}

void PlanExecutor::launch(const DenseOp& op) {
  op.kernel == DenseKernel::kSkinny ? launch_skinny_dense(op) : launch_library_dense(op);
}

void PlanExecutor::launch_skinny_dense(const DenseOp& op) {
  const ModelConfig& c = plan_.config;
  const DType dtype = op.weight.weight.dtype;
  SkinnyParams p{.dtype = dtype,
                 .m = static_cast<int>(op.x.rows),
                 .n = static_cast<int>(op.y.cols),
                 .k = static_cast<int>(op.x.cols),
                 .x = at(op.x),
                 .ldx = op.x.stride,
                 .w = op.weight.weight.data,
                 .bias = op.weight.bias.data,
                 .residual = at(op.residual),
                 .ld_residual = op.residual.stride,
                 .y = at(op.y),
                 .ldy = op.y.stride,
                 .x_float = type(op.x) != dtype,
                 .residual_float = !op.residual.empty() && type(op.residual) != dtype,
                 .y_float = type(op.y) != dtype,
                 .norm = std::nullopt,
                 .norm_out = at(op.norm_out),
                 .activation = op.activation,
                 .gated = op.gated,
                 .dependent = dependent_};
  if (op.norm) {
    p.norm = c.norm;
    p.gamma = op.norm->gamma.data;
    p.beta = op.norm->beta.data;
    p.eps = static_cast<float>(c.norm_eps);
  }
  launch_skinny(p, device_.stream());
}

void PlanExecutor::launch_library_dense(const DenseOp& op) {
  product_of_op_.at(op_)->run({.x = at(op.x),
                               .w = op.weight.weight.data,
                               .bias = op.weight.bias.data,
                               .residual = at(op.residual),
                               .y = at(op.y),
                               .alpha = static_cast<float>(op.scale),
                               .workspace = workspace_.data(),
                               .workspace_bytes = workspace_.bytes()},
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
                            .max_length = op.max_length,
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
                                .q = at(op.q),
                                .k = at(op.k),
                                .v = at(op.v),
                                .qkv_stride = op.q.stride,
                                .k_cache = at(op.k_cache),
                                .v_cache = at(op.v_cache),
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
                                .max_length = op.capacity,
                                .scale = static_cast<float>(c.attention_scale),
                                .dependent = dependent_,
                                .kv_ready = dependent_},
                               device_.stream());
}

void PlanExecutor::launch(const CrossAttentionOp& op) {
  const ModelConfig& c = plan_.config;
  launch_decode_cross_attention({.dtype = type(op.q),
                                 .q = at(op.q),
                                 .q_stride = op.q.stride,
                                 .k = at(op.k),
                                 .v = at(op.v),
                                 .token_stride = op.k.stride,
                                 .head_stride = c.head_dim,
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
  HeadParams p{.dtype = op.weight.weight.dtype,
               .m = static_cast<int>(op.x.rows),
               .vocab = static_cast<int>(op.weight.weight.rows),
               .k = static_cast<int>(op.x.cols),
               .x = at(op.x),
               .ldx = op.x.stride,
               .x_float = type(op.x) != op.weight.weight.dtype,
               .w = op.weight.weight.data,
               .bias = op.weight.bias.data,
               .scale = static_cast<float>(op.scale),
               .norm = std::nullopt,
               .next_ids = at<int32_t>(s.next_ids),
               .tokens_out = at<int32_t>(s.tokens),
               .tokens_stride = s.tokens.stride,
               .position = at<int32_t>(s.position),
               .stop_at_eos = !s.finished.empty(),
               .eos_id = c.eos_id,
               .pad_id = c.pad_id,
               .finished = at<int32_t>(s.finished),
               .running = at<int32_t>(s.running),
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
                 .next_ids = at<int32_t>(s.next_ids),
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

}  // namespace tandem::kernels
