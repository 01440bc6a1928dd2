// In which form `auto` runs a decoder's step: its products by own kernels or by the library. Raced in the step itself, among the norms and
// residuals that its kernels run with. A kernel alone says little: own products slow the attention beside them, and the residual stream
// is fp32 only while all products that write it are own. The rule is here, without CUDA; kernels/runtime/forms has the stopwatch.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/plan/builder.h"

namespace tandem::kernels {

/// The kinds of products that go to the library.
using StepForm = std::vector<PhaseKind>;

/// The kinds of products that are own kernels and that the library could compute as well, in the plan's order. Products of codes and of
/// what masks remove are none of them: the library would have to make a matrix of 16 bits first.
StepForm raced_kinds(const StepPlan& plan);

/// What a race of forms depends on besides card, build and library: the sizes of the step, and all that decides which kernels it
/// runs. For the choice file and for people.
std::string step_text(const PlanRequest& request);

/// us of one step in each of the forms, timed in turns.
using TimeForms = std::function<std::vector<double>(const std::vector<StepForm>& forms)>;

struct StepForms {
  StepForm form;          ///< what the step is best off with; empty: as it is without a race
  double us = 0;          ///< of the step in that form
  double own_us = 0;      ///< with nothing switched
  double library_us = 0;  ///< with all products by the library
  bool operator==(const StepForms&) const = default;
};

/// Own kernels only, and all products by the library, which are taken if they are 2 % faster: less is within what two races of one step
/// differ by, and two builds that choose apart would look like a change of that size. Single kinds are not switched: among ten steps of 1
/// and 64 rows on an H200 none of them won (LOG.md). `suggested`: with the library's first suggestion for each product; `searched`: with
/// the best of its algorithms, which takes seconds to find and is asked for only where that could win.
StepForms race_forms(const StepForm& kinds, const TimeForms& suggested, const TimeForms& searched);

}  // namespace tandem::kernels
