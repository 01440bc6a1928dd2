// Launching a wide kernel: what skinny.cc hands over once the arguments are checked.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/choose/skinny_plan.h"

namespace tandem::kernels {

struct WideLaunch {
  const SkinnyArgs& args;  ///< without a plan
  const SkinnyProblem& problem;
  const SkinnyConfig& config;  ///< of kind kWide, without a config_problem
  StatsArgs stats = {};        ///< with problem.stats
  bool dependent = false;
};

void launch_wide(const WideLaunch& launch, cudaStream_t stream);

/// Once for each kernel and device: allow all of the shared memory and clusters of 16, and ask for the largest share of
/// shared memory. One setting for all kernels of a chain, because a multiprocessor must drain before its split between L1
/// and shared memory changes, and the next kernel's early start would wait for that.
void prepare_kernel(const void* function, const SkinnyCard& card);

}  // namespace tandem::kernels
