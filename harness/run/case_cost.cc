#include "harness/run/case_cost.h"

#include <numeric>

#include "harness/base/error.h"
#include "harness/sweep/case_batch.h"
#include "harness/sweep/values.h"
#include "harness/weights/pruning/prune.h"

namespace tandem {
namespace {

CostOptions options_of(const Case& c, std::optional<double> products_kept) {
  const DecodeSpec decode = parse_decode(c.decode);
  return {.form = weight_form(c),
          .kv = parse_kv(c.kv),
          .products_kept = products_kept,
          .rows_per_source = decode.beams,
          .shared_history = decode.beams > 1,
          .degree = c.tp};
}

void put_floor(Record& r, const std::optional<Floor>& floor) {
  if (!floor) return;
  r.floor.floor_us = floor->us;
  r.floor.bound = std::string(bound_name(floor->bound));
  if (r.summary && floor->us > 0) r.floor.ratio = r.summary->median_us / floor->us;
}

}  // namespace

Cost case_cost(const Case& c, const ModelConfig& whole, std::optional<double> products_kept) {
  const auto lengths = case_lengths(c);
  const CostOptions options = options_of(c, products_kept);
  const ModelConfig config = smaller_config(whole, options.form.sparsity);
  switch (c.suite) {
    case Suite::kEncoder:
      return encoder_cost(config, lengths, options);
    case Suite::kDecoder:
      return decode_step_cost(config, lengths, c.tgt, options);
    case Suite::kGenerate:
      return generate_cost(config, lengths, c.tgt, options);
    default:
      throw Error("case_cost: only encoder, decoder and generate have the cost of a model pass");
  }
}

namespace {

/// The step in the middle of a generation: the mean of all.
Cost mean_step_cost(const Case& c, const ModelConfig& whole, std::optional<double> products_kept) {
  const CostOptions options = options_of(c, products_kept);
  return decode_step_cost(smaller_config(whole, options.form.sparsity), case_lengths(c), (c.tgt + 1) / 2.0,
                          options);
}

void fill_model(Record& r, const ModelConfig& config, const Ceilings& ceilings, std::optional<double> kept) {
  Links links;
  if (r.floor.link_gbs) links.card_gbs = *r.floor.link_gbs;
  ModelRow model{.card_gbs = links.card_gbs, .call_us = links.call_us};
  for (const int tp : {1, 2, 4, 8}) {
    try {
      const auto time = case_model(r.c, config, ceilings, tp, links, kept);
      if (!time) return;
      model.degrees.push_back({.tp = tp,
                               .sample_us = time->sample.total_us(),
                               .comm_us = time->sample.comm_us,
                               .step_us = time->step ? std::optional(time->step->total_us()) : std::nullopt});
    } catch (const ImpossibleCase&) {
      // Heads or d_ff do not divide.
    }
  }
  r.model = std::move(model);
}

}  // namespace

std::optional<CaseModel> case_model(const Case& c, const ModelConfig& config, const Ceilings& ceilings,
                                    int tp, const Links& links, std::optional<double> products_kept) {
  Case on = c;
  on.tp = tp;
  on.dp = 1;
  const auto sample = model_us(case_cost(on, config, products_kept), ceilings, tp, links);
  if (!sample) return std::nullopt;
  CaseModel model{.sample = *sample, .step = {}};
  if (on.suite == Suite::kGenerate)
    model.step = model_us(mean_step_cost(on, config, products_kept), ceilings, tp, links);
  return model;
}

std::optional<double> expected_products_kept(const Case& c, const ModelConfig& config) {
  const WeightForm form = weight_form(c);
  if (form.sparsity.threshold != 0) return std::nullopt;
  if (!form.sparsity.by_magnitude()) return 1;  // 2:4 is in the storage
  const WeightCount count = count_weights(config, form, expected_pruning(config, form));
  return static_cast<double>(count.products_kept) / static_cast<double>(count.products);
}

void fill_cost(Record& r, const ModelConfig& config, const Ceilings& measured,
               std::optional<double> l2_bytes) {
  Ceilings ceilings = measured;
  ceilings.link_gbs = r.floor.link_gbs;
  const std::optional<double> kept = r.pruned ? r.pruned->products_kept : expected_products_kept(r.c, config);
  const Cost cost = case_cost(r.c, config, kept);
  r.bytes = cost.bytes();
  r.flops = cost.flops();
  for (const PhaseCost& p : cost.phases) {
    r.phases.push_back({std::string(side_name(p.side)), std::string(phase_name(p.kind)), p.bytes_read(),
                        p.written_bytes, p.flops, p.link_bytes});
  }
  put_floor(r, case_floor(cost, ceilings, l2_bytes));
  r.floor.floor_phases_us = floor_phases_us(cost, ceilings);
  r.floor.links_us = links_us(cost, ceilings);
  fill_model(r, config, ceilings, kept);
  if (r.c.suite == Suite::kGenerate) {
    const auto step = floor_us(mean_step_cost(r.c, config, kept), ceilings);
    if (step) r.floor.step_floor_us = step->us;
  }
  if (l2_bytes) {
    const bool resident = cost.bytes() < 2 * *l2_bytes;
    r.l2 = resident ? "resident" : "in_situ";
    if (resident) r.floor.floor_l2_us = floor_l2_us(cost, ceilings);
  }
}

void fill_op_floor(Record& r, const OpWorkload& op, const Ceilings& measured) {
  Ceilings ceilings = measured;
  ceilings.link_gbs = r.floor.link_gbs;
  Cost cost;
  cost.precision = r.c.precision;
  if (r.c.suite == Suite::kCollectives) {
    if (op.link_bytes == 0) return;
    cost.phases.push_back({.link_bytes = op.link_bytes});
    r.floor.links_us = links_us(cost, ceilings);
    if (r.floor.links_us) put_floor(r, floor_us(cost, ceilings));
    return;
  }
  cost.phases.push_back(
      {.other_bytes = op.bytes_read, .written_bytes = op.bytes_written, .flops = op.flops, .unit = op.unit});
  if (cost.bytes() + op.flops > 0) put_floor(r, floor_us(cost, ceilings));
}

}  // namespace tandem
