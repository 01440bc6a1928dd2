// In which form `auto` runs a decoder's step: which products go to the library, whether attention is let in early, and how the
// source's keys and values lie. Raced in the step itself, among the norms and residuals that its kernels run with. A kernel alone says
// little: own products slow the attention beside them, blocks that are let in early pile up on some multiprocessors, and the residual
// stream is fp32 only while all products that write it are own. The rule is here, without CUDA; kernels/runtime/forms has the stopwatch.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/plan/builder.h"

namespace tandem::kernels {

/// The kinds of a step that are switched: a product to the library, an attention to a late start, the source's keys and values from
/// one matrix of all layers to one a layer.
using StepForm = std::vector<PhaseKind>;

/// The kinds that can be done both ways, in the plan's order: the source's keys and values where they are one matrix, products that are
/// own kernels and that the library could compute as well, and attention. Products of codes and of what masks remove are none of
/// them: the library would have to make a matrix of 16 bits first.
StepForm raced_kinds(const StepPlan& plan);

/// What a race of forms depends on besides card, build and library: the sizes of the step, and all that decides which kernels it
/// runs. For the choice file and for people.
std::string step_text(const PlanRequest& request);

/// How often a race times a form, and how many steps at once.
struct RacePace {
  int steps = 1;   ///< of a timed graph: with short ones several, whose launch would else count
  int rounds = 9;  ///< times of a form, after one that does not count
  bool operator==(const RacePace&) const = default;
};
/// What a race of `kinds` kinds may time in all, us: cases are checked by the dozen, and their checks should take seconds.
inline constexpr double kRaceUs = 4e6;
/// The pace at which a step of about `step_us` is raced within kRaceUs; none where that leaves under three rounds.
std::optional<RacePace> race_pace(size_t kinds, double step_us);

/// us of one step in each of the forms, timed in turns.
using TimeForms = std::function<std::vector<double>(const std::vector<StepForm>& forms)>;

struct StepForms {
  StepForm form;          ///< what the step is best off with; empty: as it is without a race
  double us = 0;          ///< of the step in that form
  double own_us = 0;      ///< with nothing switched
  double library_us = 0;  ///< with all products by the library
  bool operator==(const StepForms&) const = default;
};

/// Starts from own kernels only and from all products by the library, and switches each kind in both. The best of the two starts and
/// of what both end in is taken; nothing is switched unless that form is 1 % faster. So the step is at most 1 % slower than the better
/// of the two starts, by the times of one last round in turns.
StepForms race_forms(const StepForm& kinds, const TimeForms& time);

}  // namespace tandem::kernels
