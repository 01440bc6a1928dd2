// From sizes and a config of kind kWide to the cut of one launch. Plain C++: tested without a card.
#pragma once

#include <string>
#include <vector>

#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/wide/wide_map.h"

namespace tandem::kernels {

/// The config must have no wide_problem; the sizes must be supported.
WidePlan plan_wide(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

/// Empty if the config can run the problem on the card, else the reason.
std::string wide_problem(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

/// The narrowest batch that covers m rows of x.
int wide_batch(int m);

/// Every config of the narrowest batch that covers m.
std::vector<SkinnyConfig> wide_configs(const SkinnyProblem& problem, const SkinnyCard& card);

/// As estimate_us.
double estimate_wide_us(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

}  // namespace tandem::kernels
