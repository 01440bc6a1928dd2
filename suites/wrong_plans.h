// Plans that make right kernels compute what wrong ones would: each fault that the validation must refuse,
// planted in one kind of kernel, in every layer that has it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "harness/engine/plan.h"
#include "harness/model/config.h"
#include "harness/sweep/case.h"

namespace tandem {

struct WrongPlan {
  std::string name;  ///< "a dropped head, self-attention"
  /// Leaves a plan that passes check_plan: nothing outside a buffer is read or written. Where the plan has no
  /// such kernel (a plan of the encoder alone) it changes nothing.
  std::function<void(StepPlan&)> edit;
  bool in_encoder = true;     ///< the output of suite_encoder is wrong, too; that of the others always is
  bool reads_poison = false;  ///< reads memory that nobody wrote, which is NaN
};

/// An off-by-one mask, a dropped head, a wrong scale, stale keys and values, NaN.
std::vector<WrongPlan> wrong_plans();

/// Models that they are planted in: heads of 16 and of 64, for which there are different attention kernels.
std::vector<ModelConfig> wrong_plan_models();

/// A seed of weights with which both models, planned right, are well within bf16's tolerance. With some seeds
/// storing activations in bf16 alone is over it.
inline constexpr uint64_t kRightInBf16 = 10;

/// The case of `model` (a name or a file) that shows them: three sequences, so that one can read another's keys.
Case wrong_plan_case(const std::string& model, Suite suite, Precision precision);

}  // namespace tandem
