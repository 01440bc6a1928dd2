#include "harness/engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "harness/base/error.h"
#include "harness/base/host_device.h"

namespace tandem {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;  // clang before 17 deduces none for aggregates

/// Elements from the start of the buffer to after the tensor's last.
int64_t reach(const PlanTensor& t) {
  return t.rows == 0 || t.cols == 0 ? t.offset : t.offset + (t.rows - 1) * t.stride + t.cols;
}

bool same_place(const PlanTensor& a, const PlanTensor& b) {
  return a.buffer == b.buffer && a.offset == b.offset && a.stride == b.stride && a.rows == b.rows &&
         a.cols == b.cols;
}

/// Do two tensors of one buffer share an element? Exact for equal strides, conservative otherwise.
bool overlap(const PlanTensor& a, const PlanTensor& b) {
  if (a.buffer != b.buffer) return false;
  if (a.stride == b.stride && a.stride > 0 && a.offset / a.stride == b.offset / b.stride) {
    const int64_t at_a = a.offset % a.stride;
    const int64_t at_b = b.offset % b.stride;
    if (at_a + a.cols <= a.stride && at_b + b.cols <= b.stride)
      return at_a < at_b + b.cols && at_b < at_a + a.cols;
  }
  return a.offset < reach(b) && b.offset < reach(a);
}

/// May `op` write `out` where it reads `in`? Only element by element at the same place.
bool in_place_allowed(const PlanOp& op, const PlanTensor& in, const PlanTensor& out) {
  if (!same_place(in, out)) return false;
  if (const auto* dense = std::get_if<DenseOp>(&op.body)) return same_place(in, dense->residual);
  if (const auto* act = std::get_if<ActivationOp>(&op.body)) return !act->gated;
  return std::holds_alternative<NormOp>(op.body) || std::holds_alternative<CommOp>(op.body);
}

/// Collects what an operation touches, leaving out what is not there.
struct AccessList {
  std::vector<PlanAccess> list;

  void read(const PlanTensor& t) { add({.tensor = t}); }
  void write(const PlanTensor& t) { add({.tensor = t, .write = true}); }
  void update(const PlanTensor& t) { add({.tensor = t, .write = true, .update = true}); }
  void add(const PlanAccess& a) {
    if (!a.tensor.empty()) list.push_back(a);
  }
  /// What it touches beside its x.
  void norm(const NormOp& o) {
    read(o.residual);
    write(o.sum);
    write(o.y);
    write(o.codes);
    write(o.scales);
  }
  void statistics(const DenseOp& o) {
    read(o.x_stats);
    read(o.norm_sums);
    read(o.residual_stats);
    write(o.scaled);
    write(o.stats);
  }
  void select(const TokenState& s, const std::optional<RankBest>& best = {}) {
    if (best) write(best->candidates);
    write(s.next_ids);
    update(s.tokens);
    update(s.position);
    update(s.finished);
    update(s.running);
  }
};

/// Collects an operation's weights, leaving out what is not there.
struct WeightList {
  std::vector<PlanWeight> list;

  void add(std::string_view name, const TensorView& t) {
    if (!t.empty()) list.push_back({name, t});
  }
  void add(const DenseWeight& w) {
    add("weight", w.weight);
    add("scales", w.scales);
    add("bias", w.bias);
  }
  void add(const std::optional<NormWeight>& w) {
    if (!w) return;
    add("norm.gamma", w->gamma);
    add("norm.beta", w->beta);
  }
  void statistics(const DenseOp& o) {
    if (o.stats_norm) add("stats_norm.gamma", o.stats_norm->gamma);
    if (!o.residual_norm) return;
    add("residual_norm.gamma", o.residual_norm->gamma);
    add("residual_norm.beta", o.residual_norm->beta);
  }
};

bool live_together(const PlanBuffer& a, const PlanBuffer& b) {
  if (a.role != BufferRole::kScratch || b.role != BufferRole::kScratch) return true;
  if (a.first_op < 0 || b.first_op < 0) return false;
  return a.first_op <= b.last_op && b.first_op <= a.last_op;
}

void check_tensor(const StepPlan& plan, int op, const PlanAccess& a) {
  const PlanTensor& t = a.tensor;
  if (t.buffer >= static_cast<int>(plan.buffers.size())) {
    throw Error(
        fmt::format("plan: {} names buffer {} of {}", op_text(plan, op), t.buffer, plan.buffers.size()));
  }
  const PlanBuffer& b = plan.buffers[t.buffer];
  if (t.rows < 1 || t.cols < 1 || t.offset < 0 || (t.rows > 1 && t.stride < t.cols) ||
      reach(t) > b.elements) {
    throw Error(fmt::format("plan: {}: [{}, {}] at {} by {} leaves buffer '{}' of {} elements",
                            op_text(plan, op), t.rows, t.cols, t.offset, t.stride, b.name, b.elements));
  }
  if (op < b.first_op || op > b.last_op) {
    throw Error(fmt::format("plan: {} touches buffer '{}', which lives from operation {} to {}",
                            op_text(plan, op), b.name, b.first_op, b.last_op));
  }
  if (a.update && b.role == BufferRole::kScratch) {
    throw Error(fmt::format("plan: {} updates scratch buffer '{}'", op_text(plan, op), b.name));
  }
}

void check_order(const StepPlan& plan) {
  std::vector<bool> written(plan.buffers.size());
  for (int op = 0; op < static_cast<int>(plan.ops.size()); ++op) {
    const std::vector<PlanAccess> all = accesses(plan.ops[op]);
    for (const PlanAccess& a : all) {
      check_tensor(plan, op, a);
      const PlanBuffer& b = plan.buffers[a.tensor.buffer];
      if (!a.write && b.role == BufferRole::kScratch && !written[a.tensor.buffer]) {
        throw Error(
            fmt::format("plan: {} reads buffer '{}' before anything wrote it", op_text(plan, op), b.name));
      }
    }
    for (size_t i = 0; i < all.size(); ++i) {
      if (!all[i].write) continue;
      written[all[i].tensor.buffer] = true;
      for (size_t j = 0; j < all.size(); ++j) {
        if (i == j || !overlap(all[i].tensor, all[j].tensor)) continue;
        if (!all[j].write && in_place_allowed(plan.ops[op], all[j].tensor, all[i].tensor)) continue;
        throw Error(fmt::format("plan: {} writes what it also {} in buffer '{}'", op_text(plan, op),
                                all[j].write ? "writes elsewhere" : "reads",
                                plan.buffers[all[i].tensor.buffer].name));
      }
    }
  }
}

void check_sections(const StepPlan& plan) {
  int at = 0;
  for (const OpRange& s : plan.sections) {
    if (s.first != at || s.last < s.first)
      throw Error("plan: the sections do not cover the operations in order");
    at = s.last;
  }
  if (at != static_cast<int>(plan.ops.size())) throw Error("plan: operations after the last section");
  // The step runs many times: scratch made before it would be gone, or reused, at its second run.
  const OpRange& step = plan.section(PlanSection::kStep);
  for (const PlanBuffer& b : plan.buffers) {
    if (b.role == BufferRole::kScratch && b.first_op >= 0 && !step.contains(b.first_op) &&
        step.contains(b.last_op)) {
      throw Error(fmt::format("plan: scratch buffer '{}' is made before the step and used in it", b.name));
    }
  }
}

void check_memory(const StepPlan& plan) {
  for (size_t i = 0; i < plan.buffers.size(); ++i) {
    const PlanBuffer& a = plan.buffers[i];
    if (a.offset_bytes % kPlanAlignment != 0 || a.offset_bytes < 0 ||
        a.offset_bytes + a.bytes() > plan.arena_bytes) {
      throw Error(fmt::format("plan: buffer '{}' of {} bytes at {} is not inside an arena of {}", a.name,
                              a.bytes(), a.offset_bytes, plan.arena_bytes));
    }
    for (size_t j = 0; j < i; ++j) {
      const PlanBuffer& b = plan.buffers[j];
      if (a.name == b.name) throw Error(fmt::format("plan: two buffers are named '{}'", a.name));
      const bool apart =
          a.offset_bytes + a.bytes() <= b.offset_bytes || b.offset_bytes + b.bytes() <= a.offset_bytes;
      if (live_together(a, b) && !apart) {
        throw Error(
            fmt::format("plan: buffers '{}' and '{}' live together and share memory", b.name, a.name));
      }
    }
  }
}

/// Lowest offset of the smallest hole that `bytes` fit in between the `taken` ranges, or after all of them.
int64_t best_fit(std::vector<std::pair<int64_t, int64_t>> taken, int64_t start, int64_t bytes) {
  std::sort(taken.begin(), taken.end());
  int64_t best = -1;
  int64_t best_room = 0;
  int64_t end = start;
  for (const auto& [from, to] : taken) {
    const int64_t room = from - end;
    if (room >= bytes && (best < 0 || room < best_room)) {
      best = end;
      best_room = room;
    }
    end = std::max(end, to);
  }
  return best >= 0 ? best : end;
}

}  // namespace

std::string_view op_name(const PlanOp& op) {
  static constexpr std::array<std::string_view, 16> kNames = {"embed",
                                                              "norm",
                                                              "dense",
                                                              "activation",
                                                              "encoder_attention",
                                                              "self_attention",
                                                              "cross_attention",
                                                              "head",
                                                              "select",
                                                              "choose",
                                                              "beam",
                                                              "quantise",
                                                              "comm",
                                                              "pick",
                                                              "row_sums",
                                                              "candidates"};
  static_assert(kNames.size() == std::variant_size_v<decltype(PlanOp::body)>);
  return kNames[op.body.index()];
}

std::string_view statistics_problem(const DenseOp& o, Norm norm) {
  const auto of_rows = [&](const PlanTensor& stats, int64_t cols) {
    return stats.empty() || (stats.rows * kPlanStatsColumns == cols && stats.cols == 2 * o.x.rows);
  };
  if (o.stats.empty() != o.scaled.empty() || o.stats.empty() == o.stats_norm.has_value())
    return "`stats`, `scaled` and `stats_norm` go together";
  if (!o.x_stats.empty() && (!o.norm || !o.norm_out.empty() || !o.x_scales.empty() || o.scale != 1))
    return "`x_stats` go with a norm, and with neither `norm_out`, codes nor a scale";
  const bool layer = o.norm && norm == Norm::kLayer;
  if (o.norm_sums.empty() ? layer && !o.x_stats.empty() : !layer)
    return "`norm_sums` go with a layer norm, and with one by `x_stats` they must";
  if (o.residual_stats.empty() == o.residual_norm.has_value() ||
      (!o.residual_stats.empty() && o.residual.empty()))
    return "`residual_stats`, `residual_norm` and a residual go together";
  if (!of_rows(o.stats, o.y.cols) || !of_rows(o.x_stats, o.x.cols) || !of_rows(o.residual_stats, o.y.cols))
    return "statistics have two values for each row and its columns by 64";
  if (!o.scaled.empty() && (o.scaled.rows != o.y.rows || o.scaled.cols != o.y.cols))
    return "`scaled` has the shape of y";
  if (!o.norm_sums.empty() && (o.norm_sums.rows != 2 || o.norm_sums.cols != o.weight.weight.rows))
    return "`norm_sums` have two values for each row of the weight";
  return {};
}

std::string_view section_name(PlanSection section) {
  static constexpr std::array<std::string_view, kPlanSections> kNames = {"encoder", "cross_kv", "step"};
  return kNames[static_cast<size_t>(section)];
}

std::vector<PlanAccess> accesses(const PlanOp& op) {
  AccessList a;
  std::visit(Overloaded{
                 [&](const EmbedOp& o) {
                   a.read(o.ids);
                   a.read(o.offsets);
                   a.read(o.position);
                   a.read(o.sinusoids);
                   a.write(o.x);
                 },
                 [&](const NormOp& o) {
                   a.read(o.x);
                   a.norm(o);
                 },
                 [&](const DenseOp& o) {
                   a.read(o.x);
                   a.read(o.residual);
                   a.read(o.x_scales);
                   a.write(o.y);
                   a.write(o.norm_out);
                   a.write(o.scratch);
                   a.statistics(o);
                 },
                 [&](const ActivationOp& o) {
                   a.read(o.x);
                   a.write(o.y);
                 },
                 [&](const EncoderAttentionOp& o) {
                   for (const PlanTensor& t : {o.q, o.k, o.v, o.offsets, o.bias.distance_bias}) a.read(t);
                   a.write(o.out);
                 },
                 [&](const SelfAttentionOp& o) {
                   for (const PlanTensor& t :
                        {o.q, o.k, o.v, o.position, o.finished, o.ancestry, o.bias.distance_bias})
                     a.read(t);
                   a.update(o.k_cache);
                   a.update(o.v_cache);
                   a.update(o.k_scales);
                   a.update(o.v_scales);
                   a.write(o.out);
                 },
                 [&](const CrossAttentionOp& o) {
                   for (const PlanTensor& t : {o.q, o.k, o.v, o.k_scales, o.v_scales, o.offsets, o.finished})
                     a.read(t);
                   a.write(o.out);
                 },
                 [&](const HeadOp& o) {
                   a.read(o.x);
                   a.read(o.x_scales);
                   a.select(o.state, o.best);
                 },
                 [&](const SelectOp& o) {
                   a.read(o.logits);
                   a.select(o.state, o.best);
                 },
                 [&](const ChooseOp& o) {
                   for (const PlanTensor& t : {o.logits, o.ranks.sums, o.ranks.candidates, o.rules, o.keys})
                     a.read(t);
                   a.update(o.log_probabilities);
                   a.select(o.state);
                 },
                 [&](const BeamOp& o) {
                   for (const PlanTensor& t : {o.logits, o.ranks.sums, o.ranks.candidates, o.rules})
                     a.read(t);
                   a.write(o.best);
                   for (const PlanTensor& t :
                        {o.running_scores, o.ancestry, o.hypotheses, o.lengths, o.slots, o.scores})
                     a.update(t);
                   a.select(o.state);
                 },
                 [&](const QuantiseOp& o) {
                   a.read(o.x);
                   a.write(o.codes);
                   a.write(o.scales);
                 },
                 [&](const CommOp& o) {
                   a.read(o.x);
                   a.write(o.y);
                   if (o.norm) a.norm(*o.norm);
                 },
                 [&](const RowSumsOp& o) {
                   a.read(o.logits);
                   a.write(o.sums);
                 },
                 [&](const CandidatesOp& o) {
                   for (const PlanTensor& t :
                        {o.logits, o.sums, o.rules, o.tokens, o.position, o.finished, o.running_scores})
                     a.read(t);
                   a.write(o.candidates);
                 },
                 [&](const PickOp& o) {
                   a.read(o.candidates);
                   a.select(o.state);
                 },
             },
             op.body);
  return std::move(a.list);
}

std::vector<PlanWeight> weights_of(const PlanOp& op) {
  WeightList w;
  std::visit(Overloaded{
                 [&](const EmbedOp& o) {
                   w.add("table", o.table);
                   w.add("learned", o.learned);
                 },
                 [&](const NormOp& o) { w.add(o.weight); },
                 [&](const DenseOp& o) {
                   w.add(o.norm);
                   w.add(o.weight);
                   w.statistics(o);
                 },
                 [&](const ActivationOp& o) { w.add("bias", o.bias); },
                 [&](const EncoderAttentionOp& o) { w.add("bias.table", o.bias.table); },
                 [&](const SelfAttentionOp& o) { w.add("bias.table", o.bias.table); },
                 [&](const CrossAttentionOp&) {},
                 [&](const HeadOp& o) {
                   w.add(o.norm);
                   w.add(o.weight);
                 },
                 [&](const SelectOp& o) { w.add("bias", o.bias); },
                 [&](const ChooseOp& o) { w.add("bias", o.bias); },
                 [&](const BeamOp& o) { w.add("bias", o.bias); },
                 [&](const QuantiseOp&) {},
                 [&](const CommOp& o) {
                   if (o.norm) w.add(o.norm->weight);
                 },
                 [&](const PickOp&) {},
                 [&](const RowSumsOp& o) { w.add("bias", o.bias); },
                 [&](const CandidatesOp& o) { w.add("bias", o.bias); },
             },
             op.body);
  return std::move(w.list);
}

std::string op_text(const StepPlan& plan, int op) {
  return fmt::format("operation {} ({}, {})", op, op_name(plan.ops[op]), phase_path(plan.ops[op].phase));
}

bool StepPlan::has(std::string_view name) const {
  return std::any_of(buffers.begin(), buffers.end(), [&](const PlanBuffer& b) { return b.name == name; });
}

int StepPlan::find(std::string_view name) const {
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].name == name) return static_cast<int>(i);
  }
  throw Error(fmt::format("plan: no buffer is named '{}'", name));
}

void find_lifetimes(StepPlan& plan) {
  for (PlanBuffer& b : plan.buffers) b.first_op = b.last_op = -1;
  for (int op = 0; op < static_cast<int>(plan.ops.size()); ++op) {
    for (const PlanAccess& a : accesses(plan.ops[op])) {
      PlanBuffer& b = plan.buffers.at(a.tensor.buffer);
      if (b.first_op < 0) b.first_op = op;
      b.last_op = op;
    }
  }
}

void place_buffers(StepPlan& plan) {
  int64_t end = 0;
  std::vector<size_t> scratch;
  for (size_t i = 0; i < plan.buffers.size(); ++i) {
    PlanBuffer& b = plan.buffers[i];
    if (b.role == BufferRole::kScratch) {
      scratch.push_back(i);
    } else {
      b.offset_bytes = end;
      end += round_up(b.bytes(), kPlanAlignment);
    }
  }
  std::stable_sort(scratch.begin(), scratch.end(),
                   [&](size_t a, size_t b) { return plan.buffers[a].bytes() > plan.buffers[b].bytes(); });
  plan.arena_bytes = end;
  for (size_t i = 0; i < scratch.size(); ++i) {
    PlanBuffer& b = plan.buffers[scratch[i]];
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (size_t j = 0; j < i; ++j) {
      const PlanBuffer& other = plan.buffers[scratch[j]];
      if (live_together(b, other))
        taken.emplace_back(other.offset_bytes, other.offset_bytes + round_up(other.bytes(), kPlanAlignment));
    }
    b.offset_bytes = best_fit(std::move(taken), end, round_up(b.bytes(), kPlanAlignment));
    plan.arena_bytes = std::max(plan.arena_bytes, b.offset_bytes + round_up(b.bytes(), kPlanAlignment));
  }
}

void check_plan(const StepPlan& plan) {
  check_order(plan);
  check_sections(plan);
  check_memory(plan);
}

}  // namespace tandem
