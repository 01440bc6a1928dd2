#include "suites/wrong_plans.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "harness/base/error.h"

namespace tandem {
namespace {

void insert_op(StepPlan& plan, int at, PlanOp op) {
  plan.ops.insert(plan.ops.begin() + at, std::move(op));
  for (OpRange& s : plan.sections) {
    if (s.first >= at) ++s.first;  // `at` is never the first operation of a section
    if (s.last >= at) ++s.last;
  }
}

void place_anew(StepPlan& plan) {
  find_lifetimes(plan);
  place_buffers(plan);
}

/// The last product before operation `before` that writes `buffer`.
int product_into(const StepPlan& plan, int buffer, int before) {
  for (int i = before - 1; i >= 0; --i) {
    const auto* dense = std::get_if<DenseOp>(&plan.ops[i].body);
    if (dense != nullptr && dense->y.buffer == buffer) return i;
  }
  throw Error("wrong plan: no product makes buffer '" + plan.buffers.at(buffer).name + "'");
}

/// Every sequence loses its first key and sees the first one of the sequence after it. After the last one
/// stands a copy of the last token's row.
template <typename Attention>
void shift_keys(StepPlan& plan) {
  std::vector<int> longer;  // buffers that have the row after the last
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    auto* op = std::get_if<Attention>(&plan.ops[i].body);
    if (op == nullptr) continue;
    const int buffer = op->k.buffer;
    for (PlanTensor* t : {&op->k, &op->v}) t->offset += t->stride;
    if (std::find(longer.begin(), longer.end(), buffer) != longer.end()) continue;
    longer.push_back(buffer);
    const int from = product_into(plan, buffer, i);
    PlanOp copy = plan.ops[from];
    auto& last = std::get<DenseOp>(copy.body);
    plan.buffers[buffer].elements += last.y.stride;
    last.x.offset += (last.x.rows - 1) * last.x.stride;
    last.y.offset += last.y.rows * last.y.stride;
    last.x.rows = last.y.rows = 1;
    last.norm_out = {};
    insert_op(plan, from + 1, std::move(copy));
    ++i;
  }
  place_anew(plan);
}

/// What the last head computed becomes 0.
template <typename Attention>
void drop_head(StepPlan& plan) {
  const int64_t head_dim = plan.config.head_dim;
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    const auto* op = std::get_if<Attention>(&plan.ops[i].body);
    if (op == nullptr) continue;
    const auto& projection = std::get<DenseOp>(plan.ops[product_into(plan, op->q.buffer, i)].body);
    // The queries times any weights, times 0. Not the projection's own input: that may be a stream of fp32, which
    // the library's products do not read.
    DenseOp zero{.x = op->q,
                 .y = op->out.columns((op->heads - 1) * head_dim, head_dim),
                 .weight = {.weight = projection.weight.weight, .bias = {}},
                 .scale = 0,
                 .kernel = DenseKernel::kLibrary};
    zero.weight.weight.rows = head_dim;
    zero.weight.weight.cols = op->q.cols;
    insert_op(plan, i + 1, {.phase = plan.ops[i].phase, .body = zero});
    ++i;
  }
  place_anew(plan);
}

/// The attention operations of one kind.
template <typename Attention>
std::vector<Attention*> all_of(StepPlan& plan) {
  std::vector<Attention*> found;
  for (PlanOp& op : plan.ops) {
    if (auto* attention = std::get_if<Attention>(&op.body)) found.push_back(attention);
  }
  return found;
}

/// The first layer finds in its cache what the last one left there at the steps before.
void stale_cache(StepPlan& plan) {
  const auto layers = all_of<SelfAttentionOp>(plan);
  if (layers.empty()) return;
  layers.front()->k_cache = layers.back()->k_cache;
  layers.front()->v_cache = layers.back()->v_cache;
  place_anew(plan);
}

/// Every layer reads the keys and values of the layer before it, the first one the last one's.
void stale_cross(StepPlan& plan) {
  const auto layers = all_of<CrossAttentionOp>(plan);
  if (layers.empty()) return;
  std::pair carried(layers.back()->k, layers.back()->v);
  for (CrossAttentionOp* op : layers) {
    std::swap(op->k, carried.first);
    std::swap(op->v, carried.second);
  }
  place_anew(plan);
}

/// The first residual comes from a buffer that nobody writes.
void nan_residual(StepPlan& plan) {
  for (PlanOp& op : plan.ops) {
    auto* dense = std::get_if<DenseOp>(&op.body);
    auto* norm = std::get_if<NormOp>(&op.body);
    PlanTensor* residual = dense != nullptr ? &dense->residual : norm != nullptr ? &norm->residual : nullptr;
    if (residual == nullptr || residual->empty()) continue;
    plan.buffers.push_back({.name = "unwritten",
                            .dtype = plan.buffers[residual->buffer].dtype,
                            .elements = residual->rows * residual->stride,
                            .role = BufferRole::kState});
    residual->buffer = static_cast<int>(plan.buffers.size()) - 1;
    residual->offset = 0;
    return place_anew(plan);
  }
  throw Error("wrong plan: no operation has a residual");
}

}  // namespace

std::vector<WrongPlan> wrong_plans() {
  const auto scale = [](StepPlan& plan) { plan.config.attention_scale = 1; };  // 1 / sqrt(head_dim) forgotten
  return {
      {.name = "an off-by-one mask, encoder attention", .edit = shift_keys<EncoderAttentionOp>},
      {.name = "an off-by-one mask, cross-attention",
       .edit = shift_keys<CrossAttentionOp>,
       .in_encoder = false},
      {.name = "a dropped head, encoder attention", .edit = drop_head<EncoderAttentionOp>},
      {.name = "a dropped head, self-attention", .edit = drop_head<SelfAttentionOp>, .in_encoder = false},
      {.name = "a dropped head, cross-attention", .edit = drop_head<CrossAttentionOp>, .in_encoder = false},
      {.name = "a wrong scale", .edit = scale},
      {.name = "stale K/V, self-attention", .edit = stale_cache, .in_encoder = false},
      {.name = "stale K/V, cross-attention", .edit = stale_cross, .in_encoder = false},
      {.name = "NaN", .edit = nan_residual, .reads_poison = true},
  };
}

std::vector<ModelConfig> wrong_plan_models() {
  ModelConfig wide = preset("tiny");
  wide.name = "tiny-64";
  wide.d_model = 128;
  wide.head_dim = 64;
  wide.encoder.heads = wide.decoder.heads = 2;
  wide.attention_scale = 1 / std::sqrt(64.0);
  wide.embedding_scale = std::sqrt(128.0);
  return {preset("tiny"), wide};
}

Case wrong_plan_case(const std::string& model, Suite suite, Precision precision) {
  Case c;
  c.suite = suite;
  c.model = model;
  c.batch = 3;
  c.src = 9;
  c.tgt = 6;
  c.precision = precision;
  c.engine = "cuda";
  return c;
}

}  // namespace tandem
