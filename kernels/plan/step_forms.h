// Which products of a decoder's step `auto` gives to the library: raced in the step itself, among the attention, norms and
// residuals that they run with. A kernel alone says little: own products slow the attention beside them, and the residual stream
// is fp32 only while all products that write it are own. The rule is here, without CUDA; kernels/runtime has the stopwatch.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/plan/builder.h"

namespace tandem::kernels {

/// Kinds of product that a form of the step gives to the library.
using StepForm = std::vector<PhaseKind>;

/// The kinds of product of the step that are own kernels and that the library could compute as well, in the plan's order.
/// Products of codes and of what masks remove are none of them: the library would have to make a matrix of 16 bits first.
StepForm raced_kinds(const StepPlan& plan);

/// What a race of forms depends on besides card, build and library: the sizes of the step. For the choice file and for people.
std::string step_text(const PlanRequest& request);

/// us of one step in each of the forms, timed in turns.
using TimeForms = std::function<std::vector<double>(const std::vector<StepForm>& forms)>;

struct StepForms {
  StepForm library;       ///< what the step is best off with; empty: own kernels only
  double us = 0;          ///< of the step in that form
  double own_us = 0;      ///< with own kernels only
  double library_us = 0;  ///< with every raced kind by the library
  bool operator==(const StepForms&) const = default;
};

/// Starts from own kernels only and from the library only, and switches each kind in both. The best of the two starts and of
/// what both ends come to is taken; own kernels only, unless another form is 1 % faster. So the step is at most 1 % slower than the
/// better of the two starts, by the times of one last round in turns.
StepForms race_forms(const StepForm& kinds, const TimeForms& time);

}  // namespace tandem::kernels
