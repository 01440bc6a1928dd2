// Cost and floor of a case: which parts of harness/cost a suite's sample is made of.
#pragma once

#include "harness/cost/ceilings.h"
#include "harness/cost/cost.h"
#include "harness/cost/links.h"
#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/sweep/case.h"

namespace tandem {

/// Encoder: one pass without cross-K/V. Decoder: the step that appends position tgt. Generate: encoder, cross-K/V and tgt
/// steps.
Cost case_cost(const Case& c, const ModelConfig& config, std::optional<double> products_kept = {});

/// What the model of several cards says of a case on `tp` of them, whatever its own degrees: replicas say nothing to each other.
struct CaseModel {
  ModelTime sample;
  std::optional<ModelTime> step;  ///< suite_generate: the mean step
};
/// Absent where a ceiling is missing. Throws as case_cost() and model_us().
std::optional<CaseModel> case_model(const Case& c, const ModelConfig& config, const Ceilings& ceilings,
                                    int tp, const Links& links, std::optional<double> products_kept = {});

/// Of the weights of layers' matrices, the fraction that the case's sparsity keeps, as far as that is known without their values:
/// absent for a threshold.
std::optional<double> expected_products_kept(const Case& c, const ModelConfig& config);

/// Fills cost, floor and what the model says of other degrees, of a record of suite_encoder, suite_decoder or suite_generate; what a missing ceiling cannot say
/// stays absent. `l2_bytes`: L2 size of the card, absent on a CPU. r.floor.link_gbs is the rate that links are counted at.
void fill_cost(Record& r, const ModelConfig& config, const Ceilings& ceilings,
               std::optional<double> l2_bytes);

/// The same for an operation, which knows its bytes and flops, or what ranks must tell each other: then the floor is that at
/// r.floor.link_gbs, and absent without it.
void fill_op_floor(Record& r, const OpWorkload& op, const Ceilings& ceilings);

}  // namespace tandem
